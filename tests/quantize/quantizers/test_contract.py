"""The contract of every quantizer, whatever its method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcompress import quantize as q

WEIGHTS = {
  **{f"absmax {bits}": q.absmax(bits) for bits in (8, 2)},
  **{f"lsq {bits}": q.lsq(bits) for bits in (8, 4, 3)},
  "lsq 2, all levels": q.lsq(2, narrow=False),
  "lsq 4, per tensor": q.lsq(4, per_channel=False),
  **{f"lsq_plus {bits}": q.lsq_plus(bits) for bits in (8, 2)},
  **{f"dorefa {bits}": q.dorefa(bits) for bits in (8, 7, 2, 1)},
  **{f"wrpn {bits}": q.wrpn(bits) for bits in (8, 2)},
  "twn": q.twn(),
  "twn, per tensor": q.twn(per_channel=False),
  "ttq": q.ttq(),
  "bwn": q.bwn(),
  "bwn, through scale": q.bwn(gradient="through_scale"),
  "xnor": q.xnor(),
  **{f"ewgs {bits}": q.ewgs(bits, factor=0.1) for bits in (8, 4)},
  "cluster": q.cluster(8, start="linear"),
  "stochastic": q.stochastic(q.absmax(4)),
  "progressive": q.progressive(q.absmax(8), q.lsq(4), at=(1,)),
  "freeze_oscillating": q.freeze_oscillating(q.lsq(3)),
}
ACTIVATIONS = {
  **{f"ema_range {bits}": q.ema_range(bits) for bits in (8, 2)},
  "ema_range, debiased": q.ema_range(8, debias=True),
  "ema_range, symmetric": q.ema_range(4, symmetric=True),
  "fixed_range": q.fixed_range(-1.0, 2.0),
  "minmax_range": q.minmax_range(),
  "mean_range": q.mean_range(),
  **{f"lsq_activations {bits}": q.lsq_activations(bits) for bits in (8, 3)},
  **{f"lsq_plus_activations {bits}": q.lsq_plus_activations(bits) for bits in (8, 2)},
  **{f"pact {bits}": q.pact(bits) for bits in (8, 4)},
  "pact, fixed start": q.pact(8, clip=6.0),
  **{f"dorefa_activations {bits}": q.dorefa_activations(bits) for bits in (8, 1)},
  "dorefa_activations, gradients": q.dorefa_activations(8, bound=6.0, gradient_bits=4),
  **{f"ewgs_activations {bits}": q.ewgs_activations(bits, factor=0.1) for bits in (8, 2)},
  "stochastic range": q.stochastic(q.ema_range(4)),
  "progressive range": q.progressive(q.ema_range(8), q.lsq_activations(4), at=(1,)),
  "binary_activations": q.binary_activations(),
  "binary_activations, clip": q.binary_activations(gradient="clip"),
  "xnor_activations": q.xnor_activations(),
  "rsign_activations": q.rsign_activations(),
}
ALL = {**WEIGHTS, **ACTIVATIONS}
APPLY = {
  name: jax.jit(quantizer.apply, static_argnames=("train", "nonnegative"))
  for name, quantizer in ALL.items()
}


def step_of(quantizer):
  """A function that does what training does: values, state and slopes, by a flag of run time."""

  def step(params, state, x, train):
    def total(params, x):
      y, after = quantizer.apply(params, state, x, train=train)
      return jnp.sum(y**2), (y, after)

    slopes, (y, after) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
    return slopes, y, after

  return step


STEP = {name: jax.jit(step_of(quantizer)) for name, quantizer in ALL.items()}
# Squashing by tanh, and scales from what was already squashed or clustered, are not projections.
IDEMPOTENT = [name for name in ALL if not name.startswith("dorefa ") and name != "cluster"]
SHAPE = (3, 3, 2, 5)

every = pytest.mark.parametrize("name", ALL)


def inputs(seed=0, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), SHAPE).astype(dtype)


def fresh(name, x):
  params, state = ALL[name].init(x)
  return params, APPLY[name](params, state, x, train=True)[1]


def same_kind(a, b):
  describe = lambda leaf: (leaf.shape, leaf.dtype, jax.typeof(leaf).weak_type)  # noqa: E731
  assert jax.tree.map(describe, a) == jax.tree.map(describe, b)


@every
def test_state_and_values_keep_their_structure_dtype_and_program(name):
  params, state = ALL[name].init(inputs())
  compiled = STEP[name]._cache_size()
  for seed, train in enumerate((True, False, True)):
    x = inputs(seed)
    slopes, y, after = STEP[name](params, state, x, jnp.bool_(train))
    same_kind(after, state)
    same_kind(slopes, (params, x))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    if not train:
      jax.tree.map(np.testing.assert_array_equal, after, state)
    state = after
  assert STEP[name]._cache_size() - compiled <= 1


@pytest.mark.slow
@every
def test_a_traced_flag_does_what_a_plain_one_does(name):
  x = inputs()
  params, state = ALL[name].init(x)
  for train in (True, False, True):
    plain = APPLY[name](params, state, x, train=train)
    traced = STEP[name](params, state, x, jnp.bool_(train))[1:]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), plain, traced)
    state, x = plain[1], 2 * x


@pytest.mark.slow
@every
def test_seeds_can_be_mapped_over(name):
  quantizer, train = ALL[name], jnp.bool_(True)
  batch = jnp.stack([inputs(seed) * (seed + 1) for seed in range(3)])
  mapped = jax.jit(jax.vmap(lambda x: step_of(quantizer)(*quantizer.init(x), x, train)))(batch)
  for i, x in enumerate(batch):
    one = STEP[name](*quantizer.init(x), x, train)
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4), mapped, one
    )


@pytest.mark.slow
@every
def test_half_precision_goes_in_and_comes_out(name):
  x = inputs(dtype=jnp.bfloat16)
  params, state = fresh(name, x)
  y, pull = jax.vjp(lambda p, x: APPLY[name](p, state, x, train=False)[0], params, x)
  slopes, dx = pull(jnp.ones_like(y))
  assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
  assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves((params, state, slopes)))
  wide, _ = APPLY[name](params, state, x.astype(jnp.float32), train=False)
  np.testing.assert_allclose(y.astype(jnp.float32), wide, rtol=2**-7)


@every
def test_zeros_give_finite_values_grids_and_gradients(name):
  quantizer, x = ALL[name], jnp.zeros(SHAPE)
  params, state = fresh(name, x)
  scale, zero = quantizer.grid(params, state, x)
  for leaf in jax.tree.leaves((*STEP[name](params, state, x, jnp.bool_(True)), scale, zero)):
    assert np.all(np.isfinite(leaf))
  assert np.all(scale > 0)


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name].training_only is None])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_values_lie_on_the_grid_that_is_exported(name, nonnegative):
  quantizer = ALL[name]
  x = jnp.abs(inputs()) if nonnegative else inputs()
  params, state = fresh(name, x)
  params = jax.tree.map(lambda p: p + 0.013, params)
  scale, zero = quantizer.grid(params, state, x if name in WEIGHTS else None)
  if name in WEIGHTS:
    assert scale.shape == zero.shape == (1, 1, 1, SHAPE[-1])
    assert not np.any(zero)
    assert -127 <= quantizer.levels.low < quantizer.levels.high <= 127
  else:
    assert scale.shape == zero.shape == ()
    assert -128 <= quantizer.levels.low < quantizer.levels.high <= 127
  for values in (x, 0.1 * x, 3 * x) if name in ACTIVATIONS else (x,):
    y, _ = APPLY[name](params, state, values, train=False)
    codes = np.round(y / scale) + zero
    np.testing.assert_allclose((codes - zero) * scale, y, rtol=1e-5, atol=1e-6)
    assert quantizer.levels.low <= codes.min()
    assert codes.max() <= quantizer.levels.high


@pytest.mark.parametrize("name", IDEMPOTENT)
def test_rounding_twice_changes_nothing(name):
  x = inputs()
  params, state = fresh(name, x)
  once, _ = APPLY[name](params, state, x, train=False)
  twice, _ = APPLY[name](params, state, once, train=False)
  np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_need_the_shape_only(name):
  quantizer, x = ALL[name], inputs()
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  same_kind(quantizer.init(shape), quantizer.init(x))
  same_kind(quantizer.merge(*[quantizer.init(x)[1]] * 2), quantizer.init(x)[1])
  if not name.startswith("rsign"):
    same_kind(quantizer.init(jnp.zeros(())), quantizer.init(x))


@pytest.mark.parametrize("name", ["lsq_activations 8", "pact 4", "lsq_plus_activations 8"])
def test_tensors_that_share_a_grid_get_one_that_holds_both_signs(name):
  quantizer, x = ALL[name], inputs()
  params, state = quantizer.init(x)
  _, rectified = APPLY[name](params, state, jnp.abs(x), train=True, nonnegative=True)
  _, signed = APPLY[name](params, state, 2 * x, train=True)
  merged = quantizer.merge(rectified, signed)
  y, _ = APPLY[name](params, merged, x, train=False)
  assert jnp.min(y) < 0 < jnp.max(y)


@pytest.mark.parametrize("name", ["lsq 4", "lsq_plus 8", "twn", "ttq", "bwn", "ewgs 4", "absmax 8"])
@settings(deadline=None, max_examples=15)
@given(
  x=hnp.arrays(np.float32, (4, 3), elements=st.floats(-1e3, 1e3, width=32)),
  exponent=st.integers(-6, 6),
)
def test_scaling_a_kernel_scales_what_it_is_rounded_to(name, x, exponent):
  factor = 2.0**exponent
  x = np.where(np.abs(x) < 1e-3, 0, x)
  y = APPLY[name](*fresh(name, jnp.asarray(x)), x, train=False)[0]
  x = jnp.asarray(x * np.float32(factor))
  scaled = APPLY[name](*fresh(name, x), x, train=False)[0]
  if all(np.any(x[:, i]) for i in range(3)):
    np.testing.assert_allclose(scaled, y * factor, rtol=1e-5)
  assert np.all(np.isfinite(scaled))


@pytest.mark.parametrize("name", [n for n in ALL if n.split()[0] in ("lsq", "ewgs", "lsq_plus")])
@settings(deadline=None, max_examples=10)
@given(x=hnp.arrays(np.float32, (8, 2), elements=st.floats(-100, 100, width=32)))
def test_a_value_within_the_range_moves_by_half_a_step_at_most(name, x):
  quantizer = ALL[name]
  params, state = fresh(name, jnp.asarray(x))
  y, _ = APPLY[name](params, state, x, train=False)
  scale, _ = quantizer.grid(params, state, x)
  within = (x >= scale * quantizer.levels.low) & (x <= scale * quantizer.levels.high)
  assert np.all(np.where(within, np.abs(y - x) <= scale * 0.5001, True))
