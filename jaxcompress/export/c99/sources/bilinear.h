/* Cells between four others, with shares of 1024. */
struct jaxcompress_bilinear_params {
  int32_t width, channels;
  int32_t low, high; /* codes */
  const int16_t *first, *second; /* places of columns */
  const int16_t *column_share, *row_share; /* of the second ones */
};
