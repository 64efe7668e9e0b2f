#include "cmsis.c"
#ifdef JAXCOMPRESS_CMSIS_NN

/* Computes the columns of a row from one up to another, where it can; otherwise both are the same. */
static void jaxcompress_cmsis_depthwise(const struct jaxcompress_depthwise_params *p, const void *const *in,
                                        int8_t *out, int32_t *from, int32_t *end) {
  cmsis_nn_dw_conv_params how = {0, 0, 1, {0, 0}, {0, 0}, {1, 1}, {0, 0}};
  cmsis_nn_per_channel_quant_params scales;
  cmsis_nn_dims source, kernel, bias, output;
  cmsis_nn_context rest;
  const int8_t *x;
  jaxcompress_cmsis_inside(p->left, p->stride, p->kernel_width, p->in_width, p->out_width, from, end);
  if (*end <= *from || p->dilation != 1 ||
      !jaxcompress_cmsis_joined(in, p->kernel_height, p->in_width * p->channels)) {
    *end = *from;
    return;
  }
  x = (const int8_t *)in[0] + (*from * p->stride - p->left) * p->channels;
  source = (cmsis_nn_dims){1, p->kernel_height, p->in_width, p->channels};
  kernel = (cmsis_nn_dims){1, p->kernel_height, p->kernel_width, p->channels};
  bias = (cmsis_nn_dims){1, 1, 1, p->channels};
  output = (cmsis_nn_dims){1, 1, *end - *from, p->channels};
  how.output_offset = p->out_zero;
  how.stride.w = p->stride;
  how.stride.h = 1;
  how.activation.min = p->low;
  how.activation.max = p->high;
  scales.multiplier = (int32_t *)(uintptr_t)p->q31;
  scales.shift = jaxcompress_cmsis_shifts(
      p->shift, p->channels, arm_depthwise_conv_wrapper_s8_get_buffer_size(&how, &source, &kernel, &output), &rest);
  if (scales.shift == NULL ||
      arm_depthwise_conv_wrapper_s8(&rest, &how, &scales, &source, x, &kernel, p->weights, &bias, p->bias, &output,
                                    out + *from * p->channels) != ARM_CMSIS_NN_SUCCESS)
    *end = *from;
}
#endif
