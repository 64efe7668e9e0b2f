
void @name@_read_pixels(const uint8_t *pixels) {
  int8_t *codes = @input@;
  int32_t i;
  for (i = 0; i < @count@; i++) codes[i] = (int8_t)(pixels[i] - 128);
}
