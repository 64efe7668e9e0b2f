/* The product of a row and a matrix. */
void jaxcompress_product(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_product_params *p = params;
  const int8_t *left = in[0], *right = in[1];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t j = 0; j < p->columns; j++, right += p->right) {
    int32_t sum = 0;
    for (int32_t i = 0; i < p->depth; i++) sum += (left[i] - p->left_zero) * (right[i * p->down] - p->right_zero);
    to[j] = (int8_t)jaxcompress_clip(jaxcompress_scale(sum, p->factor.q31, p->factor.shift) + p->out_zero, p->low, p->high);
  }
}
