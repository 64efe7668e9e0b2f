#include "cmsis_add.c"

/* The sum of two rows. */
void jaxcompress_add(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_pair_params *p = params;
  const int8_t *left = in[0], *right = in[1];
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
#ifdef JAXCOMPRESS_CMSIS_NN
  if (sizeof(int8_t) == 1 && jaxcompress_cmsis_add(p, in, to)) return;
#endif
  for (int32_t i = 0; i < p->width; i++, left += p->left_column, right += p->right_column) {
    for (int32_t k = 0; k < p->channels; k++) {
      const int32_t a = left[k * p->left_channel] - p->left_zero;
      const int32_t b = right[k * p->right_channel] - p->right_zero;
      const int32_t one = (int32_t)1 << p->bits;
      const int32_t v = jaxcompress_scale(a * one, p->left.q31, p->left.shift) +
                        jaxcompress_scale(b * one, p->right.q31, p->right.shift);
      const int32_t code = jaxcompress_scale(v, p->total.q31, p->total.shift) + p->out_zero;
      *to++ = (int8_t)jaxcompress_clip(code, p->low, p->high);
    }
  }
}
