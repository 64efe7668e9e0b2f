/* (a * b + 2**30) >> 31 */
static int32_t jaxcompress_high(int32_t a, int32_t b) {
  return (int32_t)(((int64_t)a * b + ((int32_t)1 << 30)) >> 31);
}

static int32_t jaxcompress_divide(int32_t v, int32_t exponent) {
  const int32_t mask = (int32_t)(((uint32_t)1 << exponent) - 1);
  return (v >> exponent) + ((v & mask) > (mask >> 1) + (v < 0));
}

/* A row of probabilities: exponentials times the reciprocal of their sum, by three of Newton's steps. */
void jaxcompress_softmax(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_softmax_params *p = params;
  const int8_t *x = in[0];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++, x += p->channels, to += p->channels) {
    int32_t most = x[0], total = 0, zeros = 0, half, r;
    for (int32_t k = 1; k < p->channels; k++) most = x[k] > most ? x[k] : most;
    for (int32_t k = 0; k < p->channels; k++) total += jaxcompress_divide(p->table[most - x[k]], 12);
    while ((((uint32_t)total << zeros) & 0x80000000u) == 0) zeros++;
    half = (int32_t)((((uint32_t)total << zeros) & 0x7FFFFFFFu) >> 1) + ((int32_t)1 << 30);
    r = 1515870810 + jaxcompress_high(-1010580540, half);
    for (int32_t k = 0; k < 3; k++)
      r += jaxcompress_high(((int32_t)1 << 29) - jaxcompress_high(half, r), r) * 4;
    r = r >= (int32_t)1 << 30 ? INT32_MAX : r * 2;
    for (int32_t k = 0; k < p->channels; k++) {
      const int32_t v = jaxcompress_high(p->table[most - x[k]], r);
      to[k] = (int8_t)(jaxcompress_clip(jaxcompress_divide(v, 35 - zeros), 0, p->high) + p->out_zero);
    }
  }
}
