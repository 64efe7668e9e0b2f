"""JAX's elementwise operations in numpy, for constants and for a grid of numbers."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Meaning = Callable[..., Any]


def _of(run: Callable[..., Any]) -> Meaning:
  """An operation without parameters."""
  return lambda params, *xs: run(*xs)


def _wide(run: Callable[..., Any]) -> Meaning:
  """One that numpy has for float32 and float64 only."""

  def computed(params, x):
    narrow = x.dtype.itemsize < 4 and np.issubdtype(x.dtype, np.inexact)
    return run(x.astype(np.float32) if narrow or x.dtype.kind == "V" else x)

  return computed


def _special(name: str) -> Meaning:
  """A function of scipy's, which is imported when it is first needed."""

  def run(x):
    import scipy.special

    return getattr(scipy.special, name)(x)

  return _wide(run)


def _power(params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
  return x ** params["y"] if params["y"] >= 0 else 1 / x ** -params["y"]


def _clamp(params: Mapping[str, Any], low: Any, x: Any, high: Any) -> Any:
  return np.minimum(np.maximum(x, low), high)


def _select(params: Mapping[str, Any], which: Any, *cases: Any) -> Any:
  return np.choose(np.asarray(which).astype(int), cases)


def _divide(params: Mapping[str, Any], x: Any, y: Any) -> Any:
  if np.issubdtype(np.result_type(x, y), np.integer):
    return np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))
  return x / y


UNARY: Mapping[str, Meaning] = {
  "neg": _of(operator.neg),
  "abs": _of(np.abs),
  "sign": _of(np.sign),
  "floor": _of(np.floor),
  "ceil": _of(np.ceil),
  "exp": _wide(np.exp),
  "exp2": _wide(np.exp2),
  "expm1": _wide(np.expm1),
  "log": _wide(np.log),
  "log1p": _wide(np.log1p),
  "sqrt": _wide(np.sqrt),
  "rsqrt": _wide(lambda x: 1 / np.sqrt(x)),
  "cbrt": _wide(np.cbrt),
  "square": _of(np.square),
  "logistic": _special("expit"),
  "tanh": _wide(np.tanh),
  "erf": _special("erf"),
  "erfc": _special("erfc"),
  "sin": _wide(np.sin),
  "cos": _wide(np.cos),
  "is_finite": _wide(np.isfinite),
  "not": _of(np.invert),
  "integer_pow": _power,
  "convert_element_type": _of(lambda x: x),
  "copy": _of(lambda x: x),
}
BINARY: Mapping[str, Meaning] = {
  "add": _of(operator.add),
  "add_any": _of(operator.add),
  "sub": _of(operator.sub),
  "mul": _of(operator.mul),
  "div": _divide,
  "max": _of(np.maximum),
  "min": _of(np.minimum),
  "pow": _of(np.power),
  "gt": _of(np.greater),
  "ge": _of(np.greater_equal),
  "lt": _of(np.less),
  "le": _of(np.less_equal),
  "eq": _of(np.equal),
  "ne": _of(np.not_equal),
  "and": _of(operator.and_),
  "or": _of(operator.or_),
}
MEANINGS: Mapping[str, Meaning] = {**UNARY, **BINARY, "clamp": _clamp, "select_n": _select}
"""Functions by the name of the primitive: ``(params, *operands) -> array``."""
