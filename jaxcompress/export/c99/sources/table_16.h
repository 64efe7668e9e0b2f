/* 16-bit codes of the output by those of the input, the lowest first. */
struct jaxcompress_table_16_params {
  int32_t count;
  const int16_t *table;
};
