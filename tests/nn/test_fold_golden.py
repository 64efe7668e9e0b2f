"""Folding BatchNorm, against the golden layers, in float and on a grid of integers."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import nn, ops
from jaxcompress.quantize import fake_quant, levels


class OneLayer(linen.Module):
  """A 3x3 convolution with BatchNorm."""

  groups: int | str
  epsilon: float

  @linen.compact
  def __call__(self, x, *, train):
    layer = nn.ConvNorm(
      8, kernel=3, groups=self.groups, padding="SYMMETRIC", norm=nn.Norm(self.epsilon), name="layer"
    )
    return layer(x, train=train)


@pytest.fixture(params=["conv", "depthwise"])
def case(request, golden):
  """A golden layer, and what folding makes of it."""
  kind = request.param
  arrays = {k.split("/")[1]: v for k, v in golden("quantize/bnfold").items() if k.startswith(kind)}
  model = OneLayer("depthwise" if kind == "depthwise" else 1, float(arrays["eps"]))
  variables = {
    "params": {"layer": {"kernel": arrays["w"], "scale": arrays["gamma"], "bias": arrays["beta"]}},
    "batch_stats": {"layer": {"mean": arrays["mean"], "var": arrays["var"]}},
  }
  graph = nn.trace(model, variables, jax.ShapeDtypeStruct(arrays["x"].shape, jnp.float32))
  return arrays, nn.fold(graph, variables)["layer"]


def test_folded_weights_and_biases_are_the_golden_ones(case):
  arrays, folded = case
  np.testing.assert_allclose(folded.weights, arrays["w_folded"], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(folded.bias, arrays["b_folded"], rtol=1e-5, atol=1e-6)


def test_the_folded_layer_on_integers_gives_the_golden_outputs(case):
  arrays, folded = case
  scale = arrays["scale_w"].reshape(1, 1, 1, -1)
  to = levels(8, symmetric=True, narrow=True)
  rounded = fake_quant(folded.weights, scale, jnp.zeros_like(scale), to)
  np.testing.assert_allclose(rounded, arrays["wq"], rtol=1e-5, atol=1e-6)
  groups = arrays["x"].shape[-1] if arrays["w"].shape[2] == 1 else 1
  y = ops.conv(jnp.asarray(arrays["x"]), rounded, padding="SYMMETRIC", groups=groups)
  y = y + folded.bias.astype(np.float32).reshape(1, 1, 1, -1)
  np.testing.assert_allclose(y, arrays["y_eval_q"], rtol=1e-4, atol=1e-4)
