"""Which formulation runs where, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import ops
from jaxcompress.ops import dispatch
from jaxcompress.ops.dispatch import ANYWHERE, traced_for


def test_every_backend_names_formulations_that_exist():
  for names in (*dispatch.BACKENDS.values(), dispatch.XLA_ONLY):
    for kind, name in names._asdict().items():
      assert name in dispatch.CHOICES[kind]


def test_the_backend_is_that_of_the_default_device():
  assert dispatch.backend() == jax.default_backend() == "cpu"
  for device in (jax.devices("cpu")[0], "cpu"):
    with jax.default_device(device):
      assert dispatch.backend() == "cpu"


@pytest.mark.parametrize("target", [*dispatch.BACKENDS, ANYWHERE])
def test_programs_are_traced_for_what_they_are_made_for(target, monkeypatch):
  x, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 1, 3))
  texts = set()
  for host in dispatch.BACKENDS:
    monkeypatch.setattr(jax, "default_backend", lambda host=host: host)
    assert dispatch.backend() == host
    with traced_for(target):
      assert dispatch.backend() == target
      texts.add(jax.jit(ops.depthwise_conv).lower(x, kernel).as_text())
  assert len(texts) == 1
  assert ("stablehlo.convolution" in texts.pop()) == (target in ("tpu", ANYWHERE))


def test_a_target_that_is_no_backend_is_refused():
  message = "'cuda' is no backend; it must be one of cpu, gpu, tpu, anywhere"
  with pytest.raises(ValueError, match=message), traced_for("cuda"):
    pass


def test_an_override_reaches_compiled_programs_and_ends_with_its_context():
  x, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 1, 3))
  conv = jax.jit(ops.depthwise_conv)

  def program():
    conv(x, kernel)  # a program cached outside the context must not be used inside
    return conv.lower(x, kernel).as_text()

  assert "stablehlo.convolution" not in program()
  with ops.formulations(depthwise="xla"):
    assert "stablehlo.convolution" in program()
    with ops.formulations(pointwise="xla") as names:
      assert (names.depthwise, names.pointwise) == ("xla", "xla")
  assert "stablehlo.convolution" not in program()


def test_the_gradient_belongs_to_the_formulation_of_its_forward_pass():
  x, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 1, 3))
  with ops.formulations(depthwise="taps"):
    y, pull_back = jax.vjp(ops.depthwise_conv, x, kernel)
  with ops.formulations(depthwise="xla"):
    text = jax.jit(pull_back).lower(y).as_text()
  assert "stablehlo.convolution" not in text


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ({"depthwise": "fast"}, "depthwise: 'fast' is no formulation; it must be one of xla, taps"),
    ({"dense": "xla"}, "'dense' is no kind of operation; they are depthwise, pointwise"),
  ],
)
def test_unknown_formulations_are_refused_by_name(names, message):
  with pytest.raises(ValueError, match=message), ops.formulations(**names):
    pass


def arrays(x, kernel, dtype=jnp.float32):
  return jnp.ones(x), jnp.ones(kernel, dtype)


@pytest.mark.parametrize(
  ("function", "x", "kernel", "kwargs", "message"),
  [
    (ops.conv, (4, 4, 3), (3, 3, 3, 2), {}, "x: shapes"),
    (ops.conv, (1, 4, 4, 3), (3, 3, 4, 2), {}, "groups: 1 groups of 4 input channels"),
    (ops.conv, (1, 4, 4, 4), (3, 3, 2, 3), {"groups": 2}, "groups: 2 groups of 2 input channels"),
    (ops.conv, (1, 4, 4, 3), (3, 3, 3, 2), {"stride": 0}, "stride: 0 must be at least 1"),
    (ops.conv, (1, 4, 4, 3), (3, 3, 3, 2), {"padding": "same"}, "padding: 'same' is unknown"),
    (ops.conv, (1, 4, 4, 3), (3, 3, 3, 2), {"padding": (1, 1)}, r"padding: \(1, 1\) must be"),
    (
      ops.depthwise_conv,
      (1, 4, 4, 3),
      (3, 3, 3, 1),
      {},
      r"kernel: shape .* must be \(kh, kw, 1, 3",
    ),
    (
      ops.pointwise_conv,
      (1, 4, 4, 3),
      (3, 3, 3, 1),
      {},
      r"kernel: shape .* must be \(1, 1, 3, out",
    ),
  ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(function, x, kernel, kwargs, message):
  with pytest.raises(ValueError, match=message):
    function(jnp.ones(x), jnp.ones(kernel), **kwargs)


def test_a_kernel_of_another_dtype_is_refused():
  with pytest.raises(ValueError, match="kernel: bfloat16 differs from the input's float32"):
    ops.pointwise_conv(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 1, 3, 4), jnp.bfloat16))


@pytest.mark.parametrize("groups", [1, 2])
def test_an_input_that_the_kernel_does_not_fit_gives_an_empty_output(groups):
  x, kernel = jnp.ones((2, 2, 5, 2)), jnp.ones((3, 3, 2 // groups, 4))

  def total(x, kernel):
    return jnp.sum(ops.conv(x, kernel, padding="VALID", groups=groups))

  assert ops.conv(x, kernel, padding="VALID", groups=groups).shape == (2, 0, 3, 4)
  for gradient in jax.grad(total, argnums=(0, 1))(x, kernel):
    np.testing.assert_array_equal(gradient, 0)
