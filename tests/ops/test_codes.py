"""Products of codes against float64, where products of floats lose digits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import ops
from jaxcompress.ops import dispatch
from jaxcompress.ops.codes import Grid, Grids, multiply, on_grids, steps_of
from jaxcompress.ops.dispatch import traced_for
from jaxcompress.ops.standard import matmul
from jaxcompress.ops.transposed import conv_transpose

WAYS = {  # target, dtype of other products, and what is multiplied
  "tpu": ("tpu", jnp.float32, "bfloat16"),
  "gpu": ("gpu", jnp.float32, "bfloat16"),
  "cpu in bfloat16": ("cpu", jnp.bfloat16, "float32"),
  "gpu in bfloat16": ("gpu", jnp.bfloat16, "bfloat16"),
  "int8 on tpu": ("tpu", jnp.float32, "int8"),
  "int8 on gpu": ("gpu", jnp.bfloat16, "int8"),
  "int8 on cpu": ("cpu", jnp.bfloat16, "int8"),
}


class Case:
  """Codes, scales and what is computed of them."""

  def __init__(self, function, x, kernel, bits=8, zero=0, seed=0):
    rng = np.random.default_rng(seed)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    self.function = function
    self.steps = rng.integers(low - zero, high - zero + 1, x), rng.integers(-high, high + 1, kernel)
    self.scales = (
      np.float32(rng.uniform(0.01, 0.1)),
      np.float32(rng.uniform(1e-3, 1e-2, (1,) * (len(kernel) - 1) + kernel[-1:])),
    )
    self.arrays = [
      jnp.float32(n) * jnp.float32(s) for n, s in zip(self.steps, self.scales, strict=True)
    ]
    self.zero = jnp.float32(zero)

  def grids(self, active=True, dtype=jnp.float32):
    """Of the two arrays."""
    x, kernel = map(jnp.float32, self.scales)
    return Grids(Grid(x, self.zero), Grid(kernel), active, dtype)

  def computed(self, way):
    """Output and gradients of ours, and the gradient with respect to the output."""
    target, dtype, codes = WAYS[way]
    grids = self.grids(dtype=dtype)

    @jax.jit
    def run(x, kernel):
      y, pull_back = jax.vjp(partial(multiply, self.function), x, kernel)
      g = jax.random.normal(jax.random.key(1), y.shape)
      return y, pull_back(g), g

    with traced_for(target), ops.formulations(codes=codes), on_grids(grids):
      return run(*self.arrays)

  def expected(self, g):
    """The same of the very numbers in float64."""
    with jax.enable_x64(True):
      exact = [n * np.float64(s) for n, s in zip(self.steps, self.scales, strict=True)]
      arrays = [jnp.asarray(a, jnp.float64) for a in exact]
      function = jax.jit(self.function)
      g = jnp.asarray(g, jnp.float64)
      y, pull_back = jax.vjp(function, *arrays)
      sizes, pull_sizes = jax.vjp(function, *map(jnp.abs, arrays))
      return jax.device_get((y, pull_back(g), sizes, pull_sizes(jnp.abs(g))))

  def check(self, way):
    """Sums alone are rounded; gradients are as near as bfloat16 has that by the output.

    Both beside the sum of the magnitudes, of which little may be left.
    """
    y, gradients, g = self.computed(way)
    expected, slopes, sizes, steepest = self.expected(g)
    assert y.dtype == jnp.float32
    assert np.all(np.abs(np.asarray(y, np.float64) - expected) <= 2e-6 * sizes + 1e-12)
    for mine, other, size in zip(gradients, slopes, steepest, strict=True):
      error = np.asarray(mine, np.float64) - other
      assert np.linalg.norm(error) <= 4e-3 * np.linalg.norm(size) + 1e-12


ways = pytest.mark.parametrize("way", WAYS)
zeros = st.tuples(st.sampled_from([8, 4, 2]), st.floats(-1, 1)).map(
  lambda pair: {"bits": pair[0], "zero": int(pair[1] * (2 ** (pair[0] - 1) - 1))}
)


@st.composite
def convolutions(draw):
  """A convolution of any kind that the layers have."""
  side = lambda most: draw(st.tuples(*(st.integers(1, most),) * 2))  # noqa: E731
  groups, depth, features = draw(
    st.sampled_from([(1, 5, 3), (1, 40, 2), (3, 2, 2), (6, 1, 1), (4, 1, 2)])
  )
  how = {"stride": side(3), "dilation": side(2), "groups": groups}
  how["padding"] = draw(st.sampled_from(["SAME", "SYMMETRIC", ((0, 2), (1, 0))]))
  size = draw(st.tuples(st.integers(5, 8), st.integers(5, 8)))
  x, kernel = (2, *size, groups * depth), (*side(3), depth, groups * features)
  return partial(ops.conv, **how), x, kernel


@pytest.mark.slow
@ways
@settings(max_examples=4, deadline=None)
@given(convolutions(), zeros, st.integers(0, 99))
def test_convolutions_of_codes_round_their_sums_alone(way, convolution, zero, seed):
  Case(*convolution, **zero, seed=seed).check(way)


@ways
@pytest.mark.parametrize("zero", [0, -128, 31])
def test_linear_layers_and_transposed_convolutions_do_so_too(way, zero):
  Case(matmul, (3, 70), (70, 5), zero=zero).check(way)
  Case(partial(conv_transpose, stride=2), (2, 4, 5, 3), (3, 3, 3, 4), zero=zero).check(way)


@ways
def test_padding_around_a_kernel_of_one_cell_keeps_whole_sums(way):
  convolution = partial(ops.conv, padding=((0, 2), (1, 0)))
  Case(convolution, (2, 5, 5, 40), (1, 1, 40, 2)).check(way)


def test_as_numbers_in_bfloat16_they_would_lose_most_of_it():
  case = Case(partial(ops.conv, padding="SAME"), (2, 8, 8, 16), (3, 3, 16, 8), zero=-128)
  lossy = case.function(*(a.astype(jnp.bfloat16) for a in case.arrays), result=jnp.float32)
  y, _, g = case.computed("tpu")
  expected = case.expected(g)[0]
  lost, left = (np.linalg.norm(np.asarray(a, np.float64) - expected) for a in (lossy, y))
  assert lost > 1000 * left


@given(st.integers(-255, 255), st.floats(2.0**-30, 2.0**30, width=32))
def test_steps_are_told_from_numbers_on_any_grid(steps, scale):
  assert steps_of(jnp.float32(steps) * jnp.float32(scale), jnp.float32(scale)) == steps


def test_what_is_not_on_its_grid_is_multiplied_as_it_is():
  case = Case(matmul, (3, 7), (7, 2))

  @jax.jit
  def run(active):
    with on_grids(case.grids(active, jnp.bfloat16)):
      return multiply(matmul, *case.arrays)

  plain = matmul(*(a.astype(jnp.bfloat16).astype(jnp.float32) for a in case.arrays))
  np.testing.assert_allclose(run(jnp.bool_(False)), plain, rtol=2**-8)  # of the result, at most
  np.testing.assert_allclose(run(jnp.bool_(True)), case.expected(np.ones((3, 2)))[0], rtol=1e-5)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("active", [True, False])
def test_a_switch_in_the_program_gives_values_and_gradients_of_one_outside(way, active):
  target, dtype, codes = WAYS[way]
  case = Case(matmul, (6, 7), (7, 3))

  def run(switch):
    with traced_for(target), ops.formulations(codes=codes), on_grids(case.grids(switch, dtype)):
      y, pull_back = jax.vjp(partial(multiply, matmul), *case.arrays)
      return y, *pull_back(jnp.cos(y))

  known = jax.jit(lambda: run(active))()
  close = 2**-7 if dtype == jnp.bfloat16 else 1e-6  # compilers leave out roundings to bfloat16
  for ours, theirs in zip(jax.jit(run)(jnp.bool_(active)), known, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=close, atol=close)


@pytest.mark.parametrize(("codes", "branches"), [("bfloat16", 0), ("float32", 0), ("int8", 1)])
def test_a_switch_in_the_program_has_a_branch_for_units_of_int8_alone(codes, branches):
  case = Case(matmul, (6, 7), (7, 3))

  def gradient(active):
    with on_grids(case.grids(active)), ops.formulations(codes=codes):
      return jax.grad(lambda x, kernel: multiply(matmul, x, kernel).sum(), (0, 1))(*case.arrays)

  assert str(jax.make_jaxpr(gradient)(jnp.bool_(True))).count("cond[") == branches


@pytest.mark.parametrize("precision", ["highest", "float32"])
def test_float32_keeps_its_digits_on_accelerators_where_it_is_told_to(precision):
  with traced_for("tpu"), jax.default_matmul_precision(precision):
    assert not dispatch.rounds_products(jnp.float32)
    assert dispatch.rounds_products(jnp.bfloat16)
