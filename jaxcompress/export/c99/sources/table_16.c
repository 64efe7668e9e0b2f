/* Looks 16-bit codes up. */
void jaxcompress_table_16(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_table_16_params *p = params;
  const int8_t *x = in[0];
  int16_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->count; i++) to[i] = p->table[x[i] + 128];
}
