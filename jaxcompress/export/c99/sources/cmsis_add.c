#include "cmsis.c"
#ifdef JAXCOMPRESS_CMSIS_NN

/* Whether it computed the sum of two rows of int8. */
static int32_t jaxcompress_cmsis_add(const struct jaxcompress_pair_params *p, const void *const *in, void *out) {
  if (p->left_channel != 1 || p->right_channel != 1) return 0;
  if (p->width > 1 && (p->left_column != p->channels || p->right_column != p->channels)) return 0;
  return arm_elementwise_add_s8(in[0], in[1], -p->left_zero, p->left.q31, p->left.shift, -p->right_zero, p->right.q31,
                                p->right.shift, p->bits, out, p->out_zero, p->total.q31, p->total.shift, p->low,
                                p->high, p->width * p->channels) == ARM_CMSIS_NN_SUCCESS;
}
#endif
