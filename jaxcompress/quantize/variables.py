"""Variables of a whole model's quantizers."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn.graph import parameters
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.sites import Sites, assign


class QuantVariables(NamedTuple):
  """Variables of all quantizers.

  Attributes:
    params: trained; ``{"weights": {layer: ...}, "activations": {tensor: ...}}``.
    state: carried along, such as ranges; the same structure.
  """

  params: Any
  state: Any


def init_quantizers(plan: Quantization, sites: Sites, params: Any) -> QuantVariables:
  """Fresh variables of every quantizer.

  Args:
    plan: the quantization.
    sites: of the model's graph.
    params: the model's parameters.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import find_sites, int8
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 2),), ((1, 1),))
    >>> sites = find_sites(Graph((node,), (1, 2), "dense"))
    >>> variables = init_quantizers(int8(), sites, {"dense": {"kernel": jnp.ones((2, 1))}})
    >>> list(variables.state["weights"]), list(variables.state["activations"])
    (['dense'], ['input', 'dense'])
  """
  assigned = assign(plan, sites)
  pairs = {
    "weights": {
      name: quantizer.init(parameters(params, name)["kernel"])
      for name, quantizer in assigned.weights.items()
    },
    "activations": {
      key: quantizer.init(jax.ShapeDtypeStruct(sites.graph.shape(key), jnp.float32))
      for key, quantizer in assigned.activations.items()
    },
  }
  pick = lambda i: {  # noqa: E731
    kind: {name: pair[i] for name, pair in found.items()} for kind, found in pairs.items()
  }
  return QuantVariables(pick(0), pick(1))


def key_of(rng: jax.Array | None, name: str) -> jax.Array | None:
  """A key of the tensor's own."""
  return None if rng is None else jax.random.fold_in(rng, zlib.crc32(name.encode()))
