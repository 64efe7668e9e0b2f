#include "cmsis_depthwise.c"

#ifndef JAXCOMPRESS_LANES
#if defined(__arm__) && !defined(__ARM_FEATURE_MVE)
#define JAXCOMPRESS_LANES 4 /* sums that registers hold */
#else
#define JAXCOMPRESS_LANES 16
#endif
#endif

/* The sums of some channels of one cell; inside, no column of the kernel lies beyond the map. */
static inline void jaxcompress_lanes(const struct jaxcompress_depthwise_params *p, const void *const *in,
                                     int32_t first, int32_t inside, int32_t channel, int32_t lanes,
                                     int32_t *acc) {
  const int8_t *w = p->weights + channel;
  for (int32_t k = 0; k < lanes; k++) acc[k] = 0;
  for (int32_t i = 0; i < p->kernel_height; i++) {
    int32_t column = first;
    for (int32_t j = 0; j < p->kernel_width; j++, w += p->channels, column += p->dilation) {
      if (in[i] != NULL && (inside || (column >= 0 && column < p->in_width))) {
        const int8_t *x = (const int8_t *)in[i] + column * p->channels + channel;
        for (int32_t k = 0; k < lanes; k++) acc[k] += x[k] * w[k];
      } else if (p->in_zero != 0) {
        for (int32_t k = 0; k < lanes; k++) acc[k] += p->in_zero * w[k];
      }
    }
  }
}

static inline void jaxcompress_codes(const struct jaxcompress_depthwise_params *p, const int32_t *sums,
                                     int32_t channel, int32_t lanes, int8_t *to) {
  const int32_t zero = p->out_zero, low = p->low, high = p->high;
  const int32_t *bias = p->bias + channel, *q31 = p->q31 + channel;
  const int8_t *shift = p->shift + channel;
  for (int32_t k = 0; k < lanes; k++)
    to[k] = jaxcompress_code(jaxcompress_sum(sums[k], bias[k]), q31[k], shift[k], zero, low, high);
}

void jaxcompress_depthwise(const void *params, const void *const *in, void *const *out, void *scratch,
                           int32_t y) {
  const struct jaxcompress_depthwise_params *p = params;
  int8_t *to = out[0];
  int32_t from = 0, end = 0; /* columns that are computed already */
  (void)scratch;
  (void)y;
#ifdef JAXCOMPRESS_CMSIS_NN
  jaxcompress_cmsis_depthwise(p, in, to, &from, &end);
#endif
  for (int32_t x = 0; x < p->out_width; x++) {
    if (x >= from && x < end) {
      to += p->channels;
      continue;
    }
    const int32_t first = x * p->stride - p->left;
    const int32_t inside = first >= 0 && first + (p->kernel_width - 1) * p->dilation < p->in_width;
    for (int32_t c = 0; c < p->channels; c += JAXCOMPRESS_LANES) {
      const int32_t lanes = p->channels - c;
      int32_t sums[JAXCOMPRESS_LANES];
      if (lanes >= JAXCOMPRESS_LANES) { /* a number that the compiler knows */
        jaxcompress_lanes(p, in, first, inside, c, JAXCOMPRESS_LANES, sums);
        jaxcompress_codes(p, sums, c, JAXCOMPRESS_LANES, to + c);
      } else {
        int32_t few[JAXCOMPRESS_LANES];
        jaxcompress_lanes(p, in, first, inside, c, lanes, few);
        jaxcompress_codes(p, few, c, lanes, to + c);
      }
    }
    to += p->channels;
  }
}
