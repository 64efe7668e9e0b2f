"""Masks as optax transformations, and channels removed so that a network becomes a smaller one."""

from jaxcompress.prune.choose import choose_channels, fewest_channels, least_share, thinnest
from jaxcompress.prune.distributions import erdos_renyi
from jaxcompress.prune.dynamic import cosine_fraction, rigl, sparse_evolution
from jaxcompress.prune.importance import Importance, channel_importance
from jaxcompress.prune.magnitude import magnitude, n_m, parse_pattern
from jaxcompress.prune.planning import Keep, Removal, plan_removal
from jaxcompress.prune.removal import mask_channels, remove_channels
from jaxcompress.prune.rules import Rule
from jaxcompress.prune.schedules import Schedule, agp, at_once
from jaxcompress.prune.scores import keep_largest, keep_n_of_m
from jaxcompress.prune.slimming import check_slimming, slimming
from jaxcompress.prune.state import (
  PruneState,
  apply_masks,
  goals_of,
  is_final,
  keep_masks,
  layer_sparsity,
  masks_of,
  progress_of,
  sparsity,
)
from jaxcompress.prune.wrap import Method, masked

__all__ = [
  "Importance",
  "Keep",
  "Method",
  "PruneState",
  "Removal",
  "Rule",
  "Schedule",
  "agp",
  "apply_masks",
  "at_once",
  "channel_importance",
  "check_slimming",
  "choose_channels",
  "cosine_fraction",
  "erdos_renyi",
  "fewest_channels",
  "goals_of",
  "is_final",
  "keep_largest",
  "keep_masks",
  "keep_n_of_m",
  "layer_sparsity",
  "least_share",
  "magnitude",
  "mask_channels",
  "masked",
  "masks_of",
  "n_m",
  "parse_pattern",
  "plan_removal",
  "progress_of",
  "remove_channels",
  "rigl",
  "slimming",
  "sparse_evolution",
  "sparsity",
  "thinnest",
]
