/* Probabilities of the channels of each cell, of 16-bit integers. */
struct jaxcompress_softmax_16_params {
  int32_t width, channels;
  struct jaxcompress_factor factor; /* of how far a code is below the highest, to places of powers */
  const int16_t *powers, *reciprocals; /* 513 numbers that chords lie between */
};
