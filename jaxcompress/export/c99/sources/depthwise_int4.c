/* A row of a depthwise convolution whose weights have 4 bits, two channels in a byte. */
void jaxcompress_depthwise_int4(const void *params, const void *const *in, void *const *out, void *scratch,
                                int32_t y) {
  const struct jaxcompress_depthwise_params *p = params;
  const int32_t bytes = (p->channels + 1) / 2;
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t x = 0; x < p->out_width; x++, to += p->channels) {
    for (int32_t c = 0; c < p->channels; c += 2) {
      const int8_t *w = p->weights + c / 2;
      const int32_t two = c + 1 < p->channels;
      int32_t sums[2] = {0, 0};
      for (int32_t i = 0; i < p->kernel_height; i++) {
        const int8_t *row = in[i];
        int32_t column = x * p->stride - p->left;
        for (int32_t j = 0; j < p->kernel_width; j++, column += p->dilation, w += bytes) {
          const int32_t inside = row != NULL && column >= 0 && column < p->in_width;
          const int8_t *cell = inside ? row + column * p->channels + c : NULL;
          sums[0] += (inside ? cell[0] : p->in_zero) * (((*w & 15) ^ 8) - 8);
          if (two) sums[1] += (inside ? cell[1] : p->in_zero) * (*w >> 4);
        }
      }
      for (int32_t k = 0; k < 1 + two; k++) {
        const int32_t sum = jaxcompress_sum(sums[k], p->bias[c + k]);
        const int32_t code = jaxcompress_scale(sum, p->q31[c + k], p->shift[c + k]) + p->out_zero;
        to[c + k] = (int8_t)jaxcompress_clip(code, p->low, p->high);
      }
    }
  }
}
