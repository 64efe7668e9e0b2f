/* A row of the blocks that the channels of cells hold. */
void jaxcompress_depth_to_space(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_blocks_params *p = params;
  const uint8_t *x = (const uint8_t *)in[0] + y % p->block * p->bytes;
  uint8_t *to = out[0];
  (void)scratch;
  for (int32_t i = 0; i < p->width; i++) memcpy(to + i * p->bytes, x + i * p->block * p->bytes, (size_t)p->bytes);
}
