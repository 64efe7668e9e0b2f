#ifdef JAXCOMPRESS_CMSIS_NN
/* Arm's CMSIS-NN computes what it has functions for: rows whose inputs lie one behind another in memory, as
 * those of a whole tensor do, and what needs no padding. The rest is left to the functions below. */
#include <arm_nnfunctions.h>
#ifdef CMSIS_NN_USE_SINGLE_ROUNDING
#error "CMSIS_NN_USE_SINGLE_ROUNDING rounds to other integers; build CMSIS-NN without it"
#endif

#ifndef JAXCOMPRESS_CMSIS_NN_BYTES
#define JAXCOMPRESS_CMSIS_NN_BYTES 8192 /* for its own use; layers that need more are not given to it */
#endif
static int32_t jaxcompress_cmsis_buffer[JAXCOMPRESS_CMSIS_NN_BYTES / 4];

/* Copies shifts to the buffer's begin and leaves the rest to a function; NULL if it is too small. */
static int32_t *jaxcompress_cmsis_shifts(const int8_t *shift, int32_t count, int32_t needed,
                                         cmsis_nn_context *rest) {
  const int32_t bytes = 4 * count;
  if (needed < 0 || bytes + needed > JAXCOMPRESS_CMSIS_NN_BYTES) return NULL;
  for (int32_t k = 0; k < count; k++) jaxcompress_cmsis_buffer[k] = shift[k];
  rest->buf = jaxcompress_cmsis_buffer + count;
  rest->size = JAXCOMPRESS_CMSIS_NN_BYTES - bytes;
  return jaxcompress_cmsis_buffer;
}

/* Whether rows lie one behind another. */
static int32_t jaxcompress_cmsis_joined(const void *const *in, int32_t rows, int32_t bytes) {
  if (in[0] == NULL) return 0;
  for (int32_t i = 1; i < rows; i++)
    if (in[i] != (const int8_t *)in[0] + i * bytes) return 0;
  return 1;
}

/* The columns, from one up to another, of an output whose kernels lie inside the input. */
static void jaxcompress_cmsis_inside(int32_t left, int32_t stride, int32_t kernel, int32_t in_width,
                                     int32_t out_width, int32_t *from, int32_t *end) {
  *from = left > 0 ? (left + stride - 1) / stride : 0;
  *end = in_width + left < kernel ? 0 : (in_width + left - kernel) / stride + 1;
  *end = *end < out_width ? *end : out_width;
}
#endif
