/* As convolution, of 16-bit integers, whose zero is zero; sums are scaled by multiplier / 2**shift. */
struct jaxcompress_convolution_16_params {
  int32_t in_width, in_channels;
  int32_t out_width, out_channels;
  int32_t kernel_height, kernel_width;
  int32_t stride, left, dilation; /* along the width */
  int32_t groups;
  int32_t low, high; /* codes */
  const int8_t *weights;
  const int64_t *bias;
  const int16_t *multiplier;
  const int8_t *shift;
};
