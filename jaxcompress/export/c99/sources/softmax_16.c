/* A chord of a function that is known at every 128th of 65536 places. */
static int32_t jaxcompress_chord(const int16_t *knots, int32_t place) {
  const int32_t one = knots[place >> 7], other = knots[(place >> 7) + 1];
  return one + (((other - one) * (place & 127) + 64) >> 7);
}

static int32_t jaxcompress_power(const struct jaxcompress_softmax_16_params *p, int32_t below) {
  const int32_t place = jaxcompress_scale(-below, p->factor.q31, p->factor.shift) + 65535;
  return jaxcompress_chord(p->powers, jaxcompress_clip(place, 0, 65535));
}

/* A row of probabilities of 16-bit integers. */
void jaxcompress_softmax_16(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_softmax_16_params *p = params;
  const int16_t *x = in[0];
  int16_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++, x += p->channels, to += p->channels) {
    int32_t most = x[0], total = 0, zeros = 0, rest, reciprocal, shift;
    for (int32_t k = 1; k < p->channels; k++) most = x[k] > most ? x[k] : most;
    for (int32_t k = 0; k < p->channels; k++) total += jaxcompress_power(p, most - x[k]);
    while ((((uint32_t)total << zeros) & 0x80000000u) == 0) zeros++;
    rest = ((int32_t)(((uint32_t)total << (zeros - 1)) >> 13) + 1) >> 1;
    reciprocal = jaxcompress_chord(p->reciprocals, jaxcompress_clip(rest - 65536, 0, 65535));
    shift = 31 - zeros;
    for (int32_t k = 0; k < p->channels; k++) {
      const int32_t v = jaxcompress_power(p, most - x[k]) * reciprocal;
      to[k] = (int16_t)jaxcompress_clip((v + ((int32_t)1 << (shift - 1))) >> shift, 0, INT16_MAX);
    }
  }
}
