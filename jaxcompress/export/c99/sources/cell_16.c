#include "wide.c"

/* The outputs from o to end of one cell, whose kernel begins at column first; all are of one group. */
static void jaxcompress_cell_16(const struct jaxcompress_convolution_16_params *p, const void *const *in,
                                int32_t first, int32_t group, int32_t o, int32_t end, int16_t *to) {
  const int32_t depth = p->in_channels / p->groups;
  const int8_t *w = p->weights + o * p->kernel_height * p->kernel_width * depth;
  for (; o < end; o++) {
    int64_t sum = p->bias[o];
    for (int32_t i = 0; i < p->kernel_height; i++) {
      const int16_t *x = in[i];
      for (int32_t j = 0; j < p->kernel_width; j++, w += depth) {
        const int32_t column = first + j * p->dilation;
        if (x != NULL && column >= 0 && column < p->in_width)
          sum += jaxcompress_dot_16(x + column * p->in_channels + group * depth, w, depth);
      }
    }
    *to++ = (int16_t)jaxcompress_clip(jaxcompress_scale_16(sum, p->multiplier[o], p->shift[o]), p->low, p->high);
  }
}
