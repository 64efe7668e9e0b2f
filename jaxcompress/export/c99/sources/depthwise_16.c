#include "wide_scale.c"

/* A row of a depthwise convolution of 16-bit integers. */
void jaxcompress_depthwise_16(const void *params, const void *const *in, void *const *out, void *scratch,
                              int32_t y) {
  const struct jaxcompress_depthwise_16_params *p = params;
  int16_t *to = out[0];
  (void)scratch;
  (void)y;
  for (int32_t x = 0; x < p->out_width; x++) {
    for (int32_t c = 0; c < p->channels; c++) {
      const int8_t *w = p->weights + c;
      int64_t sum = p->bias[c];
      for (int32_t i = 0; i < p->kernel_height; i++) {
        const int16_t *row = in[i];
        int32_t column = x * p->stride - p->left;
        for (int32_t j = 0; j < p->kernel_width; j++, column += p->dilation, w += p->channels)
          if (row != NULL && column >= 0 && column < p->in_width) sum += row[column * p->channels + c] * *w;
      }
      *to++ = (int16_t)jaxcompress_clip(jaxcompress_scale_16(sum, p->multiplier[c], p->shift[c]), p->low, p->high);
    }
  }
}
