/* A function of 16-bit integers, symmetric about zero, by chords between 256 numbers. */
struct jaxcompress_chords_params {
  int32_t count;
  int32_t factor, right; /* from codes to places: times the factor, then by so many bits to the right */
  int32_t exponent; /* there are 2**exponent places from one number to the next */
  int32_t most; /* beyond the last number */
  int32_t above, below; /* added to what is not negative, and less of it what is below zero */
  int32_t shift; /* of the result to the right */
  const uint16_t *knots;
};
