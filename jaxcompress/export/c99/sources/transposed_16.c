#include "cell_16.c"

/* A row of a transposed convolution of 16-bit integers. */
void jaxcompress_transposed_16(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_transposed_16_params *p = params;
  struct jaxcompress_convolution_16_params phase = p->phase;
  const int32_t count = phase.out_channels, first = (y + p->top) % p->down * p->right;
  const int32_t pitch = count * phase.kernel_height * phase.kernel_width * phase.in_channels;
  int16_t *to = out[0];
  (void)scratch;
  for (int32_t x = 0; x < phase.out_width; x++, to += count) {
    const int32_t column = x + p->crop, i = first + column % p->right;
    phase.weights = p->phase.weights + i * pitch;
    phase.bias = p->phase.bias + i * count;
    phase.multiplier = p->phase.multiplier + i * count;
    phase.shift = p->phase.shift + i * count;
    jaxcompress_cell_16(&phase, in, column / p->right - phase.left, 0, 0, count, to);
  }
}
