/* Blocks of cells, as bytes. */
struct jaxcompress_blocks_params {
  int32_t width, block; /* blocks in a row, and cells along each side of one */
  int32_t bytes; /* of a row of a block */
};
