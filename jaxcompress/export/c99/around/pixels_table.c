
static const @type@ codes_of_pixels[@sizes@] = {
@codes@
};

void @name@_read_pixels(const uint8_t *pixels) {
  @type@ *codes = @input@;
  int32_t i;
  for (i = 0; i < @count@; i++) codes[i] = codes_of_pixels[@place@];
}
