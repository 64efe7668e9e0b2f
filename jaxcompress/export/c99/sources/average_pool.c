#include "cmsis_pool.c"

/* The means of the codes of each window, halves away from zero. */
void jaxcompress_average_pool(const void *params, const void *const *in, void *const *out, void *scratch,
                              int32_t y) {
  const struct jaxcompress_pool_params *p = params;
  int8_t *to = out[0];
  int32_t *sums = scratch;
  (void)y;
#ifdef JAXCOMPRESS_CMSIS_NN
  if (sizeof(int8_t) == 1 && jaxcompress_cmsis_pool(p, in, to, 0)) return;
#endif
  for (int32_t x = 0; x < p->out_width; x++, to += p->channels) {
    const int32_t first = x * p->stride - p->left;
    int32_t cells = 0;
    memset(sums, 0, (size_t)p->channels * sizeof(int32_t));
    for (int32_t i = 0; i < p->kernel_height; i++) {
      for (int32_t j = 0; j < p->kernel_width; j++) {
        const int32_t column = first + j;
        const int8_t *cell = in[i];
        if (cell == NULL || column < 0 || column >= p->in_width) continue;
        cell += column * p->channels;
        for (int32_t k = 0; k < p->channels; k++) sums[k] += cell[k];
        cells++;
      }
    }
    for (int32_t k = 0; k < p->channels; k++) {
      const int32_t mean = (sums[k] + (sums[k] < 0 ? -(cells / 2) : cells / 2)) / cells;
      to[k] = (int8_t)jaxcompress_clip(mean, p->low, p->high);
    }
  }
}
