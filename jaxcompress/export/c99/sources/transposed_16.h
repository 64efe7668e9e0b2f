#include "convolution_16.h"

/* As transposed, of 16-bit integers: ordinary ones, whose outputs take turns. */
struct jaxcompress_transposed_16_params {
  struct jaxcompress_convolution_16_params phase; /* of which there are down * right, one behind the other */
  int32_t down, right; /* phases along each axis */
  int32_t top, crop; /* rows and columns that are left out at the start */
};
