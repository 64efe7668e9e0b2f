#include "cell_int4.c"

/* A row of a convolution whose weights have 4 bits. */
void jaxcompress_convolution_int4(const void *params, const void *const *in, void *const *out, void *scratch,
                                  int32_t y) {
  const struct jaxcompress_convolution_params *p = params;
  const int32_t each = p->out_channels / p->groups;
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t x = 0; x < p->out_width; x++)
    for (int32_t group = 0; group < p->groups; group++, to += each)
      jaxcompress_cell_int4(p, in, x * p->stride - p->left, group, group * each, (group + 1) * each, to);
}
