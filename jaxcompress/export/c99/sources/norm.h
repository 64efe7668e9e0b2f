/* Channels of each cell divided by their root mean square. */
struct jaxcompress_norm_params {
  int32_t width, channels;
  int32_t in_zero, out_zero, low, high; /* low and high are numbers of steps */
  const uint8_t *digits; /* squares of codes, the lowest first, as 127 * first + second */
  const uint8_t *factors; /* reciprocal roots by sums of squares, 256 on each of three grids */
  int32_t bias[3];
  struct jaxcompress_factor sum[3], product[3];
};
