/* The sum with a constant. */
struct jaxcompress_shift_params {
  int32_t count;
  int32_t in_zero, out_zero, low, high; /* low and high are codes */
  int32_t bits; /* by which the input is shifted */
  int32_t constant; /* scaled */
  struct jaxcompress_factor left, total;
};
