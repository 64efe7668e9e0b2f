"""Plans: which tensors are quantized, how, and from which step on; and those that have a name."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, TypeVar, Unpack

from jaxcompress.arguments import as_call, check_type, check_whole, shown
from jaxcompress.quantize.fake_quant import check_bits
from jaxcompress.quantize.integer.runtimes import find_kernels
from jaxcompress.quantize.quantizers.base import Quantizer, check_quantizer
from jaxcompress.quantize.quantizers.binary import bwn
from jaxcompress.quantize.quantizers.cluster import cluster
from jaxcompress.quantize.quantizers.lsq import lsq, lsq_activations
from jaxcompress.quantize.quantizers.ternary import twn
from jaxcompress.quantize.quantizers.uniform import absmax, ema_range
from jaxcompress.quantize.rules import KINDS, Rule

PLAN = "a plan, such as quantize.int8() or quantize.Quantization(weights=..., activations=...)"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Quantization:
  """A plan of quantization-aware training: the quantizers of weights and activations; hashable.

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
      networks diverge from then on: in a training step what lies before a frozen normalization moves
      at the recipe's ``frozen_rate``; in a loop of your own choose the end of a schedule.
    gradients: bits to which the gradients of activations are rounded stochastically in the backward
      pass (:func:`~jaxcompress.quantize.quantizers.clipped.dorefa_gradient`), 1 to 16; None: they stay in float.
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
    delayed: whether activations are rounded by the ranges of the step before, as FP8 training does
      (Micikevicius et al., `FP8 Formats for Deep Learning <https://arxiv.org/abs/2209.05433>`_, 2022;
      Transformer Engine's ``DelayedScaling``): those of the step at hand are found on the way, and
      several devices exchange all of them at once when it ends. In the first quantized step, which
      has no step before, activations stay as they are. It concerns quantizers that keep a moving
      range, such as :func:`~jaxcompress.quantize.ema_range`.

  Raises:
    ValueError: if a quantizer, rule or pair is not valid, a quantizer is for the other kind of tensor, a number
      is out of range, or a step comes too early.

  Examples:
    >>> plan = Quantization(weights=lsq(4), activations=lsq_activations(4), start_step=100)
    >>> plan
    Quantization(weights=lsq(4), activations=lsq_activations(4), start_step=100)
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
  delayed: bool = False

  __repr__ = as_call

  def __post_init__(self):
    for kind in KINDS:
      if getattr(self, kind) is not None:
        check_quantizer(kind, getattr(self, kind), kind)
    listed = isinstance(self.rules, (tuple, list))
    if not listed or not all(isinstance(rule, Rule) for rule in self.rules):
      raise ValueError(f"rules: {self.rules!r} must be a tuple of quantize.Rule.")
    object.__setattr__(self, "rules", tuple(self.rules))  # hashable
    if self.weights is None is self.activations and not self.rules:
      raise ValueError("weights, activations: nothing is quantized; give one of them, or rules.")
    pairs = "pairs of the names of a node and a tensor, as quantize.grids_apart gives them"
    check_type("apart", self.apart, Iterable, pairs)
    object.__setattr__(self, "apart", tuple(self.apart))
    for pair in self.apart:
      names = pair if isinstance(pair, (tuple, list)) else ()
      if len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"apart must be {pairs}, got {shown(self.apart)}.")
    object.__setattr__(self, "apart", tuple(tuple(pair) for pair in self.apart))
    check_type("delayed", self.delayed, bool, "True or False")
    given = [self.activations, *(rule.activations for rule in self.rules)]
    if self.delayed and not any(isinstance(q, Quantizer) and q.keeps_range for q in given):
      raise ValueError(
        "delayed: no quantizer of activations keeps a range from step to step, as ema_range does; leave it"
        " out."
      )
    check_type("kernels", self.kernels, str, "the name of a runtime")
    find_kernels(self.kernels)
    for name in ("start_step", "freeze_norm_step", "exact_step"):
      if getattr(self, name) is not None or name == "start_step":
        check_whole(name, getattr(self, name), 0)
    if self.gradients is not None:
      check_bits("gradients", self.gradients, 16, fewest=1)
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


class Options(TypedDict, total=False):
  """Options of every preset; see :func:`int8`."""

  rules: tuple[Rule, ...]
  first_last: bool
  decay: float
  symmetric: bool
  start_step: int
  freeze_norm_step: int | None
  gradients: int | None
  exact_step: int | None
  kernels: str
  apart: tuple[tuple[str, str], ...]
  delayed: bool


DEFAULTS: Options = {
  "rules": (),
  "first_last": True,
  "decay": 0.95,
  "symmetric": False,
  "start_step": 0,
  "freeze_norm_step": None,
  "gradients": None,
  "exact_step": None,
  "kernels": "xnnpack",
  "apart": (),
  "delayed": False,
}
Preset = TypeVar("Preset", bound=Callable[..., Quantization])


def _preset(**own: Unpack[Options]) -> Callable[[Preset], Preset]:
  """Gives a preset the options of all, some with defaults of its own, and shows them in its signature."""
  defaults: dict[str, Any] = {**DEFAULTS, **own}

  def with_options(preset: Preset) -> Preset:
    fixed = [p for p in inspect.signature(preset).parameters.values() if p.kind != p.VAR_KEYWORD]
    named = [
      inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=defaults[k]) for k in defaults
    ]

    @functools.wraps(preset)
    def made(*values: Any, **options: Any) -> Quantization:
      known = [*(parameter.name for parameter in fixed), *defaults]
      for name in options.keys() - set(known):
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise TypeError(f"{name}: {preset.__name__} takes {', '.join(known)}{hint}")
      return preset(*values, **{**own, **options})

    made.__signature__ = inspect.Signature([*fixed, *named], return_annotation=Quantization)  # type: ignore[attr-defined]
    return made  # type: ignore[return-value]

  return with_options


@_preset(first_last=False)
def int8(bits: int = 8, **options: Unpack[Options]) -> Quantization:
  """Plan of symmetric per-channel 8-bit weights and 8-bit activations, as integer runtimes compute.

  Args:
    bits: of the weights, 2 to 8; fewer than 8 give an int8 file that holds fewer values.
    **options: ``rules``: exceptions for some layers. ``first_last``: whether the first and the last
      layer keep 8 bits where none of these says otherwise; below 8 bits the other presets do so,
      this one does not. ``decay``: of the activations' moving ranges, 0.95. ``symmetric``: whether
      the zero point of these is 0, as TensorRT has it; what is never below zero then has 128 levels.
      The others are those of :class:`Quantization`.

  Raises:
    ValueError: if a number is out of range, or an option is of another kind.

  Examples:
    >>> int8(start_step=900).start_step
    900
    >>> int8(symmetric=True).activations.levels
    Levels(low=-128, high=127, symmetric=True)
    >>> int8(bits=4).weights.levels
    Levels(low=-7, high=7, symmetric=True)
  """
  check_bits("bits", bits, 8)
  return _plan(absmax(bits), options)


@_preset()
def int4(**options: Unpack[Options]) -> Quantization:
  """Plan of 4-bit weights and activations with trained steps (LSQ); first and last layer keep 8 bits.

  In an int8 file the activations keep the range that was trained and get all 256 steps in it.

  Args:
    **options: as for :func:`int8`; ``symmetric`` must be False.

  Examples:
    >>> int4().activations.levels
    Levels(low=-8, high=7, symmetric=False)
  """
  if options.get("symmetric"):
    raise ValueError("symmetric: LSQ shifts activations without negative values; leave it out.")
  if "decay" in options and options.get("first_last") is False:
    raise ValueError("decay: LSQ's steps are trained, and no range moves by it; leave it out.")
  return _plan(lsq(4), options, lsq_activations(4))


@_preset()
def w4a8(**options: Unpack[Options]) -> Quantization:
  """Plan of 4-bit weights, but for the first and the last layer, and 8-bit activations.

  Args:
    **options: as for :func:`int8`.

  Examples:
    >>> plan = w4a8(rules=(Rule(match="stage0", weights=absmax(6)),))
    >>> plan.weights.levels.high, [rule.match for rule in plan.rules]
    (7, ['stage0', 'first|last'])
  """
  return _plan(absmax(4), options)


@_preset(first_last=False)
def w8a16(**options: Unpack[Options]) -> Quantization:
  """Plan of 8-bit weights and 16-bit activations, symmetric: near float accuracy, for slower kernels.

  Args:
    **options: as for :func:`int8`.

  Examples:
    >>> w8a16().weights.levels.high, w8a16().activations.levels.high
    (127, 32767)
  """
  return _plan(absmax(8), options, activation_bits=16)


@_preset()
def ternary(**options: Unpack[Options]) -> Quantization:
  """Plan of ternary weights (:func:`~jaxcompress.quantize.twn`), but for the first and the last layer.

  Args:
    **options: as for :func:`int8`.

  Examples:
    >>> ternary().weights.levels.high, ternary().activations.levels.high
    (1, 127)
  """
  return _plan(twn(), options)


@_preset()
def binary(**options: Unpack[Options]) -> Quantization:
  """Plan of binary weights (:func:`~jaxcompress.quantize.bwn`), but for the first and the last layer.

  Args:
    **options: as for :func:`int8`.

  Examples:
    >>> binary().weights.levels.high, binary().activations.levels.high
    (1, 127)
  """
  return _plan(bwn(), options)


@_preset(first_last=False)
def clustered(clusters: int = 32, **options: Unpack[Options]) -> Quantization:
  """Plan of weights that share a codebook (:func:`~jaxcompress.quantize.cluster`) of 8-bit values.

  A packed file takes ``log2(clusters)`` bits for a weight, and fewer where weights are pruned.

  Args:
    clusters: values of a layer, zero included, 2 to 128.
    **options: as for :func:`int8`. The codebooks are found in ``start_step``.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> clustered(16).weights.levels.high
    127
  """
  return _plan(cluster(clusters), options)


def _plan(
  weights: Quantizer,
  options: Options,
  activations: Quantizer | None = None,
  activation_bits: int = 8,
) -> Quantization:
  fields: dict[str, Any] = dict(options)
  for name in ("first_last", "symmetric"):
    check_type(name, fields.get(name, True), bool, "True or False")
  ranges = {"decay": fields.pop("decay", 0.95), "symmetric": fields.pop("symmetric", False)}
  rules = fields.pop("rules", ())
  if fields.pop("first_last", True) and isinstance(rules, (tuple, list)):
    ends = Rule(match="first|last", weights=absmax(8), activations=ema_range(8, **ranges))
    rules = (*rules, ends)
  activations = activations or ema_range(activation_bits, **ranges)
  return Quantization(weights=weights, activations=activations, rules=rules, **fields)
