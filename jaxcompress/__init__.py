"""Small vision models for the edge: distilled, quantized and exported in one train step."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxcompress import (
    data,
    distill,
    export,
    models,
    nn,
    ops,
    pipeline,
    prune,
    quantize,
    report,
    training,
  )
  from jaxcompress.pipeline import compress
  from jaxcompress.training import (
    CompressState,
    Recipe,
    distill_step,
    eval_step,
    init_state,
    init_variables,
    make_mesh,
    shard,
    shard_batch,
    train_step,
  )

__version__ = "0.2.0"

__all__ = [
  "CompressState",
  "Recipe",
  "compress",
  "data",
  "distill",
  "distill_step",
  "eval_step",
  "export",
  "init_state",
  "init_variables",
  "make_mesh",
  "models",
  "nn",
  "ops",
  "pipeline",
  "prune",
  "quantize",
  "report",
  "shard",
  "shard_batch",
  "train_step",
  "training",
]

_PACKAGES = frozenset(
  [
    "data",
    "distill",
    "export",
    "models",
    "nn",
    "ops",
    "pipeline",
    "prune",
    "quantize",
    "report",
    "training",
  ]
)


def __getattr__(name: str) -> Any:
  """A public name, imported when it is first asked for: ``jaxcompress --help`` needs none of them."""
  if name in _PACKAGES:
    return importlib.import_module(f"jaxcompress.{name}")
  if name == "compress":
    return importlib.import_module("jaxcompress.pipeline").compress
  if name in __all__:
    return getattr(importlib.import_module("jaxcompress.training"), name)
  raise AttributeError(f"module 'jaxcompress' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
