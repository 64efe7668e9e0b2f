"""Properties of every convolution, on random numbers and random shapes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcompress import ops

few = settings(max_examples=12, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
KINDS = {  # kernel shape and groups on 6 channels
  "depthwise": ((3, 3, 1, 6), 6),
  "pointwise": ((1, 1, 6, 4), 1),
  "standard": ((3, 3, 6, 4), 1),
  "grouped": ((3, 3, 2, 6), 3),
}


@pytest.fixture(scope="module")
def convs():
  """One compiled convolution of each kind, with stride 2 on odd and even sizes."""
  return {
    kind: jax.jit(partial(ops.conv, stride=2, padding="SAME", groups=groups))
    for kind, (_, groups) in KINDS.items()
  }


def draw(seed, kind):
  """Small integers: sums and products of them are exact in float32."""
  rng = np.random.default_rng(seed)
  arrays = rng.integers(-8, 9, (2, 2, 9, 8, 6)), rng.integers(-8, 9, (2, *KINDS[kind][0]))
  return [jnp.asarray(array, jnp.float32) for array in arrays]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, a=st.integers(-3, 3), b=st.integers(-3, 3))
@few
def test_convolution_is_linear_in_images_and_kernels(convs, kind, seed, a, b):
  (x, x2), (kernel, kernel2) = draw(seed, kind)
  conv = convs[kind]
  y = conv(x, kernel)
  np.testing.assert_array_equal(conv(a * x + b * x2, kernel), a * y + b * conv(x2, kernel))
  np.testing.assert_array_equal(conv(x, a * kernel + b * kernel2), a * y + b * conv(x, kernel2))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, down=st.integers(0, 2), right=st.integers(0, 2))
@few
def test_a_shift_by_whole_strides_shifts_the_output(kind, convs, seed, down, right):
  (x, _), (kernel, _) = draw(seed, kind)
  x = jnp.zeros_like(x).at[:, :3, :2].set(x[:, :3, :2])  # far enough from the other edge
  moved = jnp.roll(x, (2 * down, 2 * right), axis=(1, 2))
  y = convs[kind](jnp.pad(x, ((0, 0), (2, 4), (2, 4), (0, 0))), kernel)
  y_moved = convs[kind](jnp.pad(moved, ((0, 0), (2, 4), (2, 4), (0, 0))), kernel)
  np.testing.assert_array_equal(jnp.roll(y, (down, right), axis=(1, 2)), y_moved)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
@few
def test_both_gradients_are_adjoint_to_the_convolution(kind, convs, seed):
  (x, x2), (kernel, kernel2) = draw(seed, kind)
  y, pull_back = jax.vjp(convs[kind], x, kernel)
  dx, dw = pull_back(y)
  assert jnp.vdot(dx, x2) == jnp.vdot(y, convs[kind](x2, kernel))
  assert jnp.vdot(dw, kernel2) == jnp.vdot(y, convs[kind](x, kernel2))


@st.composite
def convolutions(draw):
  """Any small convolution: batch, size, kernel, stride, dilation, padding, channels, groups."""
  groups = draw(st.integers(1, 4))
  depth = 1 if draw(st.booleans()) else draw(st.integers(1, 3))
  kernel, dilation = (
    draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (4, 3)
  )
  size = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))  # on width 1 XLA can abort
  sides = [(k - 1) * step + 1 for k, step in zip(kernel, dilation, strict=True)]
  pads = tuple(
    (draw(st.integers(0, 4)), draw(st.integers(max(0, side - n), max(4, side - n))))
    for n, side in zip(size, sides, strict=True)
  )
  features = groups * draw(st.integers(1, 3))
  x = (draw(st.integers(1, 3)), *size, depth * groups)
  how = {"stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), "dilation": dilation}
  return x, (*kernel, depth, features), how, pads, groups


@pytest.mark.slow
@given(case=convolutions(), seed=seeds)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_random_shapes_equal_xla(case, seed):
  x_shape, kernel_shape, how, pads, groups = case
  rng = np.random.default_rng(seed)
  x, kernel = (jnp.asarray(rng.integers(-8, 9, s), jnp.float32) for s in (x_shape, kernel_shape))

  def mine(x, kernel):
    return ops.conv(x, kernel, **how, padding=pads, groups=groups)

  def xla(x, kernel):  # padded beforehand: XLA mishandles the gradients of wide padding on CPU
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    layout["rhs_dilation"] = how["dilation"]
    return lax.conv_general_dilated(x, kernel, how["stride"], "VALID", **layout)

  @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def both(x, kernel):
    results = []
    for function in (mine, xla):
      y, pull_back = jax.vjp(function, x, kernel)
      results.append((y, *pull_back(y)))
    return results

  jax.tree.map(np.testing.assert_array_equal, *both(x, kernel))
