"""Integers for qwix, whose convolutions and products run on the int8 units of accelerators."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcompress.quantize.integer.lower import average_kernel
from jaxcompress.quantize.model import QuantizedModel


def to_qwix(quantized: QuantizedModel) -> dict[str, Any]:
  """The layers of an integer model as a tree of qwix arrays, nested like the model's parameters.

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
  try:
    import qwix
  except ImportError as error:
    raise ImportError("qwix is not installed; run: pip install 'jaxcompress[qwix]'") from error
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
