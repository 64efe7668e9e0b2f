/* The largest code of each cell. */
void jaxcompress_channel_max(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_channels_params *p = params;
  const int8_t *x = in[0];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++, x += p->channels) {
    int8_t most = x[0];
    for (int32_t k = 1; k < p->channels; k++) most = x[k] > most ? x[k] : most;
    to[i] = most;
  }
}
