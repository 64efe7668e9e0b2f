/* A row of cells between those of two rows, halves away from zero. */
void jaxcompress_bilinear(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_bilinear_params *p = params;
  const int32_t below = p->row_share[y], above = 1024 - below, half = (int32_t)1 << 19;
  int8_t *to = out[0];
  (void)scratch;
  for (int32_t i = 0; i < p->width; i++, to += p->channels) {
    const int32_t right = p->column_share[i], left = 1024 - right;
    const int8_t *a = (const int8_t *)in[0] + p->first[i] * p->channels;
    const int8_t *b = (const int8_t *)in[0] + p->second[i] * p->channels;
    const int8_t *c = (const int8_t *)in[1] + p->first[i] * p->channels;
    const int8_t *d = (const int8_t *)in[1] + p->second[i] * p->channels;
    for (int32_t k = 0; k < p->channels; k++) {
      const int32_t sum = (a[k] * left + b[k] * right) * above + (c[k] * left + d[k] * right) * below;
      const int32_t code = sum < 0 ? -((half - sum) >> 20) : (half + sum) >> 20;
      to[k] = (int8_t)jaxcompress_clip(code, p->low, p->high);
    }
  }
}
