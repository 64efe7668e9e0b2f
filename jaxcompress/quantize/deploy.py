"""What trained quantizers leave for the integer file: codes, scales and grids."""

from collections.abc import Mapping

import numpy as np

from jaxcompress.nn import Folded
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.grid import stored_bits
from jaxcompress.quantize.integer import Grid
from jaxcompress.quantize.quantizers import Quantizer
from jaxcompress.quantize.transform import QuantVariables, Sites, assign


def kernel_codes(
  plan: Quantization,
  sites: Sites,
  variables: QuantVariables,
  folded: Mapping[str, Folded],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Scales and integers of every kernel, as its quantizer rounded it in training.

  Args:
    plan: says which quantizer a layer has.
    sites: of the model's graph.
    variables: the quantizers' variables, on the host.
    folded: gives the kernels as trained.

  Returns:
    ``(scales, codes)`` by layer: float32 (out,), and int8 shaped like the kernel.

  Raises:
    ValueError: if a layer stays in float, or its method has no integers.
  """
  quantizers = assign(plan, sites).weights
  scales, codes = {}, {}
  for name in sites.kernels:
    quantizer = _deployable(quantizers, name, "weights")
    if stored_bits(quantizer.levels) > 8:
      raise ValueError(
        f"weights: those of {name!r} have levels up to {quantizer.levels.high}; files hold int8,"
        " so give them at most 8 bits."
      )
    of_layer = variables.params["weights"][name], variables.state["weights"][name]
    kernel = folded[name].kernel
    rounded = np.asarray(quantizer.apply(*of_layer, kernel, train=False)[0], np.float64)
    scale = np.asarray(quantizer.grid(*of_layer, kernel)[0], np.float32)
    scales[name] = np.broadcast_to(scale, (1,) * (kernel.ndim - 1) + kernel.shape[-1:]).reshape(-1)
    codes[name] = np.rint(rounded / scale).astype(np.int8)
  return scales, codes


def activation_grids(
  plan: Quantization, sites: Sites, variables: QuantVariables
) -> dict[str, Grid]:
  """The grid of every tensor.

  Args:
    plan: says which quantizer a tensor has.
    sites: of the model's graph.
    variables: the quantizers' variables, on the host.

  Raises:
    ValueError: if a tensor stays in float, or its method has no integers.
  """
  assigned, grids = assign(plan, sites), {}
  for tensor, key in sites.keys:
    if tensor in assigned.gates:
      grids[tensor] = assigned.gates[tensor]
      continue
    quantizer = _deployable(assigned.activations, key, "activations")
    scale, zero = quantizer.grid(
      variables.params["activations"][key], variables.state["activations"][key], None
    )
    grids[tensor] = Grid(np.float32(scale), int(zero), stored_bits(quantizer.levels))
  return grids


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
