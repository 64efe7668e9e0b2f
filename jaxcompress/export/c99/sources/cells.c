/* Chosen cells of a row, or those that surround a map. */
void jaxcompress_cells(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_cells_params *p = params;
  const int8_t *x = in[0];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++, to += p->channels) {
    if (x != NULL && p->columns[i] >= 0)
      memcpy(to, x + p->columns[i] * p->channels, (size_t)p->channels * sizeof(int8_t));
    else
      for (int32_t k = 0; k < p->channels; k++) to[k] = (int8_t)p->fill;
  }
}
