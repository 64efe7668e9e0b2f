"""Small vision models for the edge: distilled, quantized and exported in one train step."""

from jaxcompress import data, distill, export, models, nn, ops, prune, quantize, report, training
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

__version__ = "0.1.0"

__all__ = [
  "CompressState",
  "Recipe",
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
  "prune",
  "quantize",
  "report",
  "shard",
  "shard_batch",
  "train_step",
  "training",
]
