
static const float center[@channels@] = {@center@}, scale[@channels@] = {@scale@};

static float value_of(uint8_t pixel, int32_t channel) {
  return ((float)pixel - center[channel]) / scale[channel];
}

/* The nearest step of the input's grid, halves away from zero. */
static @type@ code_of(float value) {
  const float low = @low@.0f, high = @high@.0f;
  const float steps = value / @step@;
  float whole;
  if (steps <= low) return (@type@)(@low@ + @zero_point@);
  if (steps >= high) return (@type@)(@high@ + @zero_point@);
  whole = (float)(int32_t)steps;
  if (steps - whole >= 0.5f) {
    whole += 1.0f;
  } else if (whole - steps >= 0.5f) {
    whole -= 1.0f;
  }
  return (@type@)((int32_t)whole + @zero_point@);
}

/* Every image is brought to zero mean in each channel and to similar contrast. */
void @name@_read_pixels(const uint8_t *pixels) {
  @type@ *codes = @input@;
  float mean[@channels@], divisor;
  double squares = 0;
  int32_t i, c;
  for (c = 0; c < @channels@; c++) {
    double sum = 0;
    for (i = c; i < @count@; i += @channels@) sum += value_of(pixels[i], c);
    mean[c] = (float)(sum / @cells@);
    for (i = c; i < @count@; i += @channels@) {
      const float moved = value_of(pixels[i], c) - mean[c];
      const float square = moved * moved;
      squares += square;
    }
  }
  divisor = (float)(sqrt(squares / @count@) + @epsilon@);
  for (c = 0; c < @channels@; c++)
    for (i = c; i < @count@; i += @channels@)
      codes[i] = code_of((value_of(pixels[i], c) - mean[c]) / divisor);
}
