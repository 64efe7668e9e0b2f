#ifndef @NAME@_CHECK_H
#define @NAME@_CHECK_H

#ifdef __cplusplus
extern "C" {
#endif

/* Whether this processor computes, for @images@ images of noise, the integers of exact evaluation: 1, or 0.
 * It writes to the input and runs the network. */
int @name@_check(void);

#ifdef __cplusplus
}
#endif

#endif
