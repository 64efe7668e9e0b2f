#include "cmsis.c"
#ifdef JAXCOMPRESS_CMSIS_NN

/* Whether it computed a row of a pool of int8: the largest codes, or their means. */
static int32_t jaxcompress_cmsis_pool(const struct jaxcompress_pool_params *p, const void *const *in, void *out,
                                      int32_t largest) {
  const cmsis_nn_pool_params how = {{p->stride, 1}, {p->left, 0}, {p->low, p->high}};
  const cmsis_nn_dims source = {1, p->kernel_height, p->in_width, p->channels};
  const cmsis_nn_dims kernel = {1, p->kernel_height, p->kernel_width, 1};
  const cmsis_nn_dims output = {1, 1, p->out_width, p->channels};
  const int32_t needed = arm_avgpool_s8_get_buffer_size(p->out_width, p->channels);
  cmsis_nn_context rest;
  if (p->left < 0 || !jaxcompress_cmsis_joined(in, p->kernel_height, p->in_width * p->channels)) return 0;
  if (jaxcompress_cmsis_shifts(NULL, 0, largest ? 0 : needed, &rest) == NULL) return 0;
  return (largest ? arm_max_pool_s8(&rest, &how, &source, in[0], &kernel, &output, out)
                  : arm_avgpool_s8(&rest, &how, &source, in[0], &kernel, &output, out)) == ARM_CMSIS_NN_SUCCESS;
}
#endif
