/* A pool; cells of padding are left out. */
struct jaxcompress_pool_params {
  int32_t in_width, out_width, channels;
  int32_t kernel_height, kernel_width;
  int32_t stride, left; /* along the width */
  int32_t low, high; /* codes */
};
