/* Cells as bytes, which are put together of parts, or taken apart. */
struct jaxcompress_parts_params {
  int32_t width, count;
  const int32_t *bytes; /* of each part of a cell */
};
