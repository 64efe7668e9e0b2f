/* Cells put together of those of all inputs. */
void jaxcompress_concat(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_parts_params *p = params;
  uint8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++) {
    for (int32_t k = 0; k < p->count; k++) {
      memcpy(to, (const uint8_t *)in[k] + i * p->bytes[k], (size_t)p->bytes[k]);
      to += p->bytes[k];
    }
  }
}
