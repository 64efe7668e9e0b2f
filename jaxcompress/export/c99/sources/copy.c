/* Copies what has another shape in the same order. */
void jaxcompress_copy(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_copy_params *p = params;
  (void)scratch;
  (void)y;
  if (in[0] != out[0]) memcpy(out[0], in[0], (size_t)p->bytes);
}
