/* Cells that are chosen. */
struct jaxcompress_cells_params {
  int32_t width, channels;
  int32_t fill; /* the code of those that are none of the row's */
  const int16_t *columns; /* the place of each, -1 of none */
};
