/* A row of an array that flash holds. */
void jaxcompress_constant(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_constant_params *p = params;
  (void)in;
  (void)scratch;
  memcpy(out[0], (const uint8_t *)p->rows + y * p->bytes, (size_t)p->bytes);
}
