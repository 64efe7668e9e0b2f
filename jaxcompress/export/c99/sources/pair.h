/* Two rows, value by value; an axis of one cell, or channel, meets all of the other's. */
struct jaxcompress_pair_params {
  int32_t width, channels;
  int32_t left_column, left_channel, right_column, right_channel; /* steps from one to the next */
  int32_t left_zero, right_zero, out_zero, low, high; /* low and high are codes */
  int32_t bits; /* by which the inputs of a sum are shifted */
  struct jaxcompress_factor left, right, total; /* of the inputs of a sum, and of what comes out */
};
