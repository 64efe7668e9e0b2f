/* The sum of each number with a constant. */
void jaxcompress_shift(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_shift_params *p = params;
  const int8_t *x = in[0];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->count; i++) {
    const int32_t a = (x[i] - p->in_zero) * ((int32_t)1 << p->bits);
    const int32_t v = jaxcompress_scale(a, p->left.q31, p->left.shift) + p->constant;
    const int32_t code = jaxcompress_scale(v, p->total.q31, p->total.shift) + p->out_zero;
    to[i] = (int8_t)jaxcompress_clip(code, p->low, p->high);
  }
}
