/* The first channels of all groups, then their second ones, and so on. */
void jaxcompress_shuffle(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_shuffle_params *p = params;
  const int8_t *x = in[0];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t i = 0; i < p->width; i++, x += p->groups * p->each)
    for (int32_t k = 0; k < p->each; k++)
      for (int32_t group = 0; group < p->groups; group++) *to++ = x[group * p->each + k];
}
