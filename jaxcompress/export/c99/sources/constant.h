/* An array that flash holds, row by row. */
struct jaxcompress_constant_params {
  int32_t bytes; /* of a row */
  const void *rows;
};
