/* Bytes that are copied. */
struct jaxcompress_copy_params {
  int32_t bytes;
};
