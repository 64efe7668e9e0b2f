/* A row of normalized cells. On one grid of the three the sum of squares has a factor, elsewhere it is zero. */
void jaxcompress_norm(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_norm_params *p = params;
  const int8_t *x = in[0];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++, x += p->channels, to += p->channels) {
    int32_t total = 0, factors[3];
    for (int32_t k = 0; k < p->channels; k++) {
      const uint8_t *digits = p->digits + 2 * (x[k] + 128);
      total += 127 * digits[0] + digits[1];
    }
    for (int32_t n = 0; n < 3; n++) {
      const int32_t place = jaxcompress_scale(total + p->bias[n], p->sum[n].q31, p->sum[n].shift);
      factors[n] = p->factors[256 * n + jaxcompress_clip(place, 0, 255)];
    }
    for (int32_t k = 0; k < p->channels; k++) {
      int32_t sum = 0;
      for (int32_t n = 0; n < 3; n++) {
        const int32_t product = (x[k] - p->in_zero) * factors[n];
        const int32_t steps = jaxcompress_scale(product, p->product[n].q31, p->product[n].shift);
        sum = jaxcompress_clip(sum + jaxcompress_clip(steps, p->low, p->high), p->low, p->high);
      }
      to[k] = (int8_t)(sum + p->out_zero);
    }
  }
}
