/* (v * multiplier + half) >> shift. */
static int32_t jaxcompress_scale_16(int64_t v, int32_t multiplier, int32_t shift) {
  return (int32_t)((v * multiplier + ((int64_t)1 << (shift - 1))) >> shift);
}
