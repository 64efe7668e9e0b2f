#include "convolution.h"

/* A transposed convolution: ordinary ones, of the same shape, whose outputs take turns. */
struct jaxcompress_transposed_params {
  struct jaxcompress_convolution_params phase; /* of which there are down * right, one behind the other */
  int32_t down, right; /* phases along each axis */
  int32_t top, crop; /* rows and columns that are left out at the start */
};
