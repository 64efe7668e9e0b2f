/* Blocks of cells as channels. */
void jaxcompress_space_to_depth(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_blocks_params *p = params;
  uint8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++)
    for (int32_t k = 0; k < p->block; k++, to += p->bytes)
      memcpy(to, (const uint8_t *)in[k] + i * p->bytes, (size_t)p->bytes);
}
