"""What is quantized, how, and from which step on."""

import dataclasses
import numbers

from jaxcompress.quantize.grid import check_bits
from jaxcompress.quantize.integer.runtimes import find_kernels
from jaxcompress.quantize.quantizers import (
  Quantizer,
  absmax,
  bwn,
  check_quantizer,
  cluster,
  ema_range,
  lsq,
  lsq_activations,
  twn,
)
from jaxcompress.quantize.rules import KINDS, Rule, first_last_8bit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
  """A plan for quantization during training; hashable.

  Attributes:
    weights: quantizer of every kernel. Where weights are pruned it must keep zero at zero, as all do
      but the binary ones and those without a level there; ``init_state`` refuses the others.
    activations: quantizer of the input and of every leaf op's output. Of both kinds, None leaves in
      float what no rule decides.
    rules: exceptions for some layers; see :class:`~jaxcompress.quantize.Rule`.
    start_step: first step at which the forward pass is quantized; before it nothing is rounded
      and no range is kept.
    freeze_norm_step: first step from which BatchNorm uses its running statistics, so that the
      network that is trained is the one that is deployed; None: never. At high learning rates
      networks of few bits diverge from then on: choose the end of a schedule.
    gradients: bits to which the gradients of activations are rounded stochastically in the backward
      pass (:func:`~jaxcompress.quantize.dorefa_gradient`), 1 to 16; None: they stay in float.
    exact_step: first step whose forward pass is the device's integer arithmetic, with the gradients
      of fake quantization; after it, evaluation gives the deployed logits, bit for bit. Needs
      frozen BatchNorm, and costs about as much again as the forward pass; None: never.
    kernels: whose arithmetic that is: ``"xnnpack"``, ``"reference"``, ``"tflm"`` or
      ``"onnxruntime"``.
    apart: pairs of a node and a tensor that it reads, such as a concatenation and one of its inputs,
      that would share a grid and do not: the tensor keeps a range of its own for its other readers,
      and is requantized for the node. :func:`~jaxcompress.quantize.grids_apart` finds the pairs of a
      trained network that is to be fine-tuned. By default all that can share a grid does, and
      training brings it together.

  Raises:
    ValueError: if a quantizer is none or for the other kind of tensor, a rule or pair is none, a number
      is out of range, or a step comes too early.

  Examples:
    >>> plan = Quantization(weights=lsq(4), activations=lsq_activations(4), start_step=100)
    >>> plan.weights.levels.high, plan.start_step
    (7, 100)
  """

  weights: Quantizer | None
  activations: Quantizer | None
  rules: tuple[Rule, ...] = ()
  start_step: int = 0
  freeze_norm_step: int | None = None
  gradients: int | None = None
  exact_step: int | None = None
  kernels: str = "xnnpack"
  apart: tuple[tuple[str, str], ...] = ()

  def __post_init__(self):
    for kind in KINDS:
      if getattr(self, kind) is not None:
        check_quantizer(kind, getattr(self, kind), kind)
    listed = isinstance(self.rules, (tuple, list))
    if not listed or not all(isinstance(rule, Rule) for rule in self.rules):
      raise ValueError(f"rules: {self.rules!r} must be a tuple of quantize.Rule.")
    object.__setattr__(self, "rules", tuple(self.rules))  # hashable
    pairs = tuple(tuple(pair) for pair in self.apart)
    if not all(len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in pairs):
      raise ValueError(
        f"apart: {self.apart!r} must be pairs of the names of a node and a tensor, as"
        " quantize.grids_apart gives them."
      )
    object.__setattr__(self, "apart", pairs)
    find_kernels(self.kernels)
    for name in ("start_step", "freeze_norm_step", "exact_step"):
      value = getattr(self, name)
      none = value is None and name != "start_step"
      if not none and (not isinstance(value, numbers.Integral) or value < 0):
        raise ValueError(f"{name}: {value!r} must be a whole number and must not be negative.")
    bits = self.gradients
    if bits is not None and (not isinstance(bits, numbers.Integral) or not 1 <= bits <= 16):
      raise ValueError(f"gradients: {bits!r} bits are out of range; it must be 1 to 16, or None.")
    if self.exact_step is not None:
      self._check_exact_step()

  def _check_exact_step(self):
    if self.freeze_norm_step is None:
      raise ValueError(
        f"exact_step: {self.exact_step} needs frozen BatchNorm; give freeze_norm_step too."
      )
    first = max(self.freeze_norm_step, self.start_step + 1)
    if self.exact_step < first:
      raise ValueError(
        f"exact_step: {self.exact_step} is too early; it must be at least {first}, after"
        " start_step and not before freeze_norm_step."
      )


def uniform(
  bits: int = 8,
  *,
  decay: float = 0.95,
  rules: tuple[Rule, ...] = (),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """Evenly spaced integers: symmetric per-channel weights, asymmetric 8-bit activations.

  Args:
    bits: of the weights, 2 to 8; fewer than 8 give an int8 file that holds fewer values.
    decay: of the activations' moving ranges.
    rules: exceptions for some layers.
    start_step: first quantized step.
    freeze_norm_step: first step with frozen BatchNorm, or None.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> uniform(4).weights.levels
    Levels(low=-7, high=7, symmetric=True)
  """
  check_bits("bits", bits, 8)
  return _plan(absmax(bits), decay, rules, start_step, freeze_norm_step)


def int8(
  *,
  decay: float = 0.95,
  rules: tuple[Rule, ...] = (),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
  symmetric: bool = False,
  apart: tuple[tuple[str, str], ...] = (),
) -> Quantization:
  """8-bit weights and activations, as integer runtimes compute; see :func:`uniform`.

  With ``symmetric`` the zero point of all activations is 0, as TensorRT has it; what is never
  below zero then has 128 levels. ``apart`` is for networks that were trained in float; see
  :class:`Quantization`.

  Examples:
    >>> int8(start_step=900).start_step
    900
    >>> int8(symmetric=True).activations.levels
    Levels(low=-128, high=127, symmetric=True)
  """
  plan = _plan(absmax(8), decay, rules, start_step, freeze_norm_step, symmetric=symmetric)
  return dataclasses.replace(plan, apart=apart)


def int4(
  *,
  rules: tuple[Rule, ...] = first_last_8bit(),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """4-bit weights and activations with trained steps (LSQ), but for the first and the last layer.

  In an int8 file the activations keep the range that was trained and get all 256 steps in it.

  Examples:
    >>> int4().activations.levels
    Levels(low=-8, high=7, symmetric=False)
  """
  return Quantization(
    weights=lsq(4),
    activations=lsq_activations(4),
    rules=rules,
    start_step=start_step,
    freeze_norm_step=freeze_norm_step,
  )


def w4a8(
  *,
  decay: float = 0.95,
  rules: tuple[Rule, ...] = first_last_8bit(),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """4-bit weights, but for the first and the last layer, and 8-bit activations.

  Examples:
    >>> w4a8().weights.levels.high
    7
  """
  return _plan(absmax(4), decay, rules, start_step, freeze_norm_step)


def w8a16(
  *,
  decay: float = 0.95,
  rules: tuple[Rule, ...] = (),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """8-bit weights and 16-bit activations, symmetric: near float accuracy, for slower kernels.

  Examples:
    >>> w8a16().weights.levels.high, w8a16().activations.levels.high
    (127, 32767)
  """
  return _plan(absmax(8), decay, rules, start_step, freeze_norm_step, activation_bits=16)


def ternary(
  *,
  decay: float = 0.95,
  rules: tuple[Rule, ...] = first_last_8bit(),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """Ternary weights (:func:`~jaxcompress.quantize.twn`), but for the first and the last layer.

  Examples:
    >>> ternary().activations.levels.high
    127
  """
  return _plan(twn(), decay, rules, start_step, freeze_norm_step)


def binary(
  *,
  decay: float = 0.95,
  rules: tuple[Rule, ...] = first_last_8bit(),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """Binary weights (:func:`~jaxcompress.quantize.bwn`), but for the first and the last layer.

  Examples:
    >>> binary().activations.levels.high
    127
  """
  return _plan(bwn(), decay, rules, start_step, freeze_norm_step)


def clustered(
  clusters: int = 32,
  *,
  decay: float = 0.95,
  rules: tuple[Rule, ...] = (),
  start_step: int = 0,
  freeze_norm_step: int | None = None,
) -> Quantization:
  """Weights that share the values of a codebook (:func:`~jaxcompress.quantize.cluster`), 8 bits each.

  A packed file takes ``log2(clusters)`` bits for a weight, and fewer where weights are pruned.

  Args:
    clusters: values of a layer, zero included, 2 to 128.
    decay: of the activations' moving ranges.
    rules: exceptions for some layers.
    start_step: first quantized step; the codebooks are found in it.
    freeze_norm_step: first step with frozen BatchNorm, or None.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> clustered(16).weights.levels.high
    127
  """
  return _plan(cluster(clusters), decay, rules, start_step, freeze_norm_step)


def _plan(
  weights: Quantizer,
  decay: float,
  rules: tuple[Rule, ...],
  start_step: int,
  freeze_norm_step: int | None,
  activation_bits: int = 8,
  symmetric: bool = False,
) -> Quantization:
  return Quantization(
    weights=weights,
    activations=ema_range(activation_bits, decay=decay, symmetric=symmetric),
    rules=rules,
    start_step=start_step,
    freeze_norm_step=freeze_norm_step,
  )
