/* Codes of the output by those of the input, the lowest first. */
struct jaxcompress_table_params {
  int32_t count;
  const int8_t *table;
};
