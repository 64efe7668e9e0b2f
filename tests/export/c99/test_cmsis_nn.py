"""Calls of CMSIS-NN behind the macro, against plain loops with its interface; the library itself is not needed."""

import flax.linen as linen
import jax
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import export, nn
from jaxcompress.export.c99.running import Program

LIBRARY = r"""
#ifndef ARM_NNFUNCTIONS_H
#define ARM_NNFUNCTIONS_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef enum { ARM_CMSIS_NN_SUCCESS = 0, ARM_CMSIS_NN_ARG_ERROR = -1 } arm_cmsis_nn_status;
typedef struct { int32_t w, h; } cmsis_nn_tile;
typedef struct { void *buf; int32_t size; } cmsis_nn_context;
typedef struct { int32_t n, h, w, c; } cmsis_nn_dims;
typedef struct { int32_t *multiplier, *shift; } cmsis_nn_per_channel_quant_params;
typedef struct { int32_t min, max; } cmsis_nn_activation;
typedef struct {
  int32_t input_offset, output_offset;
  cmsis_nn_tile stride, padding, dilation;
  cmsis_nn_activation activation;
} cmsis_nn_conv_params;
typedef struct {
  int32_t input_offset, output_offset, ch_mult;
  cmsis_nn_tile stride, padding, dilation;
  cmsis_nn_activation activation;
} cmsis_nn_dw_conv_params;
typedef struct {
  cmsis_nn_tile stride, padding;
  cmsis_nn_activation activation;
} cmsis_nn_pool_params;

/* Says at the end which functions were called. */
static inline void called(const char *name) {
  FILE *file = fopen("@calls@", "a");
  fprintf(file, "%s\n", name);
  fclose(file);
}

static inline int32_t scaled(int32_t v, int32_t multiplier, int32_t shift) {
  const int32_t right = shift < 0 ? -shift : 0;
  const int64_t product = (int64_t)v * (shift > 0 ? (int64_t)1 << shift : 1) * multiplier;
  const int64_t high = (product + ((int64_t)1 << 30)) >> 31;
  const int64_t half = right ? (int64_t)1 << (right - 1) : 0;
  return (int32_t)(high < 0 ? -((-high + half) >> right) : (high + half) >> right);
}

static inline int8_t within(int32_t v, cmsis_nn_activation a) {
  return (int8_t)(v < a.min ? a.min : v > a.max ? a.max : v);
}

static inline int32_t arm_convolve_wrapper_s8_get_buffer_size(const cmsis_nn_conv_params *p, const cmsis_nn_dims *in,
                                                              const cmsis_nn_dims *f, const cmsis_nn_dims *out) {
  (void)p;
  (void)out;
  return 4 * f->w * f->h * in->c;
}

static inline arm_cmsis_nn_status arm_convolve_wrapper_s8(
    const cmsis_nn_context *ctx, const cmsis_nn_conv_params *p, const cmsis_nn_per_channel_quant_params *q,
    const cmsis_nn_dims *in, const int8_t *x, const cmsis_nn_dims *f, const int8_t *w, const cmsis_nn_dims *bias_dims,
    const int32_t *bias, const cmsis_nn_dims *out, int8_t *y) {
  (void)bias_dims;
  called("convolve");
  for (int32_t i = 0; i < ctx->size; i++) ((char *)ctx->buf)[i] = 77; /* its own to write */
  if (out->h != (in->h - f->h) / p->stride.h + 1 || (out->w - 1) * p->stride.w + f->w > in->w) abort();
  for (int32_t o = 0; o < out->w; o++)
    for (int32_t n = 0; n < out->c; n++) {
      int32_t sum = bias[n];
      for (int32_t i = 0; i < f->h; i++)
        for (int32_t k = 0; k < f->w * in->c; k++)
          sum += (x[(i * in->w + o * p->stride.w) * in->c + k] + p->input_offset) * w[(n * f->h + i) * f->w * in->c + k];
      y[o * out->c + n] = within(scaled(sum, q->multiplier[n], q->shift[n]) + p->output_offset, p->activation);
    }
  return ARM_CMSIS_NN_SUCCESS;
}

static inline int32_t arm_depthwise_conv_wrapper_s8_get_buffer_size(const cmsis_nn_dw_conv_params *p,
                                                                    const cmsis_nn_dims *in, const cmsis_nn_dims *f,
                                                                    const cmsis_nn_dims *out) {
  (void)p;
  (void)out;
  return 2 * f->w * f->h * in->c;
}

static inline arm_cmsis_nn_status arm_depthwise_conv_wrapper_s8(
    const cmsis_nn_context *ctx, const cmsis_nn_dw_conv_params *p, const cmsis_nn_per_channel_quant_params *q,
    const cmsis_nn_dims *in, const int8_t *x, const cmsis_nn_dims *f, const int8_t *w, const cmsis_nn_dims *bias_dims,
    const int32_t *bias, const cmsis_nn_dims *out, int8_t *y) {
  (void)bias_dims;
  called("depthwise");
  for (int32_t i = 0; i < ctx->size; i++) ((char *)ctx->buf)[i] = 77;
  if (p->ch_mult != 1 || (out->w - 1) * p->stride.w + f->w > in->w) abort();
  for (int32_t o = 0; o < out->w; o++)
    for (int32_t n = 0; n < out->c; n++) {
      int32_t sum = bias[n];
      for (int32_t i = 0; i < f->h; i++)
        for (int32_t j = 0; j < f->w; j++)
          sum += (x[(i * in->w + o * p->stride.w + j) * in->c + n] + p->input_offset) * w[(i * f->w + j) * in->c + n];
      y[o * out->c + n] = within(scaled(sum, q->multiplier[n], q->shift[n]) + p->output_offset, p->activation);
    }
  return ARM_CMSIS_NN_SUCCESS;
}

static inline arm_cmsis_nn_status arm_elementwise_add_s8(const int8_t *a, const int8_t *b, int32_t a_offset,
                                                         int32_t a_mult, int32_t a_shift, int32_t b_offset,
                                                         int32_t b_mult, int32_t b_shift, int32_t left, int8_t *out,
                                                         int32_t out_offset, int32_t out_mult, int32_t out_shift,
                                                         int32_t low, int32_t high, int32_t size) {
  const cmsis_nn_activation limits = {low, high};
  called("add");
  for (int32_t i = 0; i < size; i++) {
    const int32_t one = scaled((a[i] + a_offset) * (1 << left), a_mult, a_shift);
    const int32_t two = scaled((b[i] + b_offset) * (1 << left), b_mult, b_shift);
    out[i] = within(scaled(one + two, out_mult, out_shift) + out_offset, limits);
  }
  return ARM_CMSIS_NN_SUCCESS;
}

static inline int32_t arm_avgpool_s8_get_buffer_size(int32_t width, int32_t channels) {
  (void)width;
  return 4 * channels;
}

static inline arm_cmsis_nn_status pooled(const cmsis_nn_pool_params *p, const cmsis_nn_dims *in, const int8_t *x,
                                         const cmsis_nn_dims *f, const cmsis_nn_dims *out, int8_t *y, int32_t largest) {
  for (int32_t o = 0; o < out->w; o++)
    for (int32_t n = 0; n < out->c; n++) {
      int32_t most = -128, sum = 0, cells = 0;
      for (int32_t i = 0; i < f->h; i++)
        for (int32_t j = 0; j < f->w; j++) {
          const int32_t column = o * p->stride.w - p->padding.w + j;
          if (column < 0 || column >= in->w) continue;
          const int32_t v = x[(i * in->w + column) * in->c + n];
          most = v > most ? v : most;
          sum += v;
          cells++;
        }
      sum = (sum > 0 ? sum + cells / 2 : sum - cells / 2) / cells;
      y[o * out->c + n] = within(largest ? most : sum, p->activation);
    }
  return ARM_CMSIS_NN_SUCCESS;
}

static inline arm_cmsis_nn_status arm_max_pool_s8(const cmsis_nn_context *ctx, const cmsis_nn_pool_params *p,
                                                  const cmsis_nn_dims *in, const int8_t *x, const cmsis_nn_dims *f,
                                                  const cmsis_nn_dims *out, int8_t *y) {
  (void)ctx;
  called("max_pool");
  return pooled(p, in, x, f, out, y, 1);
}

static inline arm_cmsis_nn_status arm_avgpool_s8(const cmsis_nn_context *ctx, const cmsis_nn_pool_params *p,
                                                 const cmsis_nn_dims *in, const int8_t *x, const cmsis_nn_dims *f,
                                                 const cmsis_nn_dims *out, int8_t *y) {
  (void)ctx;
  called("avgpool");
  return pooled(p, in, x, f, out, y, 0);
}
#endif
"""


class Mixed(linen.Module):
  """Layers that CMSIS-NN has, with and without strides and padding, and one in groups, which is left to us."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    y = nn.ConvNorm(8, kernel=3, groups="depthwise", act="relu6", name="depth")(x, train=train)
    y = nn.ConvNorm(8, kernel=1, name="point")(y, train=train)
    x = nn.Add(name="add")(x, y)
    x = nn.ConvNorm(12, kernel=5, padding="VALID", name="valid")(x, train=train)
    x = nn.ConvNorm(12, kernel=5, stride=2, groups="depthwise", name="wide")(x, train=train)
    x = nn.ConvNorm(12, kernel=3, groups=3, act="relu", name="groups")(x, train=train)
    x = nn.MaxPool(kernel=3, stride=1, padding="SAME", name="max")(x)
    x = nn.AvgPool(kernel=2, stride=2, name="mean")(x)
    x = nn.ConvNorm(6, kernel=1, stride=2, name="last")(x, train=train)
    x = nn.GlobalAvgPool(keepdims=False, name="pool")(x)
    return nn.Dense(5, name="head")(x)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A quantized network, images for it, and its folder."""
  model, rng = Mixed(), np.random.default_rng(0)
  variables = jc.init_variables(model, jax.random.key(0), (30, 26, 3))
  images = rng.integers(0, 256, (16, 30, 26, 3)).astype(np.uint8)
  quantized = jc.quantize.post_training(
    model, variables, images, preprocess=jc.data.Preprocess(), method="minmax", progress=False
  )
  folder = export.c(quantized, tmp_path_factory.mktemp("c") / "small", name="small")
  return quantized, images, folder


def library(place):
  """A folder with the header, and the file that its functions note their calls in."""
  calls = place / "calls"
  (place / "arm_nnfunctions.h").write_text(LIBRARY.replace("@calls@", str(calls)))
  return calls


@pytest.mark.slow
@pytest.mark.parametrize("bytes", [8192, 400])
def test_what_it_computes_and_what_is_left_give_the_same_integers(written, tmp_path, bytes):
  quantized, images, folder = written
  calls = library(tmp_path)
  options = (
    "-O1",
    "-DJAXCOMPRESS_CMSIS_NN",
    f"-DJAXCOMPRESS_CMSIS_NN_BYTES={bytes}",
    f"-I{tmp_path}",
  )
  watched = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
  codes = quantized.quantize_input(images)
  (found,) = Program(folder, None, (*options, *watched)).run(codes)
  np.testing.assert_array_equal(found, quantized.with_kernels("tflm").run(codes))
  called = set(calls.read_text().split())
  assert called == {"convolve", "depthwise", "add", "max_pool", "avgpool"}


def test_without_the_macro_nothing_of_it_is_needed(written, tmp_path):
  quantized, images, folder = written
  codes = quantized.quantize_input(images[:2])
  (found,) = Program(folder).run(codes)
  np.testing.assert_array_equal(found, quantized.with_kernels("tflm").run(codes))


def test_its_single_rounding_is_refused(written, tmp_path):
  _, _, folder = written
  library(tmp_path)
  options = ("-DJAXCOMPRESS_CMSIS_NN", "-DCMSIS_NN_USE_SINGLE_ROUNDING", f"-I{tmp_path}")
  with pytest.raises(ValueError, match="rounds to other integers"):
    Program(folder, None, options)
