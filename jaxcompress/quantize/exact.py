"""The arithmetic of the device inside a training step.

The constants of every layer come from the code that makes the file, called back on the host once
per step; the integers themselves are computed on the device that trains, like everything else.
So what training sees is what is deployed, whatever that code does.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import INPUT
from jaxcompress.quantize import integer
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.integer import Grid, Program
from jaxcompress.quantize.integer.runtimes import find_kernels
from jaxcompress.quantize.sites import Sites
from jaxcompress.quantize.trained import Codes, convert, trained_codes
from jaxcompress.quantize.variables import QuantVariables

PLAUSIBLE = 0.05  # a step that any layer can have


class Constants(NamedTuple):
  """What the device computes with.

  Attributes:
    arrays: of a program's steps.
    scales: float32 scalars, by tensor.
    low: smallest ``q - zero_point`` of the input, float32 scalar.
    high: the largest.
  """

  arrays: tuple[dict[str, Any], ...]
  scales: dict[str, Any]
  low: Any
  high: Any


def exact_values(
  plan: Quantization,
  sites: Sites,
  variables: QuantVariables,
  model_variables: Mapping[str, Any],
  images: jax.Array,
) -> dict[str, jax.Array]:
  """What every rounded tensor stands for when a device evaluates the network. To be traced.

  BatchNorm is folded with its running statistics. Nothing of it has a gradient.

  Args:
    plan: says which quantizer a layer has, and whose arithmetic it is (``plan.kernels``).
    sites: of the model's graph.
    variables: the quantizers' variables.
    model_variables: the model's ``params`` and ``batch_stats``.
    images: float32, (batch, height, width, channels).

  Returns:
    Float32 arrays by tensor, the input and the logits among them.

  Raises:
    ValueError: when traced: if a layer stays in float, or its method has no integers; when run: if
      the device would refuse the network.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import absmax, find_sites, fixed_range, init_quantizers
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 2),), ((1, 1),))
    >>> sites = find_sites(Graph((node,), (1, 2), "dense"))
    >>> plan = Quantization(weights=absmax(8), activations=fixed_range(-1.0, 1.0))
    >>> params = {"dense": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}
    >>> variables, images = init_quantizers(plan, sites, params), jnp.array([[0.25, 0.5]])
    >>> values = jax.jit(exact_values, static_argnums=(0, 1))
    >>> round(values(plan, sites, variables, {"params": params}, images)["dense"].item(), 2)
    0.75
  """
  inputs = jax.lax.stop_gradient((variables, dict(model_variables), images))
  variables, model_variables, images = inputs
  codes = trained_codes(plan, sites, variables, model_variables["params"])
  shapes = jax.eval_shape(lambda *trees: trees, codes, model_variables)
  program, template = _constants(plan, sites, *jax.tree.map(_plausible, shapes))
  leaves, structure = jax.tree.flatten(template)

  def on_host(codes, model_variables):
    codes, model_variables = jax.tree.map(np.asarray, (codes, model_variables))
    _, constants = _constants(plan, sites, codes, model_variables)
    found, same = jax.tree.flatten(constants)
    if same != structure:
      raise RuntimeError("constants: their structure depends on values; this is a bug")
    return [np.asarray(leaf, old.dtype) for leaf, old in zip(found, leaves, strict=True)]

  described = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
  found = jax.pure_callback(on_host, described, codes, model_variables)
  constants = jax.tree.unflatten(structure, found)
  steps = integer.for_any_weights(program)
  input_steps = find_kernels(plan.kernels).input_steps
  pixels: Any = images.astype(jnp.float32)  # its arithmetic is that of both libraries
  scaled = input_steps(pixels, Grid(constants.scales[INPUT], 0))
  x = jnp.round(jnp.clip(scaled, constants.low, constants.high))
  tensors = integer.all_tensors(steps, constants.arrays, x)
  return {name: tensors[name] * constants.scales[name] for name in sites.rounded}


def _constants(
  plan: Quantization, sites: Sites, codes: Codes, model_variables: Mapping[str, Any]
) -> tuple[Program, Constants]:
  """The program of a network and its constants, in numpy."""
  model = convert(plan, sites, codes, model_variables, kernels=plan.kernels)
  source = model.grids[INPUT]
  scales = {name: np.asarray(model.grids[name].scale, np.float32) for name in sites.rounded}
  low, high = np.float32(source.low), np.float32(source.high)
  arrays = jax.tree.map(np.asarray, model.program.arrays)
  return model.program, Constants(arrays, scales, np.asarray(low), np.asarray(high))


def _plausible(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
  """Numbers from which a network can be assembled: its structure does not depend on them."""
  if leaf.dtype == np.int8:
    return np.ones(leaf.shape, leaf.dtype)
  return np.full(leaf.shape, PLAUSIBLE if leaf.shape == () else 1.0, leaf.dtype)
