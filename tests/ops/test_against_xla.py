"""Every formulation against ``lax.conv_general_dilated`` in float64: values and both gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress import ops

CASES = [  # even and odd heights and widths with both paddings, then the less common ones
  ((8, 7), "SAME"),
  ((8, 7), "SYMMETRIC"),
  ((7, 10), "SAME"),
  ((7, 10), "SYMMETRIC"),
  ((9, 8), "VALID"),
  ((1, 5), "SAME"),  # smaller than the kernel
  ((6, 9), ((0, 2), (2, 1))),
]
FEW = CASES[:2]  # for narrow dtypes and for formulations that share most of their code
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 8e-3}


def xla(x, kernel, stride, padding, groups, dilation=(1, 1)):
  """XLA's convolution; only "SYMMETRIC" is not a word that it knows."""
  if padding == "SYMMETRIC":
    sides = ((k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=False))
    padding = tuple((side // 2,) * 2 for side in sides)
  return lax.conv_general_dilated(
    x,
    kernel,
    stride if isinstance(stride, tuple) else (stride, stride),
    padding,
    rhs_dilation=dilation,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def ours(x, kernel, stride, padding, groups, dilation=1):
  return ops.conv(x, kernel, stride=stride, padding=padding, groups=groups, dilation=dilation)


def value_and_gradients(function, rows, arrays):
  """``(y, dx, dw)`` of every row's convolution, meant to be one compiled program."""
  results = []
  for row, (x, kernel, g) in zip(rows, arrays, strict=True):
    run = partial(function, **row)
    y, pull_back = jax.vjp(run, x, kernel)
    results.append((y, *pull_back(g)))
  return results


def assert_near(actual, desired):
  """Compares the largest error with the largest value: sums of another order round differently."""
  for mine, other in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
    assert mine.shape == other.shape
    other = np.asarray(other, np.float64)
    error = np.max(np.abs(np.asarray(mine, np.float64) - other)) / np.max(np.abs(other))
    assert error < TOLERANCE[str(mine.dtype)]


def check(cases, kernel_shape, stride, groups, dtype=jnp.float64, dilation=(1, 1), **formulation):
  """Our results in ``dtype`` against XLA's in float64 for the same numbers."""
  rng = np.random.default_rng(7)
  with jax.enable_x64(True):
    row = {"stride": stride, "groups": groups, "dilation": dilation}
    rows = [{**row, "padding": padding} for _, padding in cases]
    arrays = []
    for size, padding in cases:
      x = jnp.asarray(rng.normal(size=(4, *size, kernel_shape[2] * groups)), dtype)
      kernel = jnp.asarray(rng.normal(size=kernel_shape), dtype)
      run = partial(ours, **row, padding=padding)
      y = jax.eval_shape(run, x, kernel)
      arrays.append((x, kernel, jnp.asarray(rng.normal(size=y.shape), dtype)))
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), arrays)
    quick = {"xla_backend_optimization_level": 0}  # compiles up to 15 times faster
    theirs = jax.jit(partial(value_and_gradients, xla, rows), compiler_options=quick)(wide)
    options = quick if dtype == jnp.float64 else {}
    with ops.formulations(**formulation):
      mine = jax.jit(partial(value_and_gradients, ours, rows), compiler_options=options)(arrays)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(mine)} == {str(np.dtype(dtype))}
    assert_near(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
def test_depthwise_is_exact_in_float64(k, stride):
  check(CASES if k == 3 else CASES[:4], (k, k, 1, 6), stride, 6, depthwise="rows")


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("formulation", ["xla", "taps"])
def test_other_depthwise_formulations_are_exact_in_float64(formulation, k):
  check(FEW, (k, k, 1, 6), 2, 6, depthwise=formulation)


@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_depthwise_rounds_as_its_dtype_does(dtype, k):
  check(FEW[:1], (k, k, 1, 6), 1, 6, dtype, depthwise="rows")


def test_depthwise_takes_several_kernels_per_channel():
  check(FEW, (3, 3, 1, 12), 2, 4, depthwise="rows")


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("formulation", ["xla", "product", "unstrided"])
def test_pointwise_is_exact_in_float64(formulation, stride):
  check(CASES[:3], (1, 1, 5, 4), stride, 1, pointwise=formulation)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_pointwise_rounds_as_its_dtype_does(dtype):
  check(CASES[:1], (1, 1, 5, 4), 1, 1, dtype, pointwise="product")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("channels", [1, 6])  # unfolded, unless k is 7, and XLA's
def test_standard_is_exact_in_float64(channels, k, stride):
  check(CASES if k == 3 else CASES[:4], (k, k, channels, 4), stride, 1, standard="cases")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("channels", [3, 10])
def test_standard_rounds_as_its_dtype_does(channels, dtype):
  check(FEW, (3, 3, channels, 4), 2, 1, dtype, standard="cases")


@pytest.mark.parametrize("formulation", ["xla", "cases", "products"])
@pytest.mark.parametrize("groups", [1, 3, 17, 32])  # 32 groups share 16 parts, 17 share one
def test_groups_equal_xla(groups, formulation):
  check(CASES[:1], (3, 3, 2, 2 * groups), 2, groups, standard=formulation)


@pytest.mark.parametrize("stride", [1, 2])
def test_products_of_taps_are_exact_in_float64(stride):
  check(CASES, (3, 3, 5, 4), stride, 1, standard="products")


@pytest.mark.parametrize("formulation", ["xla", "cases", "products"])
def test_grouped_pointwise_equals_xla(formulation):
  check(CASES[:2], (1, 1, 5, 6), 2, 3, standard=formulation)


LONG = {  # kernels, strides and dilations that are not the same along height and width
  "7x1": ((7, 1), (1, 1), (1, 1)),
  "1x5, stride 2x1": ((1, 5), (2, 1), (1, 1)),
  "3x3, dilated": ((3, 3), (1, 1), (2, 2)),
  "2x3, stride 1x3, dilated 3x1": ((2, 3), (1, 3), (3, 1)),
  "3x2, stride 2, dilated 1x2": ((3, 2), (2, 2), (1, 2)),
}
LARGE = [((9, 8), "SAME"), ((10, 9), "SYMMETRIC"), ((11, 9), "VALID"), ((7, 9), ((0, 3), (2, 1)))]


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("formulation", ["xla", "taps", "rows"])
def test_depthwise_kernels_of_any_geometry_are_exact_in_float64(formulation, name):
  kernel, stride, dilation = LONG[name]
  check(LARGE, (*kernel, 1, 6), stride, 6, dilation=dilation, depthwise=formulation)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("channels", [2, 20])  # unfolded, and XLA's
@pytest.mark.parametrize("formulation", ["xla", "cases", "products"])
def test_standard_kernels_of_any_geometry_are_exact_in_float64(formulation, channels, name):
  kernel, stride, dilation = LONG[name]
  check(LARGE, (*kernel, channels, 4), stride, 1, dilation=dilation, standard=formulation)


@pytest.mark.parametrize("name", LONG)
def test_grouped_kernels_of_any_geometry_are_exact_in_float64(name):
  kernel, stride, dilation = LONG[name]
  check(LARGE, (*kernel, 2, 6), stride, 3, dilation=dilation, standard="cases")


@pytest.mark.parametrize("formulation", ["xla", "product"])
def test_pointwise_steps_may_differ(formulation):
  check(CASES[:3], (1, 1, 5, 4), (3, 2), 1, pointwise=formulation)
