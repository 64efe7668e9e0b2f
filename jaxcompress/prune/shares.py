"""How a network's sparsity is shared out among its layers, and what each of them keeps at least."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np

from jaxcompress.arguments import check_fraction, unknown

Shapes = Mapping[str, tuple[int, ...]]
Shares = Literal["erk", "uniform"]
Distribution = Literal["erk", "uniform", "global", "lamp"]
SHARES: tuple[str, ...] = get_args(Shares)  # known before any weight
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)  # the first is the usual one


def check_amounts(sparsity: float, floor: int, distribution: str, known: Iterable[str]) -> None:
  """Raises if a share of zeros, a number of weights that stay, or a distribution is none."""
  check_fraction("sparsity", sparsity)
  if isinstance(floor, bool) or not isinstance(floor, int) or floor < 0:
    raise ValueError(f"floor: {floor!r} must be a whole number, at least 0.")
  if distribution not in tuple(known):
    raise unknown("distribution", distribution, tuple(known))


def shapes_of(kernels: Mapping[str, Any], names: Iterable[str]) -> dict[str, tuple[int, ...]]:
  """The shapes of some layers' kernels.

  Examples:
    >>> shapes_of({"a": np.ones((2, 3)), "b": np.ones((4, 5))}, ("b",))
    {'b': (4, 5)}
  """
  return {name: tuple(kernels[name].shape) for name in names}


def least_weights(shape: tuple[int, ...], floor: int) -> int:
  """How many weights of a kernel stay at least: ``floor`` of each output, or all if it has fewer.

  Examples:
    >>> least_weights((3, 3, 16, 32), 1), least_weights((3, 3, 1, 16), 10)
    (32, 144)
  """
  return min(floor * shape[-1], math.prod(shape))


def uniform(shapes: Shapes, sparsity: float, *, floor: int = 0) -> dict[str, float]:
  """The same sparsity for all layers.

  Args:
    shapes: of the kernels, outputs last, by layer.
    sparsity: share of zeros of each, in [0, 1).
    floor: weights that each output keeps.

  Raises:
    ValueError: if a layer then has fewer weights than that; the message names it.

  Examples:
    >>> uniform({"a": (2, 2)}, 0.5, floor=1)
    {'a': 0.5}
  """
  for name, shape in shapes.items():
    _check_layer(name, shape, sparsity, floor, "let distribution='erk' share the zeros out")
  return dict.fromkeys(shapes, sparsity)


def erdos_renyi(shapes: Shapes, sparsity: float, *, floor: int = 0) -> dict[str, float]:
  """Sparsities such that a layer's density falls with its size: Erdos-Renyi-Kernel (ERK).

  The density of a kernel is ``e (h + w + in + out) / (h w in out)``, at most 1, and at least what
  the floor needs, with the ``e`` for which the network as a whole is as sparse as asked; without
  ``h`` and ``w`` for linear layers.

  Args:
    shapes: of the kernels, (h, w, in, out) or (in, out), by layer.
    sparsity: share of zeros of all of them, in [0, 1).
    floor: weights that each output keeps; all, where it has fewer.

  Returns:
    The share of zeros of each layer.

  Raises:
    ValueError: if the network then has fewer weights than the floor needs; the message names the
      layer that needs most.

  Examples:
    >>> shapes = {"large": (64, 64), "small": (8, 8)}
    >>> {name: round(share, 3) for name, share in erdos_renyi(shapes, 0.5).items()}
    {'large': 0.508, 'small': 0.0}

  References:
    Evci et al., `Rigging the Lottery <https://arxiv.org/abs/1911.11134>`_, 2020, section 3.1;
    Mocanu et al., `Scalable training of artificial neural networks with adaptive sparse
    connectivity <https://arxiv.org/abs/1707.04780>`_, 2018, equation 1.
  """
  check_floor(shapes, sparsity, floor)
  if not shapes:
    return {}
  sizes = np.array([math.prod(shape) for shape in shapes.values()], np.float64)
  ends = np.array([sum(shape) for shape in shapes.values()], np.float64)
  least = np.array([least_weights(shape, floor) for shape in shapes.values()], np.float64)
  left = max((1 - sparsity) * sizes.sum(), least.sum())  # weights to hand out
  weights_at = lambda scale: np.clip(scale * ends, least, sizes)  # noqa: E731
  bends = np.unique(np.concatenate([[0.0], least / ends, sizes / ends]))
  totals = np.array([weights_at(scale).sum() for scale in bends])  # of a sum that is linear between
  density = weights_at(np.interp(left, totals, bends)) / sizes
  return {name: float(1 - share) for name, share in zip(shapes, density, strict=True)}


def check_floor(shapes: Shapes, sparsity: float, floor: int) -> None:
  """Checks that layers together have the weights that their outputs keep.

  Raises:
    ValueError: if not; the message names the layer that needs most, and the most zeros there can be.

  Examples:
    >>> check_floor({"a": (9, 4), "b": (3, 8)}, 0.8, 1)
  """
  size = sum(map(math.prod, shapes.values()))
  least = {name: least_weights(shape, floor) for name, shape in shapes.items()}
  left = size - round(sparsity * size)
  if left >= sum(least.values()):
    return
  most = max(least, key=lambda name: least[name])
  raise ValueError(
    f"sparsity: {sparsity:g} leaves {left:,} of {size:,} weights, and floor={floor} needs"
    f" {sum(least.values()):,}, {floor} for each output, most of them in layer {most!r} with"
    f" {shapes[most][-1]:,} outputs; ask for at most {_at_most(size - sum(least.values()), size)}, or"
    " allow a smaller floor."
  )


def _check_layer(
  name: str, shape: tuple[int, ...], sparsity: float, floor: int, instead: str
) -> None:
  size, least = math.prod(shape), least_weights(shape, floor)
  left = size - round(sparsity * size)
  if left < least:
    raise ValueError(
      f"sparsity: {sparsity:g} leaves layer {name!r} {left:,} of its {size:,} weights, and"
      f" floor={floor} needs {least:,}, {floor} for each of {shape[-1]:,} outputs; ask of it at most"
      f" {_at_most(size - least, size)} with a prune.Rule, {instead}, or allow a smaller floor."
    )


def _at_most(zeros: int, size: int) -> str:
  """A share that asks for no more zeros than that."""
  return f"{math.floor(1e4 * zeros / size) / 1e4:g}"


def shares_of(distribution: str, shapes: Shapes, sparsity: float, floor: int) -> dict[str, float]:
  """The share of zeros of some layers by the name of a distribution that needs no weights.

  Those of ``"erk"`` are of whole weights, and together as many as asked.

  Raises:
    ValueError: if the floor cannot be kept.

  Examples:
    >>> shares_of("uniform", {"a": (2, 2)}, 0.5, 1), shares_of("erk", {"a": (2, 2)}, 0.3, 1)
    ({'a': 0.5}, {'a': 0.25})
  """
  if distribution == "uniform":
    return uniform(shapes, sparsity, floor=floor)
  shares = erdos_renyi(shapes, sparsity, floor=floor)
  sizes = {name: math.prod(shape) for name, shape in shapes.items()}
  exact = {name: round(shares[name] * size, 6) for name, size in sizes.items()}
  zeros = {name: math.floor(count) for name, count in exact.items()}
  missing = round(sparsity * sum(sizes.values())) - sum(zeros.values())
  for name in sorted(exact, key=lambda name: zeros[name] - exact[name])[: max(0, missing)]:
    zeros[name] += 1
  return {name: zeros[name] / size for name, size in sizes.items()}


def own_shares(own: Mapping[str, float], shapes: Shapes, floor: int) -> dict[str, float]:
  """The sparsities that rules give to single layers.

  Raises:
    ValueError: if the floor cannot be kept in one of them.

  Examples:
    >>> own_shares({"a": 0.5}, {"a": (2, 2), "b": (3, 3)}, 1)
    {'a': 0.5}
  """
  for name, share in own.items():
    _check_layer(name, shapes[name], share, floor, "keep it with one")
  return dict(own)
