"""Normalization of pixels to the input of networks, the same on the host and on the device."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcompress.arguments import check_type, shown
from jaxcompress.data.reading import normalized

if TYPE_CHECKING:
  import jax

Pixel = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Maps pixels to float32, by default so that every image has the same brightness and contrast.

  ``y = (x - center) / scale``, and with ``per_image`` then ``y = y - mean(y)`` in every channel of
  every image, and ``y = y / (std(y) + epsilon)`` with the standard deviation of the whole image.

  It takes numpy arrays (and needs no JAX for them) or JAX arrays, and is part of what is deployed:
  :meth:`to_metadata` is what a model file says about it. Of numpy arrays means are computed in float64
  and rounded once, so that a device gets the same numbers in whatever order it sums; exact evaluation,
  prediction and the printed program do it so. JAX computes all in float32, for training.

  Attributes:
    center: subtracted from the pixels: a number, or a tuple with one for each channel.
    scale: divides them; likewise.
    per_image: whether images are brought to zero mean and similar contrast.
    epsilon: keeps the noise of flat images small; in units of the scaled pixels.

  Raises:
    ValueError: if a value is no number, the two differ in channels, or ``scale`` or ``epsilon`` is not
      positive.

  Examples:
    >>> image = np.zeros((1, 2, 2, 1), np.uint8)
    >>> image[0, 0] = 128
    >>> [round(float(value), 3) for value in Preprocess()(image).ravel()]
    [0.909, 0.909, -0.909, -0.909]
    >>> float(Preprocess(per_image=False)(image).max())
    0.0078125
    >>> rgb = Preprocess(center=(124.0, 116.0, 104.0), scale=(58.0, 57.0, 57.0), per_image=False)
    >>> rgb(np.full((1, 1, 1, 3), 124, np.uint8)).round(2).ravel().tolist()
    [0.0, 0.14000000059604645, 0.3499999940395355]
  """

  center: Pixel = 127.5
  scale: Pixel = 64.0
  per_image: bool = True
  epsilon: float = 0.1

  def __post_init__(self):
    sizes = {np.size(value) for value in map(self._numbers, ("center", "scale"))} - {1}
    if len(sizes) > 1:
      raise ValueError(f"scale: {self.scale} and center {self.center} must be of as many channels.")
    for name in ("scale", "epsilon"):
      if not np.all(self._numbers(name) > 0):
        raise ValueError(f"{name}: {getattr(self, name)} must be positive.")
    check_type("per_image", self.per_image, bool | np.bool_, "True or False")

  def _check(self, images: Any) -> None:
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) < 3:
      raise ValueError(
        f"images must be an array (..., height, width, channels), got {shown(images)}."
      )
    for name in ("center", "scale"):
      channels = np.size(getattr(self, name))
      if channels not in (1, shape[-1]):
        raise ValueError(
          f"{name}: {getattr(self, name)} is of {channels} channels, and the images {tuple(shape)} have"
          f" {shape[-1]}; give one number, or one for each channel."
        )

  def _numbers(self, name: str) -> np.ndarray:
    """The numbers of a setting; a list or an array, which have no hash, becomes a tuple."""
    value = getattr(self, name)
    try:
      numbers = np.asarray(value, float)
    except (TypeError, ValueError):
      numbers = np.array(np.nan)
    if numbers.ndim > (name != "epsilon") or np.isinf(numbers).any() or not numbers.size:
      raise ValueError(f"{name}: {value!r} must be a number, or one for each channel.")
    if name == "center" and np.isnan(numbers).any():
      raise ValueError(f"center: {value!r} must be a number, or one for each channel.")
    if isinstance(value, list | np.ndarray) and numbers.ndim:
      object.__setattr__(self, name, tuple(numbers.tolist()))
    return numbers

  def __call__(self, images: "np.ndarray | jax.Array") -> "np.ndarray | jax.Array":
    """(..., height, width, channels), uint8 or float with pixels of 0 to 255, to float32.

    Raises:
      ValueError: if the images are no array, or have other channels than the settings.
    """
    self._check(images)
    if isinstance(images, np.ndarray):
      return normalized(images, **self._values())
    import jax.numpy as jnp

    center, scale = (_per_channel(value, images.ndim) for value in (self.center, self.scale))
    x = (images.astype(np.float32) - center) / scale
    if not self.per_image:
      return x
    x = x - jnp.mean(x, axis=(-3, -2), keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(x), axis=(-3, -2, -1), keepdims=True))
    return x / (deviation + self.epsilon)

  def to_metadata(self) -> dict[str, float | list[float] | bool | str]:
    """The settings as JSON values, with the formula in words.

    Examples:
      >>> Preprocess(per_image=False).to_metadata()["formula"]
      'y = (x - center) / scale'
    """
    values = {n: list(v) if isinstance(v, tuple) else v for n, v in self._values().items()}
    return {**values, "formula": self._formula()}

  def _values(self) -> dict[str, Any]:
    """Returns the keyword arguments of :func:`normalized`."""
    return dataclasses.asdict(self)

  def _formula(self) -> str:
    scaled = "y = (x - center) / scale"
    if not self.per_image:
      return scaled
    return (
      f"{scaled}; y = y - mean of y over height and width; "
      "y = y / (epsilon + root mean square of y over height, width and channels); "
      "y is float32, the mean and the divisor are computed in float64 and rounded to float32"
    )

  @classmethod
  def from_metadata(cls, metadata: Mapping[str, Any]) -> "Preprocess":
    """The inverse of :meth:`to_metadata`.

    Raises:
      ValueError: if a setting is missing.

    Examples:
      >>> Preprocess.from_metadata(Preprocess(scale=58.0).to_metadata()).scale
      58.0
    """
    if not isinstance(metadata, Mapping):
      raise ValueError(f"metadata: {metadata!r:.40} must be an object, as to_metadata writes it.")
    names = [field.name for field in dataclasses.fields(cls)]
    missing = [name for name in names if name not in metadata]
    if missing:
      raise ValueError(
        f"metadata: {', '.join(missing)} missing; it must have {', '.join(names)}, as "
        "to_metadata writes them."
      )
    values: dict[str, Any] = {name: metadata[name] for name in names}
    return cls(**values | {n: tuple(v) for n, v in values.items() if isinstance(v, list)})


def _per_channel(value: Pixel, ndim: int) -> float | np.ndarray:
  """A number as it is; one for each channel as float32 for the last axis."""
  if not isinstance(value, tuple):
    return value
  return np.array(value, np.float32).reshape(*[1] * (ndim - 1), len(value))


PIXELS: Mapping[str, Preprocess] = {
  "imagenet": Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), per_image=False),
  "0..1": Preprocess(0.0, 255.0, per_image=False),
  "-1..1": Preprocess(127.5, 127.5, per_image=False),
  "0..255": Preprocess(0.0, 1.0, per_image=False),
}
"""How files of others read pixels, by the names that options have for it."""
