#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Integers are shifted to the right as two's complement by every compiler that is known. */
typedef char jaxcompress_shifts_are_arithmetic[(-1 >> 1) == -1 ? 1 : -1];

/* A real factor q31 * 2**(shift - 31). */
struct jaxcompress_factor {
  int32_t q31;
  int32_t shift;
};

/* (v * 2**left * q31 + 2**30) >> 31, then divided by 2**right, halves away from zero. */
static inline int32_t jaxcompress_scale(int32_t v, int32_t q31, int32_t shift) {
  const int32_t right = shift < 0 ? -shift : 0;
  const int32_t mask = (int32_t)(((uint32_t)1 << right) - 1);
  int32_t high;
  if (shift > 0) v *= (int32_t)1 << shift;
  high = (int32_t)(((int64_t)v * q31 + ((int32_t)1 << 30)) >> 31);
  return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}

static inline int32_t jaxcompress_clip(int32_t v, int32_t low, int32_t high) {
  return v < low ? low : v > high ? high : v;
}

/* The sum of two numbers, of which one may lie beyond int32 where the sum does not. */
static inline int32_t jaxcompress_sum(int32_t a, int32_t b) {
  return (int32_t)((uint32_t)a + (uint32_t)b);
}

/* The code of a sum that is scaled. */
static inline int8_t jaxcompress_code(int32_t sum, int32_t q31, int32_t shift, int32_t zero, int32_t low,
                                      int32_t high) {
  return (int8_t)jaxcompress_clip(jaxcompress_scale(sum, q31, shift) + zero, low, high);
}
