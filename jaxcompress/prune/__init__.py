"""Masks as optax transformations, and channels removed so that a network becomes a smaller one."""

from jaxcompress.prune.choose import choose_channels
from jaxcompress.prune.costs import channel_costs
from jaxcompress.prune.dynamic import rigl, sparse_evolution
from jaxcompress.prune.fit import fit_channels, remove_in_steps
from jaxcompress.prune.importance import channel_importance, slimming
from jaxcompress.prune.magnitude import agp, agp_within, magnitude, n_m
from jaxcompress.prune.masked import apply_masks, masks_of
from jaxcompress.prune.removal import Keep, remove_channels
from jaxcompress.prune.rules import Rule
from jaxcompress.prune.shares import erdos_renyi

__all__ = [
  "Keep",
  "Rule",
  "agp",
  "agp_within",
  "apply_masks",
  "channel_costs",
  "channel_importance",
  "choose_channels",
  "erdos_renyi",
  "fit_channels",
  "magnitude",
  "masks_of",
  "n_m",
  "remove_channels",
  "remove_in_steps",
  "rigl",
  "slimming",
  "sparse_evolution",
]
