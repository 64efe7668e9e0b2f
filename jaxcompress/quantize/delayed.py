"""Rounding by the ranges of the step before, so that all ranges of a step are exchanged at once.

References:
  Micikevicius et al., `FP8 Formats for Deep Learning <https://arxiv.org/abs/2209.05433>`_, 2022; NVIDIA's
  Transformer Engine, ``DelayedScaling``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.epilogue import Epilogue
from jaxcompress.ops.parts import part_extremes
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.states import state_at


class Member(NamedTuple):
  """A tensor with a delayed range.

  Attributes:
    quantizer: which keeps a range.
    nonnegative: whether it is known to be at least zero.
    params: the quantizer's.
    state: as the step before has left it.
  """

  quantizer: Quantizer
  nonnegative: bool
  params: Any
  state: Any


class Delayed:
  """Rounding by earlier ranges in one pass of a network, which notes the ends that it sees.

  Args:
    members: the tensors, by name.
    active: whether what is seen counts; bool or scalar bool array.
  """

  def __init__(self, members: Mapping[str, Member], active: bool | jax.Array):
    self.members, self.active = members, active
    self._ends: dict[str, jax.Array] = {}

    def read(prepare, params, state, ends, nonnegative):
      trained, fixed, _ = prepare(params, state, ends, train=False, nonnegative=nonnegative)
      return trained, fixed, state.count > 0

    self._earlier = self._for_all(read, dict.fromkeys(members, np.zeros(2, np.float32)))

  @property
  def seen(self) -> jax.Array:
    """Whether every tensor had a step before; () bool."""
    return jnp.all(jnp.stack([seen for _, _, seen in self._earlier.values()]))

  def where_seen(self, tensor: str, y: jax.Array, x: jax.Array) -> jax.Array:
    """``y`` if there was a step before, else ``x``."""
    return jnp.where(self._earlier[tensor][2], y, x)

  def rounding(self, tensor: str) -> Epilogue:
    """By the range of the step before; where there was none, a tensor stays as it is."""
    by: Any = self.members[tensor].quantizer.apply  # a FusedRounding
    trained, fixed, seen = self._earlier[tensor]

    def prepare(z):
      self._ends[tensor] = part_extremes(jax.lax.stop_gradient(z)).astype(jnp.float32)
      return trained, (fixed, seen)

    def forward(z, trained, fixed):
      fixed, seen = fixed
      return jnp.where(seen, by.forward(z, trained, fixed), z)

    def backward(z, g, trained, fixed):
      fixed, seen = fixed
      dz, parts = by.backward(z, g, trained, fixed)
      return jnp.where(seen, dz, g), tuple(jnp.where(seen, part, 0) for part in parts)

    return Epilogue(prepare, forward, by.backward and backward, by_ends=True)

  def observed(self) -> dict[str, Any]:
    """The state of each quantizer after the ends of the tensor that was seen, of all devices."""
    if not self._ends:
      return {}
    ends = jnp.max(jnp.stack([*self._ends.values()], 1), 0)
    pairs = jnp.stack((-ends[:, 0], ends[:, 1]), 1)

    def move(prepare, params, state, ends, nonnegative):
      return prepare(params, state, ends, train=self.active, nonnegative=nonnegative)[2]

    return self._for_all(move, {tensor: pairs[i] for i, tensor in enumerate(self._ends)})

  def _for_all(self, function: Callable, ends: Mapping[str, Any]) -> dict[str, Any]:
    """``function(prepare, params, state, ends, nonnegative)`` of tensors, in one go for those alike."""
    kinds: dict[Any, list[str]] = {}
    for tensor in ends:
      kinds.setdefault(self.members[tensor][:2], []).append(tensor)
    found: dict[str, Any] = {}
    for (quantizer, nonnegative), alike in kinds.items():
      given = [(*self.members[tensor][2:], ends[tensor]) for tensor in alike]
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *given)
      call = partial(function, quantizer.apply.prepare, nonnegative=nonnegative)
      results = jax.vmap(call)(*stacked)
      found |= {tensor: state_at(results, i) for i, tensor in enumerate(alike)}
    return found
