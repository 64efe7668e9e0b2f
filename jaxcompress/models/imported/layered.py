"""Groups convolutions and linear layers with the constants that follow them, and constants alone."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcompress.models.imported.grouping import Group, Grouping
from jaxcompress.models.imported.scalings import IDENTITY, Polynomial, Scaling, is_fixed
from jaxcompress.models.imported.units import Unit, as_convolution, one_or_pair
from jaxcompress.models.imported.values import Constant, Leaves, Op
from jaxcompress.models.imported.weights import Weight, kernel_of, normalization_of, weight_of
from jaxcompress.nn import ConvNorm, Norm
from jaxcompress.ops.transposed import resolve_transposed


def alone(g: Grouping, op: Op, base: Op, scaling: Scaling) -> Unit:
  """A normalization that no convolution precedes, or constants that stand alone."""
  size = op.shape[3]
  norm = normalization_of(scaling, g.leaves, size)
  if norm is None:
    return _affine(g, op, base, scaling)
  mean = norm.mean if norm.inner is None else _less(norm.mean, norm.inner)
  return Unit(
    "BatchNorm",
    (op,),
    (base,),
    {"act": None, "norm": Norm(norm.epsilon, g.momentum(norm.names))},
    {"scale": norm.scale, "bias": norm.bias},
    {"mean": mean, "var": norm.var},
    norm.names,
    op.origin,
  )


def _less(mean: Weight, inner: Weight) -> Weight:
  """The running mean of what is normalized before a bias is added to it."""
  value = mean.value - inner.value
  if mean.source is None:
    return mean._replace(value=value)
  offset = mean.source.offset - inner.value.astype(np.float64)
  return Weight(value, mean.source._replace(offset=offset))


def _affine(g: Grouping, op: Op, base: Op, scaling: Scaling) -> Unit:
  unit = Unit("Affine", (op,), (base,), {"act": None}, origin=op.origin)
  for name, polynomial in (("scale", scaling.factor), ("bias", scaling.offset)):
    kind, weight = _constant(polynomial, g.leaves, op.shape[3])
    unit.fields[name] = kind
    if weight is not None:
      (unit.stats if kind == "fixed" else unit.params)[name] = weight
    constants = (f for f in polynomial.factors.values() if isinstance(f, Constant))
    unit.path = unit.path or next(filter(None, map(g.leaves.path_of, constants)), None)
  return unit


def _constant(polynomial: Polynomial, leaves: Leaves, size: int) -> tuple[Any, Weight | None]:
  """A constant of an Affine: a number, or its kind and its array."""
  if not polynomial.roots() and set(polynomial.terms) <= {()}:
    return polynomial.terms.get((), 0.0), None
  weight = weight_of(polynomial, leaves, size)
  if is_fixed(polynomial):
    return "fixed", weight
  if weight.source is None:
    one = weight_of(polynomial, leaves, 1) if np.ptp(weight.value) == 0 else weight
    if one.source is not None:  # a single number for all channels
      return "scalar", one.reshaped(())
  return "trained", weight


def _convolution(g: Grouping, op: Op, base: Op, scaling: Scaling) -> Unit | None:
  if set(base.fields["spread"]) != {1}:
    return _transposed(g, op, base, scaling)
  fields, (source,) = base.fields, base.inputs
  padding = fields["padding"]
  while source.kind == "pad" and source.fields["value"] == 0:
    padding = with_pads(padding, source)
    (source,) = source.inputs
  window = {
    "kernel": one_or_pair(fields["kernel"].value.shape[:2]),
    "stride": one_or_pair(fields["stride"]),
  }
  if set(fields["dilation"]) != {1}:
    window["dilation"] = one_or_pair(fields["dilation"])
  if not all(supported(g, base, name, value) for name, value in window.items()):
    return None
  if min(min(pair) for pair in padding) < 0:
    g.report(base.origin, "a convolution that crops its input", "pad it by 0 or more")
    return None
  channels, groups = source.shape[3], fields["groups"]
  return _with_weights(
    "ConvNorm",
    g,
    op,
    base,
    scaling,
    (source,),
    **window,
    groups="depthwise" if groups == channels > 1 else groups,
    padding=padding if any(map(any, padding)) else "VALID",
    act=None,
  )


def with_pads(padding: Any, pad: Op) -> Any:
  """The padding of an operation that takes over what was padded before."""
  pairs = zip(padding, pad.fields["padding"], strict=True)
  return tuple((a + c, b + d) for (a, b), (c, d) in pairs)


def _transposed(g: Grouping, op: Op, base: Op, scaling: Scaling) -> Unit | None:
  fields = base.fields
  kernel, stride, padding = fields["kernel"].value.shape[:2], fields["spread"], fields["padding"]
  if set(fields["stride"]) | set(fields["dilation"]) != {1} or fields["groups"] != 1:
    hint = "use one without groups, dilation or a step in the output"
    g.report(base.origin, "a transposed convolution of another kind", hint)
    return None
  try:
    resolve_transposed(padding, kernel, stride)
  except ValueError as error:
    g.report(base.origin, f"a transposed convolution with a padding that is not taken ({error})")
    return None
  return _with_weights(
    "ConvTranspose",
    g,
    op,
    base,
    scaling,
    base.inputs,
    kernel=one_or_pair(kernel),
    stride=one_or_pair(stride),
    padding=padding,
    act=None,
  )


FIELDS = frozenset(field.name for field in dataclasses.fields(ConvNorm))


def supported(g: Grouping, op: Op, name: str, value: Any) -> bool:
  """Whether windows may have other heights than widths, and a dilation."""
  if isinstance(value, tuple) and "dilation" not in FIELDS:
    what = f"a {name} of {value[0]} x {value[1]}"
    g.report(op.origin, what, f"use the same {name} for height and width")
    return False
  if name == "dilation" and name not in FIELDS:
    g.report(op.origin, "a dilated convolution", "use one without dilation")
    return False
  return True


def _with_weights(
  kind: str, g: Grouping, op: Op, base: Op, scaling: Scaling, inputs: tuple[Op, ...], **fields: Any
) -> Unit:
  """A layer with its kernel, and its bias or normalization."""
  features, kernel = op.shape[3], base.fields["kernel"]
  norm = normalization_of(scaling, g.leaves, features)
  path = g.leaves.path_of(kernel)
  unit = Unit(kind, (op,), inputs, {"features": features, **fields}, path=path, origin=base.origin)
  by = Polynomial.number(base.fields["by"])
  if norm is None:
    has_bias = bool(scaling.offset.terms)
    unit.params["kernel"] = kernel_of(kernel, g.leaves, scaling.factor * by)
    if has_bias:
      unit.params["bias"] = weight_of(scaling.offset, g.leaves, features)
    unit.fields |= {"norm": None, "use_bias": has_bias}
    return unit
  has_bias = norm.inner is not None
  unit.params = {
    "kernel": kernel_of(kernel, g.leaves, by),
    "scale": norm.scale,
    "bias": norm.bias,
  }
  if norm.inner is not None:
    unit.params["conv_bias"] = norm.inner
  unit.stats = {"mean": norm.mean, "var": norm.var}
  unit.fields |= {"norm": Norm(norm.epsilon, g.momentum(norm.names)), "use_bias": has_bias}
  return unit


def _linear(g: Grouping, op: Op, base: Op, scaling: Scaling) -> Unit:
  unit = _with_weights("Dense", g, op, base, scaling, base.inputs)
  if unit.fields["norm"] is not None:
    return as_convolution(unit)
  del unit.fields["norm"]
  return unit


WITH_CONSTANTS: Mapping[str, Callable[[Grouping, Op, Op, Scaling], Unit | None]] = {
  "conv": _convolution,
  "dense": _linear,
}
"""Operations with a kernel, which take in the constants that follow."""


def _bare(g: Grouping, op: Op) -> Unit | None:
  return WITH_CONSTANTS[op.kind](g, op, op, IDENTITY)


GROUPS: Mapping[str, Group] = {"conv": _bare, "dense": _bare}
