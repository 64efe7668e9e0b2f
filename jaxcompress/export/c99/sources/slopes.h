/* A change of the grid, with another factor below zero. */
struct jaxcompress_slopes_params {
  int32_t count;
  int32_t in_zero, out_zero, low, high; /* low and high are codes */
  struct jaxcompress_factor above, below;
};
