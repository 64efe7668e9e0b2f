"""Arguments that architectures share: where they halve the resolution, their sizes, variants."""

import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn

from jaxcompress.nn.checks import is_whole

NATIVE = {"auto": 224, "imagenet": 224, "cifar": 32, "short": 32, "crd": 32}  # sides of images
LAYOUTS = ("auto", "imagenet", "cifar")  # of every network that has any
SMALL_IMAGE = 64
HALVINGS_LEFT_OUT = 2
COUNTS = ("num_classes", "expand", "widen")
"""Arguments of models that are whole numbers."""


Model = TypeVar("Model", bound=nn.Module)


def layout_strides(
  layout: str, image_size: int, strides: Sequence[int], **own: tuple[int, ...]
) -> tuple[int, ...]:
  """Strides of a network whose rows are written for 224 px, in the layout that was asked for.

  Args:
    layout: ``"imagenet"``: the strides as they are; ``"cifar"``: without the first two halvings,
      so that 32 px end at 4; ``"auto"``: ``"cifar"`` for images of at most 64 px.
    image_size: side of the images in pixels.
    strides: of the stem (and its pooling), then of each stage.
    **own: those of layouts that this network alone has.

  Examples:
    >>> layout_strides("auto", 32, (2, 1, 2, 2, 1, 2)), layout_strides("auto", 224, (2, 1, 2))
    ((1, 1, 1, 2, 1, 2), (2, 1, 2))
  """
  if layout in own:
    return own[layout]
  if layout == "imagenet" or (layout == "auto" and image_size > SMALL_IMAGE):
    return tuple(strides)
  halvings = [i for i, stride in enumerate(strides) if stride > 1]
  return tuple(1 if i in halvings[:HALVINGS_LEFT_OUT] else s for i, s in enumerate(strides))


def native_size(layout: str, *own: str) -> int:
  """Side in pixels of the images that a layout is meant for.

  Args:
    layout: one of :data:`LAYOUTS`.
    *own: layouts that this network alone has.

  Raises:
    ValueError: if there is no such layout.

  Examples:
    >>> native_size("auto"), native_size("cifar")
    (224, 32)
  """
  if layout not in (*LAYOUTS, *own):
    raise ValueError(
      f"layout: {layout!r} is unknown; it must be one of {', '.join((*LAYOUTS, *own))}."
    )
  return NATIVE[layout]


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


def variant(make: Callable[..., Model], name: str, **fixed: Any) -> Callable[..., Model]:
  """A function that makes one member of a family.

  Args:
    make: makes any of them.
    name: of the function.
    **fixed: arguments of ``make`` that the function has not, or fields of the module.

  Examples:
    >>> from jaxcompress.models.vgg import vgg
    >>> variant(vgg, "vgg8", depth=8)(10) == vgg(8, 10)
    True
  """
  signature = inspect.signature(make)
  arguments = {key: value for key, value in fixed.items() if key in signature.parameters}
  fields = {key: value for key, value in fixed.items() if key not in arguments}
  free = [p for p in signature.parameters.values() if p.name not in arguments]
  own = signature.replace(parameters=free)

  def build(*args: Any, **options: Any) -> Model:
    model = make(**arguments, **own.bind(*args, **options).arguments)
    return model.clone(**fields) if fields else model

  said = ", ".join(f"{key} {value}" for key, value in arguments.items())
  build.__name__ = build.__qualname__ = name
  build.__module__ = make.__module__
  build.__signature__ = own  # type: ignore[attr-defined]
  build.__doc__ = f"""Makes {name}; see :func:`{make.__name__}`{said and ", of "}{said}.

  Examples:
    >>> {name}(10).num_classes
    10
  """
  return build
