"""Quantization of a whole model's kernels, as a map over its parameters."""

from typing import Any

import jax

from jaxcompress.nn.graph import parameters, with_parameters
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.sites import Sites, assign
from jaxcompress.quantize.variables import QuantVariables, key_of


def quantize_kernels(
  plan: Quantization,
  sites: Sites,
  variables: QuantVariables,
  params: Any,
  active: bool | jax.Array,
  *,
  train: bool = False,
  rng: jax.Array | None = None,
) -> tuple[Any, dict[str, Any]]:
  """The parameters with every kernel on its grid where ``active``; gradients pass straight through.

  Args:
    plan: the quantization.
    sites: of the model's graph.
    variables: the quantizers' variables.
    params: the model's parameters, a nested dict.
    active: bool or scalar bool array.
    train: whether the quantizers' state moves on.
    rng: a key for stochastic rounding, or None.

  Returns:
    ``(params, state)``: a tree like ``params``, and the new state of the weights' quantizers.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import find_sites, init_quantizers, int8
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 2),), ((1, 1),))
    >>> plan, sites = int8(bits=2), find_sites(Graph((node,), (1, 2), "dense"))
    >>> params = {"dense": {"kernel": jax.numpy.array([[2.0], [0.4]])}}
    >>> variables = init_quantizers(plan, sites, params)
    >>> quantize = jax.jit(quantize_kernels, static_argnums=(0, 1, 4))
    >>> rounded, _ = quantize(plan, sites, variables, params, True)
    >>> rounded["dense"]["kernel"].tolist()  # two bits: -2, 0 and 2
    [[2.0], [0.0]]
  """
  quantizers = assign(plan, sites).weights

  def rounded(kernels, states):
    pairs = {
      name: quantizer.apply(
        variables.params["weights"][name],
        states[name],
        kernels[name],
        train=train,
        rng=key_of(rng, name),
      )
      for name, quantizer in quantizers.items()
    }
    return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

  kernels = {name: parameters(params, name)["kernel"] for name in quantizers}
  states = variables.state["weights"]
  if not isinstance(active, bool):
    # One branch for all: a select of each kernel would read both.
    kernels, states = jax.lax.cond(active, rounded, lambda *unchanged: unchanged, kernels, states)
  elif active:
    kernels, states = rounded(kernels, states)
  for name, kernel in kernels.items():
    params = with_parameters(params, f"{name}/kernel", kernel)
  return params, states
