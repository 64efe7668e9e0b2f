"""Masks as optax transformations: kernels whose weights are exactly zero, chosen during training."""

from jaxcompress.prune.distributions import erdos_renyi
from jaxcompress.prune.dynamic import cosine_fraction, rigl, sparse_evolution
from jaxcompress.prune.magnitude import magnitude, n_m, parse_pattern
from jaxcompress.prune.rules import Rule, first_and_last
from jaxcompress.prune.schedules import Schedule, agp, at_once
from jaxcompress.prune.scores import keep_largest, keep_n_of_m
from jaxcompress.prune.state import (
  PruneState,
  apply_masks,
  keep_masks,
  layer_sparsity,
  masks_of,
  sparsity,
)
from jaxcompress.prune.wrap import Method, masked

__all__ = [
  "Method",
  "PruneState",
  "Rule",
  "Schedule",
  "agp",
  "apply_masks",
  "at_once",
  "cosine_fraction",
  "erdos_renyi",
  "first_and_last",
  "keep_largest",
  "keep_masks",
  "keep_n_of_m",
  "layer_sparsity",
  "magnitude",
  "masked",
  "masks_of",
  "n_m",
  "parse_pattern",
  "rigl",
  "sparse_evolution",
  "sparsity",
]
