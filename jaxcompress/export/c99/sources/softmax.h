/* Probabilities of the channels of each cell. */
struct jaxcompress_softmax_params {
  int32_t width, channels;
  int32_t out_zero, high; /* high is a number of steps */
  const int32_t *table; /* exponentials by how far a code is below the highest */
};
