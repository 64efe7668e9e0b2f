/* Sums of four outputs. */
struct jaxcompress_four {
  int32_t a, b, c, d;
};

/* Adds products with four rows of weights to sums: by 16 at a time where a processor has such instructions, or
 * by two, or one by one. */
#if defined(__ARM_FEATURE_MVE) && !defined(JAXCOMPRESS_PORTABLE)
#include <arm_mve.h>

static inline struct jaxcompress_four jaxcompress_dot4(const int8_t *x, const int8_t *w, int32_t pitch,
                                                       int32_t count, struct jaxcompress_four sums) {
  const int8_t *w1 = w + pitch, *w2 = w1 + pitch, *w3 = w2 + pitch;
  for (; count > 0; count -= 16, x += 16, w += 16, w1 += 16, w2 += 16, w3 += 16) {
    const mve_pred16_t some = vctp8q((uint32_t)count);
    const int8x16_t v = vldrbq_z_s8(x, some);
    sums.a = vmladavaq_s8(sums.a, v, vldrbq_z_s8(w, some));
    sums.b = vmladavaq_s8(sums.b, v, vldrbq_z_s8(w1, some));
    sums.c = vmladavaq_s8(sums.c, v, vldrbq_z_s8(w2, some));
    sums.d = vmladavaq_s8(sums.d, v, vldrbq_z_s8(w3, some));
  }
  return sums;
}
#else
#if defined(__ARM_FEATURE_DSP) && !defined(JAXCOMPRESS_PORTABLE)
#include <arm_acle.h>

static inline uint32_t jaxcompress_load4(const int8_t *x) {
  uint32_t v;
  memcpy(&v, x, sizeof(v));
  return v;
}

/* The second and the fourth byte. */
static inline int16x2_t jaxcompress_odd(uint32_t v) {
#ifdef __GNUC__
  int16x2_t odd;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(v));
  return odd;
#else
  return __sxtb16(v >> 8);
#endif
}

static inline int32_t jaxcompress_mac4(int16x2_t even, int16x2_t odd, uint32_t w, int32_t sum) {
  sum = __smlad(even, __sxtb16(w), sum);
  return __smlad(odd, jaxcompress_odd(w), sum);
}
#endif

static inline struct jaxcompress_four jaxcompress_dot4(const int8_t *x, const int8_t *w, int32_t pitch,
                                                       int32_t count, struct jaxcompress_four sums) {
  const int8_t *w1 = w + pitch, *w2 = w1 + pitch, *w3 = w2 + pitch;
  int32_t i = 0;
#if defined(__ARM_FEATURE_DSP) && !defined(JAXCOMPRESS_PORTABLE)
  for (; i + 4 <= count; i += 4) {
    const uint32_t v = jaxcompress_load4(x + i);
    const int16x2_t even = __sxtb16(v), odd = jaxcompress_odd(v);
    sums.a = jaxcompress_mac4(even, odd, jaxcompress_load4(w + i), sums.a);
    sums.b = jaxcompress_mac4(even, odd, jaxcompress_load4(w1 + i), sums.b);
    sums.c = jaxcompress_mac4(even, odd, jaxcompress_load4(w2 + i), sums.c);
    sums.d = jaxcompress_mac4(even, odd, jaxcompress_load4(w3 + i), sums.d);
  }
#endif
  for (; i < count; i++) {
    const int32_t v = x[i];
    sums.a += v * w[i];
    sums.b += v * w1[i];
    sums.c += v * w2[i];
    sums.d += v * w3[i];
  }
  return sums;
}
#endif

static int32_t jaxcompress_dot(const int8_t *x, const int8_t *w, int32_t count) {
  int32_t a = 0;
  for (int32_t i = 0; i < count; i++) a += x[i] * w[i];
  return a;
}

/* What cells of padding add, whose code is that of zero. */
static int32_t jaxcompress_padding(int32_t zero, const int8_t *w, int32_t count) {
  int32_t a = 0;
  if (zero == 0) return 0;
  for (int32_t i = 0; i < count; i++) a += w[i];
  return zero * a;
}

/* The sum of one output of a cell, whose kernel begins at column first. */
static int32_t jaxcompress_one(const struct jaxcompress_convolution_params *p, const void *const *in,
                               int32_t first, int32_t group, int32_t o) {
  const int32_t depth = p->in_channels / p->groups;
  const int8_t *w = p->weights + o * p->kernel_height * p->kernel_width * depth;
  int32_t sum = 0;
  for (int32_t i = 0; i < p->kernel_height; i++) {
    const int8_t *x = in[i];
    for (int32_t j = 0; j < p->kernel_width; j++, w += depth) {
      const int32_t column = first + j * p->dilation;
      if (x != NULL && column >= 0 && column < p->in_width)
        sum += jaxcompress_dot(x + column * p->in_channels + group * depth, w, depth);
      else
        sum += jaxcompress_padding(p->in_zero, w, depth);
    }
  }
  return sum;
}

/* The outputs from o to end of one cell, whose kernel begins at column first; all are of one group. */
static void jaxcompress_cell(const struct jaxcompress_convolution_params *p, const void *const *in,
                             int32_t first, int32_t group, int32_t o, int32_t end, int8_t *to) {
  const int32_t depth = p->in_channels / p->groups, width = p->kernel_width, height = p->kernel_height;
  const int32_t run = width * depth, pitch = height * run;
  const int32_t in_zero = p->in_zero, zero = p->out_zero, low = p->low, high = p->high;
  const int32_t *bias = p->bias, *q31 = p->q31;
  const int8_t *shift = p->shift, *weights = p->weights + o * pitch;
  if (width == 1 || (p->groups == 1 && p->dilation == 1)) { /* what a row of the kernel reads is one run */
    const int32_t before = jaxcompress_clip(-first, 0, width);
    const int32_t after = jaxcompress_clip(p->in_width - first, before, width);
    const int32_t start = (first + before) * p->in_channels + group * depth, skipped = before * depth;
    const int32_t count = (after - before) * depth, rest = run - skipped - count;
    for (; o + 4 <= end; o += 4, weights += 4 * pitch, to += 4) {
      const int8_t *w = weights;
      struct jaxcompress_four sums = {0, 0, 0, 0};
      for (int32_t i = 0; i < height; i++, w += run) {
        const int8_t *x = in[i];
        if (x != NULL && count > 0) sums = jaxcompress_dot4(x + start, w + skipped, pitch, count, sums);
        if ((x == NULL || count < run) && in_zero != 0) {
          int32_t edges[4];
          for (int32_t k = 0; k < 4; k++) {
            const int8_t *v = w + k * pitch;
            edges[k] = x == NULL ? jaxcompress_padding(in_zero, v, run)
                                 : jaxcompress_padding(in_zero, v, skipped) +
                                     jaxcompress_padding(in_zero, v + skipped + count, rest);
          }
          sums.a += edges[0];
          sums.b += edges[1];
          sums.c += edges[2];
          sums.d += edges[3];
        }
      }
      to[0] = jaxcompress_code(jaxcompress_sum(sums.a, bias[o]), q31[o], shift[o], zero, low, high);
      to[1] = jaxcompress_code(jaxcompress_sum(sums.b, bias[o + 1]), q31[o + 1], shift[o + 1], zero, low, high);
      to[2] = jaxcompress_code(jaxcompress_sum(sums.c, bias[o + 2]), q31[o + 2], shift[o + 2], zero, low, high);
      to[3] = jaxcompress_code(jaxcompress_sum(sums.d, bias[o + 3]), q31[o + 3], shift[o + 3], zero, low, high);
    }
  }
  for (; o < end; o++) {
    const int32_t sum = jaxcompress_sum(jaxcompress_one(p, in, first, group, o), bias[o]);
    *to++ = jaxcompress_code(sum, q31[o], shift[o], zero, low, high);
  }
}
