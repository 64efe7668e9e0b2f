"""The integer model of trained quantizers, and its arithmetic inside a training step.

The constants of that arithmetic come from the code that makes the file, called back on the host once
per step; the integers themselves are computed on the device that trains, like everything else. So
what training sees is what is deployed, whatever that code does.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn import INPUT, fold
from jaxcompress.nn.graph import parameters
from jaxcompress.quantize.codes import assemble
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.fake_quant import levels, stored_bits, widened
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.quantize.integer.program import Program, all_tensors, for_any_weights
from jaxcompress.quantize.integer.runtimes import find_kernels
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.sites import QuantVariables, Sites, assign

PLAUSIBLE = 0.05  # a step that any layer can have


class Codes(NamedTuple):
  """A network's integers as its quantizers rounded them in training, before BatchNorm is folded.

  Attributes:
    kernels: int8, shaped like the kernel, by layer.
    scales: (out,) float32 of the kernels, by layer.
    grids: (scale, zero point) float32 scalars, by the name of the grid (see ``Sites.keys``).
  """

  kernels: dict[str, jax.Array]
  scales: dict[str, jax.Array]
  grids: dict[str, tuple[jax.Array, jax.Array]]


@partial(jax.jit, static_argnums=(0, 1))
def trained_codes(
  plan: Quantization, sites: Sites, variables: QuantVariables, params: Any
) -> Codes:
  """Codes, scales and grids of every layer and tensor. Jitted.

  Args:
    plan: says which quantizer a layer has.
    sites: of the model's graph.
    variables: the quantizers' variables.
    params: the model's parameters.

  Returns:
    The :class:`Codes`. Activations of 3 to 7 bits get all steps of 8 bits in the range that was
    trained, so that an int8 runtime saturates where training did.

  Raises:
    ValueError: if a layer or tensor stays in float, or its method has no integers.
  """
  assigned = assign(plan, sites)
  kernels, scales, grids = {}, {}, {}
  for name in sites.kernels:
    quantizer = _deployable(assigned.weights, name, "weights")
    if stored_bits(quantizer.levels) > 8:
      raise ValueError(
        f"weights: those of {name!r} have levels up to {quantizer.levels.high}; files hold int8,"
        " so give them at most 8 bits."
      )
    of_layer = variables.params["weights"][name], variables.state["weights"][name]
    kernel = parameters(params, name)["kernel"].astype(jnp.float32)
    rounded, _ = quantizer.apply(*of_layer, kernel, train=False)
    scale, _ = quantizer.grid(*of_layer, kernel)
    kernels[name] = jnp.round(rounded / scale).astype(jnp.int8)
    scales[name] = jnp.broadcast_to(scale, (1,) * (kernel.ndim - 1) + kernel.shape[-1:]).reshape(-1)
  for key in dict.fromkeys(key for tensor, key in sites.keys if tensor not in assigned.gates):
    quantizer = _deployable(assigned.activations, key, "activations")
    of_tensor = variables.params["activations"][key], variables.state["activations"][key]
    grids[key] = _stored(quantizer, *quantizer.grid(*of_tensor, None))
  return Codes(kernels, scales, grids)


def _stored(quantizer: Quantizer, scale: jax.Array, zero: jax.Array):
  """The grid in the integer type of the file."""
  full = levels(stored_bits(quantizer.levels), symmetric=quantizer.levels.symmetric)
  return widened(scale, zero, quantizer.levels, full)


def _deployable(quantizers: Mapping[str, Quantizer], name: str, what: str) -> Quantizer:
  if name not in quantizers:
    raise ValueError(
      f"rules: the {what} of {name!r} stay in float, which integer files do not hold; give them a"
      " quantizer."
    )
  if quantizers[name].training_only is not None:
    raise ValueError(
      f"{what}: those of {name!r} have no integers: {quantizers[name].training_only}"
    )
  return quantizers[name]


def convert(
  plan: Quantization,
  sites: Sites,
  codes: Codes,
  variables: Mapping[str, Any],
  *,
  preprocess: Any = None,
  kernels: str = "xnnpack",
) -> QuantizedModel:
  """The integer model of a trained network. In numpy alone.

  Args:
    plan: says which quantizer a tensor has.
    sites: of the model's graph.
    codes: from :func:`trained_codes`, on the host.
    variables: the model's ``params`` and ``batch_stats``, on the host.
    preprocess: kept in the model.
    kernels: whose arithmetic evaluates it.

  Raises:
    ValueError: as :func:`~jaxcompress.quantize.assemble`.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize import absmax, fixed_range
    >>> from jaxcompress.quantize.sites import find_sites, init_quantizers
    >>> node = Node("dense", "Dense", {"features": 1}, ("input",), ("dense",), ((1, 2),), ((1, 1),))
    >>> sites = find_sites(Graph((node,), (1, 2), "dense"))
    >>> plan = Quantization(weights=absmax(8), activations=fixed_range(-1.0, 1.0))
    >>> params = {"dense": {"kernel": np.float32([[1.0], [-0.2]]), "bias": np.zeros(1)}}
    >>> codes = trained_codes(plan, sites, init_quantizers(plan, sites, params), params)
    >>> model = convert(plan, sites, jax.device_get(codes), {"params": params})
    >>> model.layers["dense"].weights.ravel().tolist()
    [127, -25]
  """
  assigned, grids = assign(plan, sites), {}
  for tensor, key in sites.keys:
    if tensor in assigned.gates:
      grids[tensor] = assigned.gates[tensor]
    else:
      scale, zero = codes.grids[key]
      bits = stored_bits(assigned.activations[key].levels)
      grids[tensor] = Grid(np.float32(scale), int(zero), bits)
  return assemble(
    sites.graph,
    fold(sites.graph, variables),
    {name: np.asarray(scales) for name, scales in codes.scales.items()},
    grids,
    codes={name: np.asarray(kernel) for name, kernel in codes.kernels.items()},
    preprocess=preprocess,
    kernels=kernels,
    apart=sites.apart,
    split_reads=plan.exact_step is None,  # exact training has one graph for all grids
  )


class Constants(NamedTuple):
  """Numbers that the device computes with.

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
  """Evaluates the network as a device does: the values of every rounded tensor. To be traced.

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
    >>> from jaxcompress.quantize import absmax, fixed_range
    >>> from jaxcompress.quantize.sites import find_sites, init_quantizers
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
  program, constants = _constants(plan, sites, *jax.tree.map(_plausible, shapes))
  described = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), constants)

  def on_host(*numbers):
    _, found = _constants(plan, sites, *jax.tree.map(np.asarray, numbers))
    return jax.tree.map(lambda leaf, like: np.asarray(leaf, like.dtype), found, described)

  constants = jax.pure_callback(
    on_host, described, codes, model_variables, vmap_method="sequential"
  )
  steps = for_any_weights(program)
  input_steps = find_kernels(plan.kernels).input_steps
  pixels: Any = images.astype(jnp.float32)  # its arithmetic is that of both libraries
  scaled = input_steps(pixels, constants.scales[INPUT])
  x = jnp.round(jnp.clip(scaled, constants.low, constants.high))
  tensors = all_tensors(steps, constants.arrays, x)
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
