"""Where the MobileNets halve the resolution, for large and for small images."""

from typing import NamedTuple


class Layout(NamedTuple):
  """Strides of the stem and of each stage.

  Attributes:
    image_size: side of the images that it is meant for, in pixels.
    v1: MobileNetV1's stem and five stages.
    v2: MobileNetV2's stem and seven stages.
    repeats: blocks in each of MobileNetV2's stages.
  """

  image_size: int
  v1: tuple[int, ...]
  v2: tuple[int, ...]
  repeats: tuple[int, ...]


LAYOUTS = {
  "imagenet": Layout(224, (2, 1, 2, 2, 2, 2), (2, 1, 2, 2, 2, 1, 2, 1), (1, 2, 3, 4, 3, 3, 1)),
  "cifar": Layout(32, (1, 1, 1, 2, 2, 2), (1, 1, 1, 2, 2, 1, 2, 1), (1, 2, 3, 4, 3, 3, 1)),
  "short": Layout(32, (2, 1, 1, 2, 2, 1), (2, 1, 1, 2, 1, 2, 1, 1), (1, 2, 2, 2, 2, 2, 0)),
}
SMALL_IMAGE = 64


def pick_layout(layout: str, image_size: int) -> Layout:
  """The layout by name; ``"auto"`` takes the 32 px layout for images of at most 64 px.

  Examples:
    >>> pick_layout("auto", 32) is LAYOUTS["cifar"], pick_layout("auto", 224) is LAYOUTS["imagenet"]
    (True, True)
  """
  if layout == "auto":
    return LAYOUTS["cifar" if image_size <= SMALL_IMAGE else "imagenet"]
  return LAYOUTS[layout]


def check_layout(layout: str) -> None:
  """Raises ``ValueError`` unless the layout exists."""
  if layout != "auto" and layout not in LAYOUTS:
    raise ValueError(
      f"layout: {layout!r} is unknown; it must be one of auto, {', '.join(LAYOUTS)}."
    )


def check_positive(**values: float) -> None:
  """Raises ``ValueError`` for the first keyword whose value is not above zero."""
  for name, value in values.items():
    if not value > 0:
      raise ValueError(f"{name}: {value!r} must be positive.")


def divisible(channels: float, divisor: int = 8) -> int:
  """Channels rounded to a multiple of the divisor, never below 90 % of them (MobileNetV2's rule).

  Examples:
    >>> divisible(32 * 0.35), divisible(24 * 0.75)
    (16, 24)
  """
  rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * channels else rounded
