"""Where networks halve the resolution, for large and for small images; rounding of channels."""

import math
import numbers
from collections.abc import Sequence

from jaxcompress.nn.checks import is_whole

LAYOUTS = {"imagenet": 224, "cifar": 32}  # and the side of the images that they are meant for
SMALL_IMAGE = 64
HALVINGS_LEFT_OUT = 2
COUNTS = ("num_classes", "expand", "widen")
"""Arguments of models that are whole numbers."""


def layout_strides(layout: str, image_size: int, strides: Sequence[int]) -> tuple[int, ...]:
  """Strides of a network whose rows are written for 224 px, in the layout that was asked for.

  Args:
    layout: ``"imagenet"``: the strides as they are; ``"cifar"``: without the first two halvings,
      so that 32 px end at 4; ``"auto"``: ``"cifar"`` for images of at most 64 px.
    image_size: side of the images in pixels.
    strides: of the stem (and its pooling), then of each stage.

  Examples:
    >>> layout_strides("auto", 32, (2, 1, 2, 2, 1, 2)), layout_strides("auto", 224, (2, 1, 2))
    ((1, 1, 1, 2, 1, 2), (2, 1, 2))
  """
  if layout == "imagenet" or (layout == "auto" and image_size > SMALL_IMAGE):
    return tuple(strides)
  halvings = [i for i, stride in enumerate(strides) if stride > 1]
  return tuple(1 if i in halvings[:HALVINGS_LEFT_OUT] else s for i, s in enumerate(strides))


def resolution_ends(strides: Sequence[int]) -> tuple[int, ...]:
  """Stages that end a resolution, below the stem's: where networks give a feature map.

  Args:
    strides: of each stage in the ImageNet layout, without the stem; so that the maps are those of
      the same stages in every layout.

  Examples:
    >>> resolution_ends((1, 2, 2, 2, 1, 2, 1))
    (1, 2, 4, 6)
  """
  first = next((i for i, stride in enumerate(strides) if stride > 1), 0)
  last = len(strides) - 1
  return tuple(i for i in range(first, last + 1) if i == last or strides[i + 1] > 1)


def native_size(layout: str) -> int:
  """Side in pixels of the images that a layout is meant for; 224 for ``"auto"``."""
  return LAYOUTS.get(layout, LAYOUTS["imagenet"])


def check_layout(layout: str, *others: str) -> None:
  """Raises ``ValueError`` unless the layout exists; ``others`` are those of one model alone."""
  if layout not in ("auto", *LAYOUTS, *others):
    raise ValueError(
      f"layout: {layout!r} is unknown; it must be one of {', '.join(('auto', *LAYOUTS, *others))}."
    )


def check_positive(**values: float) -> None:
  """Raises ``ValueError`` for the first keyword whose value is no number above zero.

  Those of :data:`COUNTS` must be whole.

  Examples:
    >>> check_positive(num_classes=10, width=0.5)
  """
  for name, value in values.items():
    whole = name in COUNTS
    if whole and not is_whole(value, 1):
      raise ValueError(f"{name}: {value!r} must be positive and whole.")
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
      raise ValueError(f"{name}: {value!r} must be positive.")


def divisible(channels: float, divisor: int = 8) -> int:
  """Channels rounded to a multiple of the divisor, never below 90 % of them (MobileNetV2's rule).

  Examples:
    >>> divisible(32 * 0.35), divisible(24 * 0.75)
    (16, 24)
  """
  rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * channels else rounded
