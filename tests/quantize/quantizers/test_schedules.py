"""Quantizers that change in mid-run: bits that fall, and weights that are frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.quantize.quantizers.around import freeze_oscillating, progressive
from jaxcompress.quantize.quantizers.lsq import lsq, lsq_activations
from jaxcompress.quantize.quantizers.uniform import absmax, ema_range

W = jax.random.normal(jax.random.key(0), (6, 4))


@pytest.mark.slow
def test_each_quantizer_rules_for_its_steps_and_starts_from_the_numbers_it_finds():
  quantizer = progressive(absmax(8), lsq(4), lsq(2), at=(2, 3))
  apply = jax.jit(quantizer.apply)
  params, state = quantizer.init(W)
  kernels = [W, 2 * W, 4 * W, 8 * W, 16 * W]
  in_charge = [(absmax(8), 0), (absmax(8), 0), (lsq(4), 2), (lsq(2), 3), (lsq(2), 3)]
  for step, (w, (alone, start)) in enumerate(zip(kernels, in_charge, strict=True)):
    y, state = apply(params, state, w, train=True)
    fresh, own = alone.init(w)
    _, own = alone.apply(fresh, own, kernels[start], train=True)
    expected, _ = alone.apply(fresh, own, w, train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-6, err_msg=str(step))
    kept, after = apply(params, state, w, train=False)  # as was trained last, not as comes next
    np.testing.assert_allclose(kept, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    scale, zero = quantizer.grid(params, state, w)
    np.testing.assert_allclose(np.round(y / scale) * scale, y, rtol=1e-5)
    assert not np.any(zero)
  assert apply._cache_size() <= 2
  assert int(state.count) == 5


def test_only_the_quantizer_in_charge_is_trained():
  quantizer = progressive(lsq(8), lsq(4), at=(1,))
  params, state = quantizer.init(W)
  for trained in (0, 1):
    total = lambda p, state=state: jnp.sum(W * quantizer.apply(p, state, W, train=True)[0])  # noqa: E731
    slopes = jax.grad(total)(params)
    assert np.any(slopes[trained].delta)
    assert not np.any(slopes[1 - trained].delta)
    state = quantizer.apply(params, state, W, train=True)[1]


@pytest.mark.parametrize("later", [ema_range(4), lsq_activations(4), ema_range(8), ema_range(6)])
@pytest.mark.parametrize("first", [ema_range(8), ema_range(4)])
def test_activations_go_into_the_file_with_the_range_of_the_quantizer_in_charge(first, later):
  """In all levels of the file's integers, whatever the bits of the others are."""
  quantizer, x = progressive(first, later, at=(2,)), jax.random.normal(jax.random.key(1), (4, 64))
  params, state = quantizer.init(x)
  for step in range(4):
    _, state = quantizer.apply(params, state, x, train=True)
    alone = (first, later)[step >= 2]
    of_alone = params[step >= 2], state.states[step >= 2]
    low, high, _ = alone.levels
    scale, zero = alone.grid(*of_alone, None)
    expected = (low - zero) * scale, (high - zero) * scale
    low, high, _ = quantizer.levels
    scale, zero = quantizer.grid(params, state, None)
    found = (low - zero) * scale, (high - zero) * scale
    np.testing.assert_allclose(found, expected, atol=0.51 * float(scale))


def oscillation_by_hand(kernels, scale, momentum, threshold):
  """Algorithm 1 of Nagel et al., 2022, weight by weight in float64."""
  codes = np.array([np.clip(np.rint(k / s), -3, 3) for k, s in zip(kernels, scale, strict=True)])
  rounded = []
  frozen, previous, direction, frequency, average = False, codes[0], 0, 0.0, codes[0]
  for code, s in zip(codes, scale, strict=True):
    rounded.append((average if frozen else code) * s)
    if frozen:
      continue
    change = np.sign(code - previous)
    turned = change != 0 and change == -direction
    frequency = momentum * turned + (1 - momentum) * frequency
    average = momentum * code + (1 - momentum) * average
    if frequency > threshold:
      frozen, average = True, np.rint(average)
    direction = change if change else direction
    previous = code
  return rounded, frozen


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_freezing_follows_the_algorithm_of_the_paper(seed):
  rng = np.random.default_rng(seed)
  quantizer = freeze_oscillating(absmax(3), threshold=0.15, momentum=0.1)
  kernels = np.cumsum(rng.normal(0, 0.3, (25, 12, 1)), axis=0).astype(np.float32)
  kernels[:, 0] = 3.0  # the largest: steps of one
  kernels = np.clip(kernels, -3, 3)
  params, state = quantizer.init(kernels[0])
  got = []
  for w in kernels:
    y, state = STEP(params, state, w)
    got.append(np.asarray(y)[:, 0])
  for i in range(1, 12):
    wanted, frozen = oscillation_by_hand(kernels[:, i, 0], np.ones(25), 0.1, 0.15)
    np.testing.assert_allclose(np.array(got)[:, i], wanted, atol=1e-5)
    assert bool(state.frozen[i, 0]) == frozen


STEP = jax.jit(
  lambda params, state, w: freeze_oscillating(absmax(3), threshold=0.15, momentum=0.1).apply(
    params, state, w, train=True
  )
)


@pytest.mark.slow
def test_a_frozen_weight_gets_no_gradient_and_its_step_still_does():
  quantizer = freeze_oscillating(lsq(4), threshold=optax.constant_schedule(0.3), momentum=0.5)
  w = jnp.array([[1.0], [0.2], [0.3]])
  params, state = quantizer.init(w)
  state = state._replace(
    inner=state.inner._replace(base=jnp.ones((1, 1)), count=jnp.int32(1)),
    frozen=jnp.array([[True], [False], [False]]),
    average=jnp.array([[2.0], [0.0], [0.0]]),
    count=jnp.int32(1),
  )
  pull = jax.vjp(lambda p, w: quantizer.apply(p, state, w, train=False)[0], params, w)
  y, (d_params, d_w) = pull[0], pull[1](jnp.ones((3, 1)))
  np.testing.assert_array_equal(y.ravel(), [2.0, 0.0, 0.0])
  np.testing.assert_array_equal(d_w.ravel(), [0.0, 1.0, 1.0])
  rest = (0 - 0.2 + 0 - 0.3) / np.sqrt(3 * 7)  # of the two that are rounded
  np.testing.assert_allclose(d_params.delta.item(), 2.0 + rest, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: progressive(absmax(8), absmax(4), at=()), "has 0 steps for 2 quantizers"),
    (lambda: progressive(lsq(8), lsq(4), lsq(2), at=(5, 5)), "must be positive and increasing"),
    (lambda: progressive(lsq_activations(8), lsq_activations(4), at=(0,)), "must be positive"),
    (lambda: progressive(ema_range(16), ema_range(8), at=(1,)), "integers of two types"),
    (lambda: freeze_oscillating(absmax(4), momentum=0.0), "momentum: 0.0 is out of range"),
    (lambda: freeze_oscillating(absmax(4), threshold=1.5), "threshold: 1.5 is out of range"),
  ],
)
def test_mistakes_name_the_argument(make, message):
  with pytest.raises(ValueError, match=message):
    make()
