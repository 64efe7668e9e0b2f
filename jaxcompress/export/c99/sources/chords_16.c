/* A row of a function that chords give. */
void jaxcompress_chords_16(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_chords_params *p = params;
  const int16_t *codes = in[0];
  int16_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->count; i++) {
    const int32_t half = (int32_t)(((uint32_t)1 << p->right) >> 1);
    const int32_t x = (codes[i] * p->factor + half) >> p->right, far = x < 0 ? -x : x;
    const int32_t whole = far >> p->exponent, part = far & (((int32_t)1 << p->exponent) - 1);
    int32_t v = p->most;
    if (whole < 255)
      v = p->knots[whole] * ((int32_t)1 << p->exponent) + part * (p->knots[whole + 1] - p->knots[whole]);
    v = (x < 0 ? p->below - v : p->above + v) >> p->shift;
    to[i] = (int16_t)jaxcompress_clip(v, INT16_MIN, INT16_MAX);
  }
}
