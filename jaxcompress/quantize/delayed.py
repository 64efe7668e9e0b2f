"""Ranges of a step, moved all at once, and rounding by those of the step before.

So a step has few programs for them, and devices exchange those that are delayed in one message.

References:
  Micikevicius et al., `FP8 Formats for Deep Learning <https://arxiv.org/abs/2209.05433>`_, 2022; NVIDIA's
  Transformer Engine, ``DelayedScaling``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.epilogue import Epilogue
from jaxcompress.ops.parts import part_extremes
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.states import States, state_at, taken


class Member(NamedTuple):
  """A tensor whose range a pass moves.

  Attributes:
    key: of its range, which tensors may share.
    quantizer: which keeps it.
    nonnegative: whether the tensor is known to be at least zero.
    params: the quantizer's.
  """

  key: str
  quantizer: Quantizer
  nonnegative: bool
  params: Any


class Seen:
  """The ends of tensors that one pass of a network has seen, which move their ranges all at once.

  Args:
    members: the tensors, by name.
    states: of the quantizers as the step before has left them.
    active: whether what is seen counts; bool or scalar bool array.
  """

  def __init__(self, members: Mapping[str, Member], states: States, active: bool | jax.Array):
    self.members, self.before, self.active = members, states, active
    self._ends: dict[str, jax.Array] = {}

  def see(self, tensor: str, z: jax.Array) -> jax.Array:
    """Notes the ends of a tensor, or of what has them, and returns them, (parts, 2)."""
    ends = part_extremes(jax.lax.stop_gradient(z)).astype(jnp.float32)
    self._ends[tensor] = ends
    return ends

  def prepare(self, tensor: str, z: jax.Array) -> tuple[Any, Any, Any]:
    """Sees a tensor and gives what it is rounded by: its range, moved already (:class:`FusedRounding`)."""
    key, quantizer, nonnegative, params = self.members[tensor]
    ends = jnp.max(self.see(tensor, z), 0)
    self._ends[tensor] = ends[None]  # exchanged once
    pair, state = jnp.stack((-ends[0], ends[1])), self.before[key]
    rounding: Any = quantizer.apply  # a FusedRounding
    return rounding.prepare(params, state, pair, train=True, nonnegative=nonnegative)

  def moved(self) -> States:
    """The states after the ends that were seen, on all devices."""
    states, times = self.before, Counter[str]()
    if not self._ends:
      return states
    ends = jnp.max(jnp.stack([*self._ends.values()], 1), 0)
    pairs = dict(zip(self._ends, jnp.stack((-ends[:, 0], ends[:, 1]), 1), strict=True))

    def move(prepare, params, state, ends, nonnegative):
      return prepare(params, state, ends, train=self.active, nonnegative=nonnegative)[2]

    for tensors, after in self.for_all(move, pairs):
      rounds: dict[int, dict[str, int]] = {}  # of those that share a range one after the other
      for i, tensor in enumerate(tensors):
        key = self.members[tensor].key
        rounds.setdefault(times[key], {})[key] = i
        times[key] += 1
      for again, place_of in rounds.items():
        new = taken(after, np.array([*place_of.values()]))
        if again:
          new = self.members[tensors[0]].quantizer.merge(states.at([*place_of]), new)
        states = states.with_at([*place_of], new)
    return states

  def for_all(self, function: Callable, ends: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """``function(prepare, params, state, ends, nonnegative)`` of tensors, in one go for those alike."""
    kinds: dict[Any, list[str]] = {}
    for tensor in ends:
      kinds.setdefault(self.members[tensor][1:3], []).append(tensor)
    for (quantizer, nonnegative), alike in kinds.items():
      members = [self.members[tensor] for tensor in alike]
      stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
      params = jax.tree.map(stack, *(member.params for member in members))
      of_ends = jnp.stack([ends[tensor] for tensor in alike])
      call = partial(function, quantizer.apply.prepare, nonnegative=nonnegative)
      states = self.before.at([member.key for member in members])
      yield alike, jax.vmap(call)(params, states, of_ends)


class Delayed(Seen):
  """Rounding by the ranges of the step before; what is seen moves them for the next."""

  def __init__(self, members: Mapping[str, Member], states: States, active: bool | jax.Array):
    super().__init__(members, states, active)

    def read(prepare, params, state, ends, nonnegative):
      trained, fixed, _ = prepare(params, state, ends, train=False, nonnegative=nonnegative)
      return trained, fixed, state.count > 0

    self._earlier = {
      tensor: state_at(found, i)
      for tensors, found in self.for_all(read, dict.fromkeys(members, np.zeros(2, np.float32)))
      for i, tensor in enumerate(tensors)
    }

  @property
  def seen(self) -> jax.Array:
    """Whether every tensor had a step before; () bool."""
    return jnp.all(jnp.stack([seen for _, _, seen in self._earlier.values()]))

  def where_seen(self, tensor: str, y: jax.Array, x: jax.Array) -> jax.Array:
    """``y`` if there was a step before, else ``x``."""
    return jnp.where(self._earlier[tensor][2], y, x)

  def rounding(self, tensor: str) -> Epilogue:
    """Rounding by the range of the step before; a tensor without one stays as it is."""
    by: Any = self.members[tensor].quantizer.apply  # a FusedRounding
    trained, fixed, seen = self._earlier[tensor]

    def prepare(z):
      self.see(tensor, z)
      return trained, (fixed, seen)

    def forward(z, trained, fixed):
      fixed, seen = fixed
      return jnp.where(seen, by.forward(z, trained, fixed), z)

    def backward(z, g, trained, fixed):
      fixed, seen = fixed
      dz, parts = by.backward(z, g, trained, fixed)
      return jnp.where(seen, dz, g), tuple(jnp.where(seen, part, 0) for part in parts)

    return Epilogue(prepare, forward, by.backward and backward, by_ends=True)
