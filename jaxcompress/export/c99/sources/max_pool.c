#include "cmsis_pool.c"

/* The largest codes of each window. */
void jaxcompress_max_pool(const void *params, const void *const *in, void *const *out, void *scratch, int32_t y) {
  const struct jaxcompress_pool_params *p = params;
  int8_t *to = out[0];
  (void)scratch;
  (void)y;
#ifdef JAXCOMPRESS_CMSIS_NN
  if (sizeof(int8_t) == 1 && jaxcompress_cmsis_pool(p, in, to, 1)) return;
#endif
  for (int32_t x = 0; x < p->out_width; x++, to += p->channels) {
    const int32_t first = x * p->stride - p->left;
    int32_t seen = 0;
    for (int32_t i = 0; i < p->kernel_height; i++) {
      for (int32_t j = 0; j < p->kernel_width; j++) {
        const int32_t column = first + j;
        const int8_t *cell = in[i];
        if (cell == NULL || column < 0 || column >= p->in_width) continue;
        cell += column * p->channels;
        if (!seen) memcpy(to, cell, (size_t)p->channels * sizeof(int8_t));
        if (seen)
          for (int32_t k = 0; k < p->channels; k++) to[k] = cell[k] > to[k] ? cell[k] : to[k];
        seen = 1;
      }
    }
  }
}
