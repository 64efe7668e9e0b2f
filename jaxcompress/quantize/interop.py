"""Integers for qwix, whose convolutions and products run on the int8 units of accelerators."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.integer.lower import average_kernel
from jaxcompress.quantize.model import QuantizedModel


def to_qwix(quantized: QuantizedModel) -> dict[str, Any]:
  """Converts the layers of an integer model to qwix arrays, in a tree like the model's parameters.

  A kernel stands for the folded weights: ``qvalue * scale``, BatchNorm included.

  Args:
    quantized: from training or :func:`~jaxcompress.quantize.post_training`.

  Returns:
    ``{"stem": {"kernel": QArray, "bias": float32 (out,)}, ...}``: ``qvalue`` int8, shaped like the
    kernel, ``scale`` float32, ``(1, ..., 1, out)``, and no zero point.

  Raises:
    ImportError: if the ``qwix`` extra is not installed.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> from jaxcompress.quantize import post_training
    >>> import jax
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    >>> tree = to_qwix(post_training(model, variables, images, method="minmax"))
    >>> tree["stem"]["kernel"].qvalue.dtype, tree["stem"]["kernel"].scale.shape
    (dtype('int8'), (1, 1, 1, 16))

  References:
    `qwix <https://github.com/google/qwix>`_, ``QArray``.
  """
  qwix = _require_qwix()
  tree: dict[str, Any] = {}
  for node in quantized.graph.nodes:
    layer = quantized.layers.get(node.name)
    if layer is None or average_kernel(node) is not None:
      continue
    spread = (1,) * (layer.weights.ndim - 1) + (-1,)
    step = np.float32(quantized.grids[node.inputs[0]].scale) * layer.scales
    *folders, name = node.name.split("/")
    branch = tree
    for folder in folders:
      branch = branch.setdefault(folder, {})
    branch[name] = {
      "kernel": qwix.QArray(jnp.asarray(layer.weights), jnp.asarray(layer.scales).reshape(spread)),
      "bias": jnp.asarray(layer.bias * step, jnp.float32),
    }
  return tree


def activation_to_qwix(quantized: QuantizedModel, tensor: str, codes: Any) -> Any:
  """int8 codes of an activation as a qwix array.

  Args:
    quantized: gives the grid.
    tensor: name of the tensor, such as ``"input"`` or a layer's path.
    codes: int8, any shape.

  Returns:
    A ``QArray`` with one scale and one zero point, in the rank of ``codes``.

  Raises:
    ImportError: if the ``qwix`` extra is not installed.
    ValueError: if the model has no such tensor.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grid = Grid(np.float32(0.5), 2)
    >>> quantized = QuantizedModel(
    ...   Graph((pool,), (1, 2, 2, 3), "pool"), {"input": grid, "pool": grid}, {}
    ... )
    >>> array = activation_to_qwix(quantized, "input", np.int8([[4]]))
    >>> array.scale.tolist(), array.zero_point.tolist()
    ([[0.5]], [[2]])
  """
  qwix = _require_qwix()
  if tensor not in quantized.grids:
    raise ValueError(f"tensor: {tensor!r} is unknown; there are {', '.join(quantized.grids)}.")
  grid, codes = quantized.grids[tensor], jnp.asarray(codes)
  ones = (1,) * codes.ndim
  return qwix.QArray(
    codes,
    jnp.full(ones, grid.scale, jnp.float32),
    jnp.full(ones, grid.zero_point, codes.dtype),
  )


def _require_qwix() -> Any:
  try:
    import qwix
  except ImportError as error:
    raise ImportError("qwix is not installed; run: pip install 'jaxcompress[qwix]'") from error
  return qwix
