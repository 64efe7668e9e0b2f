#include "cell.c"
#include "cmsis_convolution.c"

/* A row of a convolution. */
void jaxcompress_convolution(const void *params, const void *const *in, void *const *out, void *scratch,
                             int32_t y) {
  const struct jaxcompress_convolution_params *p = params;
  const int32_t each = p->out_channels / p->groups;
  int8_t *to = out[0];
  int32_t from = 0, end = 0; /* columns that are computed already */
  (void)scratch;
  (void)y;
#ifdef JAXCOMPRESS_CMSIS_NN
  jaxcompress_cmsis_convolution(p, in, to, &from, &end);
#endif
  for (int32_t x = 0; x < p->out_width; x++) {
    if (x >= from && x < end) {
      to += p->out_channels;
      continue;
    }
    for (int32_t group = 0; group < p->groups; group++, to += each)
      jaxcompress_cell(p, in, x * p->stride - p->left, group, group * each, (group + 1) * each, to);
  }
}
