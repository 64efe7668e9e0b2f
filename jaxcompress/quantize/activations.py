"""Quantization of a whole model's activations, by interception of its layers."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn import INPUT
from jaxcompress.nn.epilogue import Epilogue, ending
from jaxcompress.nn.tracing import intercept, is_leaf_call, module_path
from jaxcompress.quantize.config import Quantization
from jaxcompress.quantize.fake_quant import activation_levels, fake_quant, replace_value
from jaxcompress.quantize.integer import Grid, with_bits
from jaxcompress.quantize.quantizers.base import FusedRounding
from jaxcompress.quantize.quantizers.clipped import dorefa_gradient
from jaxcompress.quantize.sites import Assigned, Sites, assign, tensor_bits
from jaxcompress.quantize.variables import QuantVariables, key_of


def _select(active: bool | jax.Array, new: Any, old: Any) -> Any:
  if isinstance(active, bool):
    return new if active else old
  return jax.tree.map(lambda a, b: jnp.where(active, a, b), new, old)


class Exact(NamedTuple):
  """What a device computes, for a forward pass that takes it over.

  Attributes:
    active: whether it does; bool scalar.
    values: float32 arrays by tensor.
  """

  active: bool | jax.Array
  values: Mapping[str, jax.Array]


class ActivationPass(NamedTuple):
  """Activation quantization of one forward pass.

  Attributes:
    round_input: maps the images to the ones that the network sees.
    intercept: context manager; leaf ops called inside it round their outputs.
    new_state: call it after the pass; the activations' new state.
  """

  round_input: Callable[[jax.Array], jax.Array]
  intercept: Callable[[], AbstractContextManager]
  new_state: Callable[[], dict[str, Any]]


def quantize_activations(
  plan: Quantization,
  sites: Sites,
  variables: QuantVariables,
  *,
  active: bool | jax.Array,
  train: bool,
  live_norm: bool | jax.Array | None = None,
  rng: jax.Array | None = None,
  exact: Exact | None = None,
) -> ActivationPass:
  """Rounds the activations of one forward pass, with ranges that come in and go out.

  Args:
    plan: the quantization.
    sites: of the model's graph.
    variables: the quantizers' variables.
    active: whether anything is rounded; bool or scalar bool array.
    train: whether ranges are updated (where active).
    live_norm: if given, BatchNorm uses the batch's statistics where true.
    rng: a key for stochastic rounding, or None.
    exact: values of the device that take the place of those on the grids, which keep their
      gradients; or None.

  Returns:
    An :class:`ActivationPass`, for one forward pass.

  Examples:
    >>> import flax.linen as nn
    >>> from jaxcompress.nn import Dense, trace
    >>> from jaxcompress.quantize import absmax, find_sites, fixed_range, init_quantizers
    >>> class Sum(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, x, *, train):
    ...     return Dense(1, use_bias=False, name="dense")(x)
    >>> x, ones = jnp.array([[0.3, 0.4]]), {"params": {"dense": {"kernel": jnp.ones((2, 1))}}}
    >>> plan = Quantization(weights=absmax(8), activations=fixed_range(-1.0, 1.0, bits=2))
    >>> sites = find_sites(trace(Sum(), ones, x))
    >>> variables = init_quantizers(plan, sites, ones["params"])
    >>> @jax.jit
    ... def forward(x):
    ...   run = quantize_activations(plan, sites, variables, active=True, train=False)
    ...   with run.intercept():
    ...     return Sum().apply(ones, run.round_input(x), train=False)
    >>> round(forward(x).item(), 3)  # all values are -2 to 1 times 2 / 3
    0.667
  """
  keys, assigned = sites.key_of, assign(plan, sites)
  quantizers, gates = assigned.activations, assigned.gates
  narrowed = _narrowed_reads(sites, assigned)
  start = variables.state["activations"]
  updated: dict[str, Any] = {}
  ended: set[str] = set()
  observing = False if not train else active

  def on_grid(grid: Grid, x: jax.Array) -> jax.Array:
    y = fake_quant(x, grid.scale, float(grid.zero_point), activation_levels(grid.bits))
    return _select(active, y, x)

  def narrow(tensor: str | None, x: jax.Array) -> jax.Array:
    """A 16-bit tensor as a layer of 8 bits reads it."""
    if tensor is None:
      return x
    grid, key = gates.get(tensor), keys[tensor]
    if grid is None:
      scale, _ = quantizers[key].grid(
        variables.params["activations"][key], updated.get(key, start[key]), None
      )
      grid = Grid(jax.lax.stop_gradient(scale), 0, 16)
    return on_grid(with_bits(grid, 8, nonnegative=tensor in sites.nonnegative), x)

  def visit(tensor: str, x: jax.Array) -> jax.Array:
    return replaced(tensor, rounded(tensor, x))

  def replaced(tensor: str, y: jax.Array) -> jax.Array:
    """The device's value where there is one."""
    if exact is None or tensor not in exact.values:
      return y
    return _select(exact.active, replace_value(y, exact.values[tensor].astype(y.dtype)), y)

  def rounded(tensor: str, x: jax.Array) -> jax.Array:
    key = keys[tensor]
    if tensor in gates:
      return on_grid(gates[tensor], x)
    if key not in quantizers:
      return x
    params = variables.params["activations"][key]
    if tensor == INPUT:  # its gradient alone would need the first layer's gradient by the images
      params = jax.lax.stop_gradient(params)
    y, state = quantizers[key].apply(
      params,
      start[key],
      x,
      train=observing,
      nonnegative=tensor in sites.nonnegative,
      rng=key_of(rng, tensor),
    )
    keep(key, state)
    return _select(active, with_coarse_gradient(tensor, y), x)

  def keep(key: str, state: Any) -> None:
    updated[key] = quantizers[key].merge(updated[key], state) if key in updated else state

  def with_coarse_gradient(tensor: str, y: jax.Array) -> jax.Array:
    if plan.gradients is None:
      return y
    return dorefa_gradient(y, key_of(rng, f"{tensor} gradient"), plan.gradients)

  def epilogue_of(tensor: str) -> Epilogue | None:
    """The rounding that a normalization may end in; None where there is none to be had."""
    key = keys[tensor]
    if active is not True or tensor in gates or key not in quantizers:
      return None
    rounding = quantizers[key].apply
    if not isinstance(rounding, FusedRounding):
      return None

    def prepare(z):
      params, nonnegative = variables.params["activations"][key], tensor in sites.nonnegative
      trained, fixed, state = rounding.prepare(
        params, start[key], z, train=observing, nonnegative=nonnegative
      )
      keep(key, state)
      ended.add(tensor)
      return trained, fixed

    return Epilogue(prepare, rounding.forward, rounding.backward, rounding.by_ends)

  def interceptor(next_fun, args, kwargs, context):
    if not is_leaf_call(context):
      return next_fun(*args, **kwargs)
    if live_norm is not None and "train" in kwargs:
      kwargs = {**kwargs, "train": live_norm}
    name = module_path(context.module)
    if name in narrowed:
      args = tuple(narrow(*pair) for pair in zip(narrowed[name], args, strict=True))
    if name not in sites.rounded:
      return next_fun(*args, **kwargs)
    with ending(epilogue_of(name)):
      y = next_fun(*args, **kwargs)
    return replaced(name, with_coarse_gradient(name, y)) if name in ended else visit(name, y)

  return ActivationPass(
    lambda x: visit(INPUT, x), lambda: intercept(interceptor), lambda: {**start, **updated}
  )


def _narrowed_reads(sites: Sites, assigned: Assigned) -> dict[str, tuple[str | None, ...]]:
  """For each node that computes in 8 bits and reads tensors of 16: these, and None for the others.

  What a node reads from another grid than its own is rounded with its output instead.
  """
  bits = tensor_bits(sites, assigned)
  narrow = lambda node, t: bits[t] > bits[node.output] and (node.name, t) not in sites.apart  # noqa: E731
  reads = {
    node.name: tuple(t if narrow(node, t) else None for t in node.inputs)
    for node in sites.graph.nodes
  }
  return {name: tensors for name, tensors in reads.items() if any(tensors)}
