#include "wide_scale.c"

#define JAXCOMPRESS_MOST_PRODUCTS 511 /* of 16 and 8 bits, whose sum int32 holds */

static int64_t jaxcompress_dot_16(const int16_t *x, const int8_t *w, int32_t count) {
  int64_t sum = 0;
  while (count > 0) {
    const int32_t part = count < JAXCOMPRESS_MOST_PRODUCTS ? count : JAXCOMPRESS_MOST_PRODUCTS;
    int32_t a = 0;
    for (int32_t i = 0; i < part; i++) a += x[i] * w[i];
    sum += a;
    x += part;
    w += part;
    count -= part;
  }
  return sum;
}
