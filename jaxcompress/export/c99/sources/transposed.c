#include "cell.c"

/* A row of a transposed convolution. */
void jaxcompress_transposed(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_transposed_params *p = params;
  struct jaxcompress_convolution_params phase = p->phase;
  const int32_t count = phase.out_channels, first = (y + p->top) % p->down * p->right;
  const int32_t pitch = count * phase.kernel_height * phase.kernel_width * phase.in_channels;
  int8_t *to = out[0];
  (void)scratch;
  for (int32_t x = 0; x < phase.out_width; x++, to += count) {
    const int32_t column = x + p->crop, i = first + column % p->right;
    phase.weights = p->phase.weights + i * pitch;
    phase.bias = p->phase.bias + i * count;
    phase.q31 = p->phase.q31 + i * count;
    phase.shift = p->phase.shift + i * count;
    jaxcompress_cell(&phase, in, column / p->right - phase.left, 0, 0, count, to);
  }
}
