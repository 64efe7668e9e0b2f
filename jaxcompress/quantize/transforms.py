"""Quantization-aware training as a transform: pure functions around a model, for any training loop.

Kernels are put on their grids before the model runs, its input and the outputs of its leaf ops while
it runs, by interception of their calls. Gradients pass straight through.
"""

import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_type
from jaxcompress.nn import INPUT, Graph, trace
from jaxcompress.nn.epilogue import Epilogue, ending
from jaxcompress.nn.graph import parameters, with_parameters
from jaxcompress.nn.tracing import intercept, is_leaf_call, module_path
from jaxcompress.quantize.config import PLAN, Quantization
from jaxcompress.quantize.fake_quant import activation_levels, fake_quant, replace_value
from jaxcompress.quantize.integer.grid import Grid, with_bits
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.quantizers.base import FusedRounding
from jaxcompress.quantize.quantizers.clipped import dorefa_gradient
from jaxcompress.quantize.sites import (
  Assigned,
  QuantVariables,
  Sites,
  assign,
  find_sites,
  init_quantizers,
  tensor_bits,
)
from jaxcompress.quantize.trained import convert, exact_values, trained_codes

DROPOUT = 2  # folded into the key of a pass
MODEL = "a linen module, such as models.resnet8(10)"

Call = Callable[[dict[str, Any], jax.Array], tuple[Any, Mapping[str, Any]]]
Switch = bool | jax.Array


class QuantTransform(NamedTuple):
  """Quantization-aware training of a model: three pure functions, made by :func:`transform`.

  They work under ``jit``, ``grad`` and ``vmap``. ``variables`` are the model's, ``{"params": ...,
  "batch_stats": ...}``; of ``images`` in ``init`` and ``convert`` only the shape is read.

  Attributes:
    init: ``(rng, variables, images) -> (params, state)``, the quantizers' variables: what the
      optimizer trains with the model's own parameters, such as LSQ's steps, and what is carried
      along, such as ranges.
    apply: ``(params, state, variables, images, *, train, step=None, rng=None, call=None) -> (output,
      updated, state)``: the model's output, the collections that the pass changed, as Flax gives
      them (``batch_stats`` where ``train``, otherwise none), and the quantizers' new state. ``train``
      is a bool; without it nothing changes. ``step`` is the number of updates so far, which the
      plan's starts are compared with; without it all of them have passed. ``rng`` is a key for
      stochastic rounding and the model's own ``"dropout"``. ``call``, ``(variables, images) ->
      (output, updated)``, takes the place of ``model.apply``.
    convert: ``(params, state, variables, images, *, preprocess=None) -> QuantizedModel``: the
      integers that were trained, for exporters; ``preprocess`` maps images to what the model reads.
  """

  init: Callable[[jax.Array, Mapping[str, Any], Any], QuantVariables]
  apply: Callable[..., tuple[Any, Mapping[str, Any], Any]]
  convert: Callable[..., QuantizedModel]


def transform(model: nn.Module, plan: Quantization) -> QuantTransform:
  """Quantization-aware training of a model in a training loop of any kind.

  ``Recipe(quantize=plan)`` trains by it; alone it goes into a ``value_and_grad`` of your own.

  Args:
    model: a linen module made of leaf ops.
    plan: what is quantized, how, and from which step on.

  Returns:
    A :class:`QuantTransform`.

  Raises:
    ValueError: if an argument is of another kind, and when it is used: if a rule matches no layer, or
      the plan starts later and a pass that trains is not told its step.

  Examples:
    >>> from jaxcompress.nn import Dense
    >>> from jaxcompress.quantize import absmax, fixed_range
    >>> class Sum(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, x, *, train):
    ...     return Dense(1, use_bias=False, name="dense")(x)
    >>> x, variables = jnp.array([[0.3, 0.4]]), {"params": {"dense": {"kernel": jnp.ones((2, 1))}}}
    >>> plan = Quantization(weights=absmax(8), activations=fixed_range(-1.0, 1.0, bits=2))
    >>> quantized = transform(Sum(), plan)
    >>> params, state = quantized.init(jax.random.key(0), variables, x)
    >>> output, _, state = quantized.apply(params, state, variables, x, train=True)
    >>> round(output.item(), 3)  # all values are -2 to 1 times 2 / 3
    0.667
  """
  check_type("model", model, nn.Module, MODEL)
  check_type("plan", plan, Quantization, PLAN)

  def sites_of(variables, images):
    return find_sites(graph_of(model, variables, images.shape[1:]), plan.apart)

  def init(rng, variables, images):
    del rng  # no quantizer draws
    return init_quantizers(plan, sites_of(variables, images), variables["params"])

  def apply(params, state, variables, images, *, train, step=None, rng=None, call=None):
    quantizers, sites = QuantVariables(params, state), sites_of(variables, images)
    active, live_norm, is_exact = _phase(plan, step, train)
    exact = None
    if is_exact is not None:
      exact = _device_values(is_exact, plan, sites, quantizers, variables, images)
    options: dict[str, Any] = {"train": train, "rng": rng}
    passing = _rounding_pass(
      plan, sites, quantizers, active=active, live_norm=live_norm, exact=exact, **options
    )
    kernels, of_weights = _round_kernels(
      plan, sites, quantizers, variables["params"], active, **options
    )
    images = passing.round_input(images)
    call = call or (lambda *args: _call(model, *args, **options))
    with passing.intercept():
      output, updated = call({**variables, "params": kernels}, images)
    return output, updated, {"weights": of_weights, "activations": passing.new_state()}

  def convert_trained(params, state, variables, images, *, preprocess=None):
    sites = sites_of(variables, images)
    codes = trained_codes(plan, sites, QuantVariables(params, state), variables["params"])
    codes, variables = jax.device_get((codes, dict(variables)))
    return convert(plan, sites, codes, variables, preprocess=preprocess)

  return QuantTransform(init, apply, convert_trained)


def graph_of(model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> Graph:
  """A model's graph for one float32 image; only shapes of the variables are read."""
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), dict(variables))
  return trace(model, abstract, image)


def _phase(
  plan: Quantization, step: Any, train: bool
) -> tuple[Switch, Switch | None, Switch | None]:
  """Whether a pass is quantized, whether its BatchNorm is live, and whether it computes as a device.

  Evaluation is quantized once a quantized step was taken. None: what the plan does not ask for.
  """
  late = [at for at in (plan.start_step, plan.freeze_norm_step, plan.exact_step) if at]
  if step is None and train and late:
    raise ValueError(
      f"step: the plan starts at step {min(late)}; pass the number of updates so far."
    )

  def past(at: int) -> Switch:
    return step is None or (step >= at if train else step > at)

  active = past(plan.start_step) if plan.start_step or not train else True
  frozen = plan.freeze_norm_step if train else None
  live = None if frozen is None else (step is not None and step < frozen)
  return active, live, None if plan.exact_step is None else past(plan.exact_step)


def _call(
  model: nn.Module, variables: Any, images: jax.Array, *, train: bool, rng: jax.Array | None
) -> tuple[Any, Mapping[str, Any]]:
  if not train:
    return model.apply(variables, images, train=False), {}
  rngs = {} if rng is None else {"dropout": jax.random.fold_in(rng, DROPOUT)}
  return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)


class _Exact(NamedTuple):
  """What a device computes, for a forward pass that takes it over.

  Attributes:
    active: whether it does; bool scalar.
    values: float32 arrays by tensor.
  """

  active: Switch
  values: Mapping[str, jax.Array]


def _device_values(
  active: Switch,
  plan: Quantization,
  sites: Sites,
  quantizers: QuantVariables,
  variables: Mapping[str, Any],
  images: jax.Array,
) -> _Exact:
  """The device's values of every tensor where ``active``; nothing is computed elsewhere."""
  values = jax.lax.cond(
    active,
    lambda *args: exact_values(plan, sites, *args),
    lambda *args: {
      name: jnp.zeros((len(images), *sites.graph.shape(name)[1:])) for name in sites.rounded
    },
    quantizers,
    dict(variables),
    images,
  )
  return _Exact(active, values)


def _round_kernels(
  plan: Quantization,
  sites: Sites,
  variables: QuantVariables,
  params: Any,
  active: Switch,
  *,
  train: bool,
  rng: jax.Array | None,
) -> tuple[Any, dict[str, Any]]:
  """The parameters with every kernel on its grid, and the new state of the weights' quantizers."""
  quantizers = assign(plan, sites).weights

  def rounded(kernels, states):
    pairs = {
      name: quantizer.apply(
        variables.params["weights"][name],
        states[name],
        kernels[name],
        train=train,
        rng=_key(rng, name),
      )
      for name, quantizer in quantizers.items()
    }
    return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

  kernels = {name: parameters(params, name)["kernel"] for name in quantizers}
  states = variables.state["weights"]
  if not isinstance(active, bool):
    # One branch for all: a select of each kernel would read both.
    kernels, states = jax.lax.cond(active, rounded, lambda *unchanged: unchanged, kernels, states)
  elif active:
    kernels, states = rounded(kernels, states)
  for name, kernel in kernels.items():
    params = with_parameters(params, f"{name}/kernel", kernel)
  return params, states


class _Pass(NamedTuple):
  """Activation quantization of one forward pass.

  Attributes:
    round_input: maps the images to the ones that the network sees.
    intercept: context manager; leaf ops called inside it round their outputs.
    new_state: call it after the pass; the activations' new state.
  """

  round_input: Callable[[jax.Array], jax.Array]
  intercept: Callable[[], AbstractContextManager]
  new_state: Callable[[], dict[str, Any]]


def _rounding_pass(
  plan: Quantization,
  sites: Sites,
  variables: QuantVariables,
  *,
  active: Switch,
  train: bool,
  live_norm: Switch | None,
  rng: jax.Array | None,
  exact: _Exact | None,
) -> _Pass:
  """Rounds the activations of one forward pass, with ranges that come in and go out.

  Args:
    plan: the quantization.
    sites: of the model's graph.
    variables: the quantizers' variables.
    active: whether anything is rounded.
    train: whether ranges are updated (where active).
    live_norm: if given, BatchNorm uses the batch's statistics where true.
    rng: a key for stochastic rounding, or None.
    exact: values of the device that take the place of those on the grids, which keep their
      gradients; or None.
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
      rng=_key(rng, tensor),
    )
    keep(key, state)
    return _select(active, with_coarse_gradient(tensor, y), x)

  def keep(key: str, state: Any) -> None:
    updated[key] = quantizers[key].merge(updated[key], state) if key in updated else state

  def with_coarse_gradient(tensor: str, y: jax.Array) -> jax.Array:
    if plan.gradients is None:
      return y
    return dorefa_gradient(y, _key(rng, f"{tensor} gradient"), plan.gradients)

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

  return _Pass(
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


def _key(rng: jax.Array | None, name: str) -> jax.Array | None:
  """A key of the tensor's own."""
  return None if rng is None else jax.random.fold_in(rng, zlib.crc32(name.encode()))


def _select(active: Switch, new: Any, old: Any) -> Any:
  if isinstance(active, bool):
    return new if active else old
  return jax.tree.map(lambda a, b: jnp.where(active, a, b), new, old)
