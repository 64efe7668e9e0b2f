"""One pass of a network in quantization-aware training.

Its kernels are put on their grids before it runs, its input and the outputs of its leaf ops while it
runs, by interception of their calls.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.nn import INPUT
from jaxcompress.nn.epilogue import Epilogue, ending
from jaxcompress.nn.graph import parameters, with_parameters
from jaxcompress.nn.tracing import is_leaf_call, module_path
from jaxcompress.ops.codes import on_grids
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.delayed import Delayed, Member, Seen
from jaxcompress.quantize.fake_quant import activation_levels, fake_quant, replace_value
from jaxcompress.quantize.integer.grid import Grid, with_bits
from jaxcompress.quantize.known import KnownGrids
from jaxcompress.quantize.quantizers.base import FusedRounding
from jaxcompress.quantize.quantizers.clipped import dorefa_gradient
from jaxcompress.quantize.sites import Assigned, QuantVariables, Sites, assign, tensor_bits
from jaxcompress.quantize.states import States

Switch = bool | jax.Array  # an array where it depends on the step


@dataclasses.dataclass
class Pass:
  """One pass of a network, with ranges that come in and go out.

  Attributes:
    plan: the quantization.
    sites: of the model's graph.
    variables: the quantizers' variables.
    train: whether the quantizers' state moves on (where active).
    rng: a key for stochastic rounding, or None.
    active: whether anything is rounded.
    live_norm: if given, BatchNorm uses the batch's statistics where true.
    is_exact: whether the device's values take the place of those on the grids, which keep their
      gradients.
    exact: these values, by tensor.
    known: the grids on which tensors were put.
    ranges: the activations' state, as it is by now.
    ended: tensors that a normalization has rounded by itself.
    delayed: rounding by the ranges of the step before.
  """

  plan: Quantization
  sites: Sites
  variables: QuantVariables
  train: bool
  rng: jax.Array | None
  active: Switch
  live_norm: Switch | None
  is_exact: Switch
  exact: Mapping[str, jax.Array]
  known: KnownGrids

  def __post_init__(self):
    self.keys, self.assigned = self.sites.key_of, assign(self.plan, self.sites)
    self.narrowed = _narrowed_reads(self.sites, self.assigned)
    self.before = dict(self.variables.state["activations"])
    self.ranges = dict(self.before)
    self.seen: set[str] = set()
    self.ended: set[str] = set()
    ranged = self.ranged_members()
    before = self.variables.state["activations"]
    self.delayed = Delayed(ranged if self.plan.delayed else {}, before, self.active)
    self.ends = Seen({} if self.plan.delayed else ranged, before, self.active)
    if self.delayed.members:  # in their first step they lie on no grid
      known = self.active & self.delayed.seen
      self.known = dataclasses.replace(self.known, active=known)

  def ranged_members(self) -> dict[str, Member]:
    """The tensors whose ranges this pass moves."""
    if not self.train or self.active is False:
      return {}
    quantizers = {k: q for k, q in self.assigned.activations.items() if q.keeps_range}
    return {
      tensor: Member(
        key, quantizers[key], tensor in self.sites.nonnegative, self.of_quantizer(tensor)[0]
      )
      for tensor, key in self.sites.keys
      if key in quantizers and tensor in self.sites.rounded and tensor not in self.assigned.gates
    }

  def new_ranges(self) -> States:
    """The activations' state after the pass."""
    if not self.train:
      return self.variables.state["activations"]
    seen = self.delayed if self.plan.delayed else self.ends
    moved = seen.moved()
    own = {member.key for member in seen.members.values()}
    if others := {key for key in self.seen - own if jax.tree.leaves(self.ranges[key])}:
      moved = moved.updated({**moved, **{key: self.ranges[key] for key in others}})
    return moved

  def round_kernels(self, params: Any) -> tuple[Any, States]:
    """The parameters with every kernel on its grid, and the new state of the weights' quantizers."""
    quantizers, trained = self.assigned.weights, self.variables.params["weights"]

    def rounded(kernels, states):
      pairs = {
        name: quantizer.apply(
          trained[name], states[name], kernels[name], train=self.train, rng=self.key(name)
        )
        for name, quantizer in quantizers.items()
      }
      kernels, after = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
      return kernels, states.updated(after) if self.train else states

    kernels = {name: parameters(params, name)["kernel"] for name in quantizers}
    states, given = self.variables.state["weights"], kernels
    if not isinstance(self.active, bool):
      # One branch for all: a select of each kernel would read both.
      same = lambda *unchanged: unchanged  # noqa: E731
      kernels, states = jax.lax.cond(self.active, rounded, same, kernels, states)
    elif self.active:
      kernels, states = rounded(kernels, states)
    for name, kernel in kernels.items():
      self.known.put_kernel(name, quantizers[name], trained[name], states[name], given[name])
      params = with_parameters(params, f"{name}/kernel", kernel)
    return params, states

  def interceptor(
    self, next_fun: Callable, args: tuple, kwargs: dict[str, Any], context: Any
  ) -> Any:
    """Calls a leaf op, and puts what it gives on its grid."""
    if not is_leaf_call(context):
      return next_fun(*args, **kwargs)
    if self.live_norm is not None and "train" in kwargs:
      kwargs = {**kwargs, "train": self.live_norm}
    name = module_path(context.module)
    if name in self.narrowed:
      args = tuple(self.narrow(*pair) for pair in zip(self.narrowed[name], args, strict=True))
    grids = self.known.of_layer(name)
    rounds = name in self.sites.rounded
    with ending(self.epilogue(name) if rounds else None), on_grids(grids):
      y = next_fun(*args, **kwargs)
    if not rounds:
      self.known.copy(name)
      return y
    if name in self.ended:
      return self.replaced(name, self.with_coarse_gradient(name, y))
    return self.visit(name, y)

  def visit(self, tensor: str, x: jax.Array) -> jax.Array:
    """A tensor on its grid, or as the device has it."""
    return self.replaced(tensor, self.rounded(tensor, x))

  def rounded(self, tensor: str, x: jax.Array) -> jax.Array:
    """A tensor on its grid."""
    key, quantizers = self.keys[tensor], self.assigned.activations
    if tensor in self.assigned.gates:
      self.known.put_fixed(tensor, self.assigned.gates[tensor])
      return self.on_grid(self.assigned.gates[tensor], x)
    if key not in quantizers:
      return x
    params, state, options = self.of_quantizer(tensor)
    if (
      tensor == INPUT
    ):  # its gradient alone would need the first layer's gradient with respect to the images
      params = jax.lax.stop_gradient(params)
    if tensor in self.delayed.members:
      delayed = self.delayed.rounding(tensor)
      self.known.put(tensor, key, quantizers[key], params, state)
      y = delayed.forward(x, *delayed.prepare(x))
      return _select(self.active, self.with_coarse_gradient(tensor, y), x)
    rounding = quantizers[key].apply
    if isinstance(rounding, FusedRounding):
      y = rounding.forward(x, *self.prepared(tensor, params, x))
    else:
      y, state = rounding(params, state, x, rng=self.key(tensor), **options)
      self.known.put(tensor, key, quantizers[key], params, state)
      self.keep(key, state)
    return _select(self.active, self.with_coarse_gradient(tensor, y), x)

  def epilogue(self, tensor: str) -> Epilogue | None:
    """The rounding that a normalization may end in; None where there is none to be had."""
    key = self.keys[tensor]
    if self.active is not True or key not in self.assigned.activations:
      return None
    rounding = self.assigned.activations[key].apply
    if tensor in self.assigned.gates or not isinstance(rounding, FusedRounding):
      return None
    delayed = tensor in self.delayed.members

    def prepare(z):
      self.ended.add(tensor)
      params, state, _ = self.of_quantizer(tensor)
      if not delayed:
        return self.prepared(tensor, params, z)
      self.known.put(tensor, key, self.assigned.activations[key], params, state)
      return self.delayed.rounding(tensor).prepare(z)

    if delayed:
      return self.delayed.rounding(tensor)._replace(prepare=prepare)
    return Epilogue(prepare, rounding.forward, rounding.backward, rounding.by_ends)

  def prepared(self, tensor: str, params: Any, z: jax.Array) -> tuple[Any, Any]:
    """The scalars that a tensor is rounded by, measured of it or of what has its ends."""
    key = self.keys[tensor]
    quantizer = self.assigned.activations[key]
    if tensor in self.ends.members:
      trained, fixed, state = self.ends.prepare(tensor, z)
    else:
      _, state, options = self.of_quantizer(tensor)
      trained, fixed, state = quantizer.apply.prepare(params, state, z, **options)
    self.known.put(tensor, key, quantizer, params, state)
    self.keep(key, state)
    return trained, fixed

  def of_quantizer(self, tensor: str) -> tuple[Any, Any, dict[str, Any]]:
    """A tensor's quantizer's variables, as the pass began, and the options that it is called with."""
    key = self.keys[tensor]
    params, state = self.variables.params["activations"][key], self.before[key]
    observing = self.active if self.train else False
    return params, state, {"train": observing, "nonnegative": tensor in self.sites.nonnegative}

  def keep(self, key: str, state: Any) -> None:
    """Takes the state of a grid over, joined with that of tensors that share it."""
    merge = self.assigned.activations[key].merge
    self.ranges[key] = merge(self.ranges[key], state) if key in self.seen else state
    self.seen.add(key)

  def narrow(self, tensor: str | None, x: jax.Array) -> jax.Array:
    """A 16-bit tensor as a layer of 8 bits reads it."""
    if tensor is None:
      return x
    grid, key = self.assigned.gates.get(tensor), self.keys[tensor]
    if grid is None:
      params = self.variables.params["activations"][key]
      scale, _ = self.assigned.activations[key].grid(params, self.ranges[key], None)
      grid = Grid(jax.lax.stop_gradient(scale), 0, 16)
    y = self.on_grid(with_bits(grid, 8, nonnegative=tensor in self.sites.nonnegative), x)
    return self.delayed.where_seen(tensor, y, x) if tensor in self.delayed.members else y

  def on_grid(self, grid: Grid, x: jax.Array) -> jax.Array:
    """A tensor on a fixed grid."""
    y = fake_quant(x, grid.scale, float(grid.zero_point), activation_levels(grid.bits))
    return _select(self.active, y, x)

  def replaced(self, tensor: str, y: jax.Array) -> jax.Array:
    """The device's value where there is one."""
    if tensor not in self.exact:
      return y
    return _select(self.is_exact, replace_value(y, self.exact[tensor].astype(y.dtype)), y)

  def with_coarse_gradient(self, tensor: str, y: jax.Array) -> jax.Array:
    """A tensor whose gradient is rounded, if the plan asks for it."""
    if self.plan.gradients is None:
      return y
    return dorefa_gradient(y, self.key(f"{tensor} gradient"), self.plan.gradients)

  def key(self, name: str) -> jax.Array | None:
    """A key of the tensor's own."""
    return None if self.rng is None else jax.random.fold_in(self.rng, zlib.crc32(name.encode()))


def _narrowed_reads(sites: Sites, assigned: Assigned) -> dict[str, tuple[str | None, ...]]:
  """Returns for each node of 8 bits the tensors of 16 bits that it reads, and None for the others.

  What a node reads from another grid than its own is rounded with its output instead.
  """
  bits = tensor_bits(sites, assigned)
  narrow = lambda node, t: bits[t] > bits[node.output] and (node.name, t) not in sites.apart  # noqa: E731
  reads = {
    node.name: tuple(t if narrow(node, t) else None for t in node.inputs)
    for node in sites.graph.nodes
  }
  return {name: tensors for name, tensors in reads.items() if any(tensors)}


def _select(active: Switch, new: jax.Array, old: jax.Array) -> jax.Array:
  if isinstance(active, bool):
    return new if active else old
  return jnp.where(active, new, old)
