"""Quantization-aware training as a transform: pure functions around a model, for any training loop.

Kernels are put on their grids before the model runs, its input and the outputs of its leaf ops while
it runs, by interception of their calls. Gradients pass straight through.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_type
from jaxcompress.nn import INPUT, Graph, trace
from jaxcompress.nn.epilogue import Epilogue, ending
from jaxcompress.nn.foreign import check_model
from jaxcompress.nn.graph import parameters, with_parameters
from jaxcompress.nn.tracing import intercept, is_leaf_call, module_path
from jaxcompress.ops.codes import on_grids
from jaxcompress.quantize.config import PLAN, Quantization
from jaxcompress.quantize.delayed import Delayed, Member, Seen
from jaxcompress.quantize.fake_quant import activation_levels, fake_quant, replace_value
from jaxcompress.quantize.integer.grid import Grid, with_bits
from jaxcompress.quantize.known import KnownGrids
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
from jaxcompress.quantize.states import States
from jaxcompress.quantize.trained import convert, exact_values, trained_codes

DROPOUT = 2  # folded into the key of a pass

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
    apply: ``(params, state, variables, images, *, train, step=None, rng=None, call=None, dtype=None)
      -> (output, updated, state)``: the model's output, the collections that the pass changed, as Flax gives
      them (``batch_stats`` where ``train``, otherwise none), and the quantizers' new state. ``train``
      is a bool; without it nothing changes. ``step`` is the number of updates so far, which the
      plan's starts are compared with; without it all of them have passed. ``rng`` is a key for
      stochastic rounding and the model's own ``"dropout"``. ``call``, ``(variables, images) ->
      (output, updated)``, takes the place of ``model.apply``. ``dtype``, such as ``jnp.bfloat16``, is that
      of products; None: that of the images.
    convert: ``(params, state, variables, images, *, preprocess=None) -> QuantizedModel``: the
      integers that were trained, for exporters; ``preprocess`` maps images to what the model reads.
  """

  init: Callable[[jax.Array, Mapping[str, Any], Any], QuantVariables]
  apply: Callable[..., tuple[Any, Mapping[str, Any], Any]]
  convert: Callable[..., QuantizedModel]


def transform(model: nn.Module, plan: Quantization) -> QuantTransform:
  """Makes a model's quantization-aware training for a loop of any kind: three pure functions.

  ``Recipe(quantize=plan)`` trains by it; alone it goes into a ``value_and_grad`` of your own.

  Args:
    model: a linen module made of leaf ops.
    plan: what is quantized, how, and from which step on.

  Returns:
    A :class:`QuantTransform`.

  Raises:
    ValueError: if an argument is of another kind, and when it is used: if a rule matches no layer, the
      plan starts later and a pass that trains is not told its step, variables are another plan's, or
      ranges that are to be converted were not measured.

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
  check_model("model", model, trains=True)
  check_type("plan", plan, Quantization, PLAN)

  def sites_of(variables, images):
    return find_sites(graph_of(model, variables, images.shape[1:]), plan.apart)

  def init(rng, variables, images):
    del rng  # no quantizer draws
    return init_quantizers(plan, sites_of(variables, images), variables["params"])

  def apply(params, state, variables, images, *, train, step=None, rng=None, call=None, dtype=None):
    sites = sites_of(variables, images)
    quantizers = _own(plan, sites, params, state, variables["params"])
    active, live_norm, is_exact = _phase(plan, step, train)
    exact = {}
    if is_exact is not False:
      exact = _device_values(is_exact, plan, sites, quantizers, variables, images)
    dtype = images.dtype if dtype is None else jnp.dtype(dtype)
    known = KnownGrids(sites, active, dtype)
    images = images.astype(jnp.float32 if known.needed else dtype)
    run = _Pass(plan, sites, quantizers, train, rng, active, live_norm, is_exact, exact, known)
    kernels, of_weights = run.round_kernels(variables["params"])
    images = run.visit(INPUT, images)
    call = call or partial(_call, model, train=train, rng=rng)
    with intercept(run.interceptor):
      output, updated = call({**variables, "params": kernels}, images)
    return output, updated, {"weights": of_weights, "activations": run.new_ranges()}

  def convert_trained(params, state, variables, images, *, preprocess=None):
    sites = sites_of(variables, images)
    quantizers = _own(plan, sites, params, state, variables["params"])
    _check_seen(quantizers)
    codes = trained_codes(plan, sites, quantizers, variables["params"])
    codes, variables = jax.device_get((codes, dict(variables)))
    return convert(plan, sites, codes, variables, preprocess=preprocess)

  return QuantTransform(init, apply, convert_trained)


def graph_of(model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> Graph:
  """A model's graph for one float32 image; only shapes of the variables are read."""
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), dict(variables))
  return trace(model, abstract, image)


def _own(
  plan: Quantization, sites: Sites, params: Any, state: Any, parameters: Any
) -> QuantVariables:
  """The quantizers' variables, if they have the form that ``init`` gives them.

  Raises:
    ValueError: if they have not.
  """
  given = QuantVariables(params, state)
  own = jax.eval_shape(lambda tree: init_quantizers(plan, sites, tree), parameters)
  form = lambda tree: (jax.tree.structure(tree), [jnp.shape(x) for x in jax.tree.leaves(tree)])  # noqa: E731
  if form(given) != form(own):
    raise ValueError(
      "params, state: they are of another plan or model; give what init of this transform gave, and"
      " the state that apply returned."
    )
  return given


def _check_seen(quantizers: QuantVariables) -> None:
  """Raises if a tensor's range was never measured, so that its grid means nothing."""
  for name, state in jax.device_get(quantizers.state["activations"]).items():
    if "count" in getattr(state, "_fields", ()) and not state.count:
      raise ValueError(
        f"state: the activations of {name!r} were seen by no quantized pass that trains, so they have"
        " no range; call apply(..., train=True) first, and give the state that it returns."
      )


def _phase(plan: Quantization, step: Any, train: bool) -> tuple[Switch, Switch | None, Switch]:
  """Whether a pass is quantized, whether its BatchNorm is live, and whether it computes as a device.

  Evaluation is quantized once a quantized step was taken. None: as the pass has it.
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
  return active, live, plan.exact_step is not None and past(plan.exact_step)


def _call(
  model: nn.Module, variables: Any, images: jax.Array, *, train: bool, rng: jax.Array | None
) -> tuple[Any, Mapping[str, Any]]:
  if not train:
    return model.apply(variables, images, train=False), {}
  rngs = {} if rng is None else {"dropout": jax.random.fold_in(rng, DROPOUT)}
  return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)


def _device_values(
  active: Switch,
  plan: Quantization,
  sites: Sites,
  quantizers: QuantVariables,
  variables: Mapping[str, Any],
  images: jax.Array,
) -> dict[str, jax.Array]:
  """The device's values of every tensor where ``active``; nothing is computed elsewhere."""
  return jax.lax.cond(
    active,
    lambda *args: exact_values(plan, sites, *args),
    lambda *args: {
      name: jnp.zeros((len(images), *sites.graph.shape(name)[1:])) for name in sites.rounded
    },
    quantizers,
    dict(variables),
    images,
  )


@dataclasses.dataclass
class _Pass:
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

  def interceptor(self, next_fun, args, kwargs, context):
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
