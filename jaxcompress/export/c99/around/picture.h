#ifndef @NAME@_PICTURE_H
#define @NAME@_PICTURE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define @NAME@_ROWS @rows@
#define @NAME@_COLUMNS @columns@
#define @NAME@_CHANNELS @channels@
@declarations@
#ifdef __cplusplus
}
#endif

#endif
