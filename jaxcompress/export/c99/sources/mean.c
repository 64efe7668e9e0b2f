/* A fold: adds the cells of row y up, and after the last row scales the sums. */
void jaxcompress_mean(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_mean_params *p = params;
  const int8_t *x = in[0];
  int32_t *sums = scratch;
  if (y == 0)
    for (int32_t k = 0; k < p->channels; k++) sums[k] = 0;
  for (int32_t i = 0; i < p->width; i++, x += p->channels)
    for (int32_t k = 0; k < p->channels; k++) sums[k] += x[k] - p->in_zero;
  if (y == p->height - 1) {
    int8_t *to = out[0];
    for (int32_t k = 0; k < p->channels; k++) {
      const int32_t code = jaxcompress_scale(sums[k], p->factor.q31, p->factor.shift) + p->out_zero;
      to[k] = (int8_t)jaxcompress_clip(code, p->low, p->high);
    }
  }
}
