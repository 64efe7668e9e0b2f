"""Networks given as lists of leaf ops, such as those from which channels were removed."""

from collections.abc import Sequence
from typing import Any

from jaxcompress.nn import INPUT, Endpoints
from jaxcompress.nn.replay import Replay, parse_layer


def replayed(
  num_classes: int | None = None,
  *,
  layers: Sequence[Any],
  ends: Sequence[Any],
  image_size: int,
  origin: str = "",
) -> Replay:
  """A network from its leaf ops, as a file keeps them; ``prune.remove_channels`` makes such ones.

  Args:
    num_classes: size of the logits, which the layers say too; None: those.
    layers: of :class:`~jaxcompress.nn.replay.Layer` s or their plain values: name, op, fields, inputs.
    ends: names of the tensors in :class:`~jaxcompress.nn.Endpoints`.
    image_size: side of the images that it is made for.
    origin: what it was made of.

  Returns:
    A linen module like any other.

  Raises:
    ValueError: if a layer is none, is there twice or reads what no earlier layer made, the classes
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
  if image_size < 1:
    raise ValueError(f"image_size: {image_size} must be at least 1.")
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
  logits, pooled, *maps = ends if len(ends) > 1 else (*ends, None)
  wanted = Endpoints(logits, pooled, *map(tuple, maps))
  for tensor in (logits, pooled or logits, *wanted.maps, *wanted.preact):
    if tensor not in made:
      raise ValueError(f"ends: {tensor!r} is no tensor of the layers.")
  last = next(layer for layer in parsed if layer.name == logits)
  classes = last.fields.get("features", num_classes)
  if num_classes not in (None, classes):
    raise ValueError(f"num_classes: {num_classes} is not the {classes} of {logits!r}.")
  return Replay(classes, parsed, wanted, image_size, origin)
