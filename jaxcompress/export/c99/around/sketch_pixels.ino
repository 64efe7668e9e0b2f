  // @rows@ rows of @columns@ pixels@colours@, 0 to 255, from the top left
  uint8_t *pixels = @buffer@;
  for (int32_t i = 0; i < @count@; i++) pixels[i] = 128;  // in place of a camera
  @name@_read_pixels(pixels);
