/* Channels of each cell, as many groups of them. */
struct jaxcompress_shuffle_params {
  int32_t width, groups, each;
};
