#include "cell_16.c"

/* A row of a convolution of 16-bit integers. */
void jaxcompress_convolution_16(const void *params, const void *const *in, void *const *out, void *scratch,
                                int32_t y) {
  const struct jaxcompress_convolution_16_params *p = params;
  const int32_t each = p->out_channels / p->groups;
  int16_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t x = 0; x < p->out_width; x++)
    for (int32_t group = 0; group < p->groups; group++, to += each)
      jaxcompress_cell_16(p, in, x * p->stride - p->left, group, group * each, (group + 1) * each, to);
}
