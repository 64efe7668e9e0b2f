"""Quantization-aware training as a transform: pure functions around a model, for any training loop.

Gradients pass straight through.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_type
from jaxcompress.nn import INPUT, Graph, trace
from jaxcompress.nn.foreign import check_model
from jaxcompress.nn.tracing import intercept
from jaxcompress.quantize.config import PLAN, Quantization
from jaxcompress.quantize.known import KnownGrids
from jaxcompress.quantize.model import QuantizedModel
from jaxcompress.quantize.passes import Pass, Switch
from jaxcompress.quantize.sites import QuantVariables, Sites, find_sites, init_quantizers
from jaxcompress.quantize.trained import convert, exact_values, trained_codes

DROPOUT = 2  # folded into the key of a pass


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
    run = Pass(plan, sites, quantizers, train, rng, active, live_norm, is_exact, exact, known)
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
