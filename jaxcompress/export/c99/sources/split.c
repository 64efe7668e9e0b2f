/* Cells taken apart into those of all outputs; what nobody reads has no place. */
void jaxcompress_split(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_parts_params *p = params;
  const uint8_t *x = in[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++) {
    for (int32_t k = 0; k < p->count; k++) {
      if (out[k] != NULL) memcpy((uint8_t *)out[k] + i * p->bytes[k], x, (size_t)p->bytes[k]);
      x += p->bytes[k];
    }
  }
}
