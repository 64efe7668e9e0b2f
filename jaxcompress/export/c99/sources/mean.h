/* The mean of all rows and columns. */
struct jaxcompress_mean_params {
  int32_t height, width, channels;
  int32_t in_zero, out_zero, low, high; /* low and high are codes */
  struct jaxcompress_factor factor; /* of sums over all cells */
};
