"""What is quantized, how, and from which step on."""

import dataclasses

from jaxcompress.quantize.quantizers import Quantizer, absmax, ema_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
  """A plan for quantization during training; hashable.

  Attributes:
    weights: quantizer of every kernel.
    activations: quantizer of the input and of every leaf op's output.
    start_step: first step at which the forward pass is quantized; before it nothing is rounded
      and no range is kept.
    freeze_norm_step: first step from which BatchNorm uses its running statistics, so that the
      network that is trained is the one that is deployed; None: never.
  """

  weights: Quantizer
  activations: Quantizer
  start_step: int = 0
  freeze_norm_step: int | None = None

  def __post_init__(self):
    for name in ("start_step", "freeze_norm_step"):
      value = getattr(self, name)
      if value is not None and value < 0:
        raise ValueError(f"{name}: {value} must not be negative.")


def uniform(
  bits: int = 8,
  *,
  decay: float = 0.95,
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """Evenly spaced integers: symmetric per-channel weights, asymmetric 8-bit activations.

  Args:
    bits: of the weights, 2 to 8; fewer than 8 give an int8 file that holds fewer values.
    decay: of the activations' moving ranges.
    start_step: first quantized step.
    freeze_norm_step: first step with frozen BatchNorm, or None.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> uniform(4).weights.levels
    Levels(low=-7, high=7, symmetric=True)
  """
  if not 2 <= bits <= 8:
    raise ValueError(f"bits: {bits} is out of range; it must be 2 to 8.")
  return Quantization(
    weights=absmax(bits),
    activations=ema_range(8, decay=decay),
    start_step=start_step,
    freeze_norm_step=freeze_norm_step,
  )


def int8(
  *, decay: float = 0.95, start_step: int = 0, freeze_norm_step: int | None = None
) -> Quantization:
  """8-bit weights and activations, as integer runtimes compute; see :func:`uniform`.

  Examples:
    >>> int8(start_step=900).start_step
    900
  """
  return uniform(8, decay=decay, start_step=start_step, freeze_norm_step=freeze_norm_step)
