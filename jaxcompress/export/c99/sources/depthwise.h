/* A depthwise convolution with weights (height, width, channels). */
struct jaxcompress_depthwise_params {
  int32_t in_width, out_width, channels;
  int32_t kernel_height, kernel_width;
  int32_t stride, left, dilation; /* along the width */
  int32_t in_zero, out_zero, low, high; /* low and high are codes */
  const int8_t *weights;
  const int32_t *bias; /* without in_zero times the sum of the weights */
  const int32_t *q31;
  const int8_t *shift;
};
