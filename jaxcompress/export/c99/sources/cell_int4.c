/* A byte holds, in its lower half, a weight of the first half of the channels, and one of the second. */
static int32_t jaxcompress_dot_int4(const int8_t *x, const int8_t *w, int32_t depth) {
  const int32_t half = (depth + 1) / 2, rest = depth - half;
  int32_t a = 0;
  for (int32_t i = 0; i < rest; i++) a += x[i] * (((w[i] & 15) ^ 8) - 8) + x[half + i] * (w[i] >> 4);
  if (rest < half) a += x[rest] * (((w[rest] & 15) ^ 8) - 8);
  return a;
}

static int32_t jaxcompress_sum_int4(const int8_t *w, int32_t depth) {
  const int32_t half = (depth + 1) / 2;
  int32_t a = 0;
  for (int32_t i = 0; i < half; i++) a += (((w[i] & 15) ^ 8) - 8) + (w[i] >> 4);
  return a;
}

/* The outputs from o to end of one cell, whose kernel begins at column first; all are of one group. */
static void jaxcompress_cell_int4(const struct jaxcompress_convolution_params *p, const void *const *in,
                                  int32_t first, int32_t group, int32_t o, int32_t end, int8_t *to) {
  const int32_t depth = p->in_channels / p->groups, bytes = (depth + 1) / 2;
  const int8_t *w = p->weights + o * p->kernel_height * p->kernel_width * bytes;
  for (; o < end; o++) {
    int32_t sum = 0;
    for (int32_t i = 0; i < p->kernel_height; i++) {
      const int8_t *x = in[i];
      for (int32_t j = 0; j < p->kernel_width; j++, w += bytes) {
        const int32_t column = first + j * p->dilation;
        if (x != NULL && column >= 0 && column < p->in_width)
          sum += jaxcompress_dot_int4(x + column * p->in_channels + group * depth, w, depth);
        else if (p->in_zero != 0)
          sum += p->in_zero * jaxcompress_sum_int4(w, depth);
      }
    }
    sum = jaxcompress_sum(sum, p->bias[o]);
    *to++ = (int8_t)jaxcompress_clip(jaxcompress_scale(sum, p->q31[o], p->shift[o]) + p->out_zero, p->low, p->high);
  }
}
