/* A row of a matrix product of two activations. */
struct jaxcompress_product_params {
  int32_t depth, columns; /* products that are added up, and numbers of the result */
  int32_t down, right; /* steps in the second matrix from one product to the next, and from one column */
  int32_t left_zero, right_zero, out_zero, low, high; /* low and high are codes */
  struct jaxcompress_factor factor;
};
