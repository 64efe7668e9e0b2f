"""Networks given as lists of leaf ops, such as those from which channels were removed."""

from collections.abc import Sequence
from typing import Any

from flax.core import FrozenDict

from jaxcompress.nn import INPUT, Endpoints
from jaxcompress.nn.checks import is_whole
from jaxcompress.nn.replay import Replay, maker_of, parse_layer, size_of


def replayed(
  num_classes: int | None = None,
  *,
  layers: Sequence[Any],
  ends: Sequence[Any],
  image_size: int | Sequence[int],
  origin: str = "",
) -> Replay:
  """A network from its leaf ops, as a file keeps them; ``prune.remove_channels`` makes such ones.

  Args:
    num_classes: size of the logits, which the layers say too; None: those.
    layers: of :class:`~jaxcompress.nn.replay.Layer` s or their plain values: name, op, fields, inputs.
    ends: names of the tensors in :class:`~jaxcompress.nn.Endpoints`; its ``outputs`` may be left out.
    image_size: side of the images that it is made for, or their shape (height, width, channels).
    origin: what it was made of.

  Returns:
    A linen module like any other.

  Raises:
    ValueError: if a layer is not valid, is there twice or reads a tensor that no earlier layer made, the classes
      differ, or the image size is not positive.

  Examples:
    >>> layers = [
    ...   ["pool", "GlobalAvgPool", {"keepdims": False}, ["input"]],
    ...   ["classifier", "Dense", {"features": 4, "use_bias": True}, ["pool"]],
    ... ]
    >>> from jaxcompress import models
    >>> models.summarize(replayed(4, layers=layers, ends=["classifier"], image_size=8)).parameters
    16
  """
  shape = (image_size, image_size, 3) if isinstance(image_size, int) else tuple(image_size)
  if len(shape) != 3 or not all(is_whole(side, 1) for side in shape):
    raise ValueError(
      f"image_size: {image_size} must be at least 1, or a shape (height, width, channels)."
    )
  parsed = tuple(map(parse_layer, layers))
  made = {INPUT}
  for layer in parsed:
    missing = [tensor for tensor in layer.inputs if tensor not in made]
    if missing:
      raise ValueError(f"layers: {layer.name!r} reads {missing[0]!r}, which no layer before makes.")
    if layer.name in made:
      raise ValueError(f"layers: {layer.name!r} is there twice; give each layer its own name.")
    made.add(layer.name)
    made |= {f"{layer.name}:{i}" for i in range(1, len(layer.fields.get("sizes", ())))}
  defaults: tuple[Any, ...] = (None, (), (), {})
  logits, pooled, maps, preact, outputs = (*ends, *defaults[len(ends) - 1 :])
  wanted = Endpoints(logits, pooled, tuple(maps), tuple(preact), FrozenDict(outputs))
  for tensor in (logits, pooled or logits, *wanted.maps, *wanted.preact, *outputs.values()):
    if tensor not in made:
      raise ValueError(f"ends: {tensor!r} is no tensor of the layers.")
  last = maker_of(parsed, logits)
  classes = last.fields.get("features", num_classes)
  if num_classes not in (None, classes):
    raise ValueError(f"num_classes: {num_classes} is not the {classes} of {logits!r}.")
  return Replay(classes, parsed, wanted, size_of(shape), origin)
