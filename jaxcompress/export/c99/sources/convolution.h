/* A convolution with weights (outputs, height, width, depth), or a linear layer: one of a single cell. */
struct jaxcompress_convolution_params {
  int32_t in_width, in_channels;
  int32_t out_width, out_channels;
  int32_t kernel_height, kernel_width;
  int32_t stride, left, dilation; /* along the width */
  int32_t groups;
  int32_t in_zero, out_zero, low, high; /* low and high are codes */
  const int8_t *weights;
  const int32_t *bias; /* without in_zero times the sum of the weights */
  const int32_t *q31;
  const int8_t *shift;
};
