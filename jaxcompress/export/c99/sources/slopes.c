/* A row scaled, by another factor below zero. */
void jaxcompress_slopes(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_slopes_params *p = params;
  const int8_t *x = in[0];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->count; i++) {
    const int32_t v = x[i] - p->in_zero;
    const struct jaxcompress_factor *factor = v < 0 ? &p->below : &p->above;
    to[i] = (int8_t)jaxcompress_clip(jaxcompress_scale(v, factor->q31, factor->shift) + p->out_zero, p->low, p->high);
  }
}
