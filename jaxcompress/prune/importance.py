"""How much each channel matters, and training that makes channels differ in it."""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress.arguments import check_whole, shown
from jaxcompress.nn import Graph, Node
from jaxcompress.nn.checks import is_number
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.operations import by_groups
from jaxcompress.nn.outputs import as_endpoints, holds_classes, name_outputs
from jaxcompress.prune.removal import traced
from jaxcompress.prune.routes import Routes, find_routes, is_birth
from jaxcompress.prune.rules import root_of

IMPORTANCES = ("l1", "bn_gamma", "group", "taylor")
TINY = 1e-20


class Importance(NamedTuple):
  """Scores of a network's channels.

  Attributes:
    graph: with all that the endpoints depend on.
    routes: classes of channels that are removed together.
    scores: of each class, (classes,) float64; infinite where it cannot be told, or must stay.
  """

  graph: Graph
  routes: Routes
  scores: np.ndarray

  def __repr__(self) -> str:
    return f"Importance({len(self.by_layer)} layers, {self.scores.size:,} scores)"

  @property
  def by_layer(self) -> dict[str, np.ndarray]:
    """Scores of the output channels of every layer that makes channels, (features,) each."""
    return {
      node.name: self.scores[self.routes.ids[node.output]]
      for node in self.graph.nodes
      if is_birth(node)
    }


def channel_importance(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  method: str = "l1",
  labels: Any = None,
  preprocess: Any = None,
  batch_size: int = 64,
) -> Importance:
  """Scores every channel; channels that can only be removed together have one score.

  ``"l1"``: the mean of ``|w|`` over the weights that make the channel, as a multiple of the layer's
  mean; averaged over the layers that make it. ``"bn_gamma"``: the mean of ``|gamma|`` over the
  normalizations that scale it; channels that none scales must stay. ``"group"``: the sum of squares
  over all kernels and scales that belong to the channel, of the layers that make it, scale it and read
  it, as a multiple of the mean over channels that are interchangeable. ``"taylor"``: the square of
  ``sum_p p dL/dp`` over what scales the channel (``gamma`` and ``beta``, or weights and bias where
  nothing normalises), which is how much the loss would change to first order, averaged over
  batches. The loss is the cross-entropy of the logits, and half the logarithm of the mean square of
  outputs that hold no scores of classes.

  Args:
    model: a linen module made of leaf ops.
    variables: its ``params`` and ``batch_stats``.
    images: (N, height, width, channels); only ``"taylor"`` reads more than their shape, so a
      ``ShapeDtypeStruct`` will do for the others.
    method: ``"l1"``, ``"bn_gamma"``, ``"group"`` or ``"taylor"``.
    labels: (N,) integers for ``"taylor"``, of logits (batch, classes); None: what the model decides.
    preprocess: maps images to what the network reads.
    batch_size: images at once, in ``"taylor"``, at most; batches are as even as can be.

  Returns:
    An :class:`Importance`.

  Raises:
    ValueError: if the method is unknown, the labels do not fit the images or the classes, or
      parameters or slopes are not finite, which tell nothing.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> found = channel_importance(model, variables, jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))
    >>> found.by_layer["stem"].shape
    (16,)

  References:
    Li et al., `Pruning Filters for Efficient ConvNets <https://arxiv.org/abs/1608.08710>`_, 2017,
    section 3.1; Liu et al., `Learning Efficient Convolutional Networks through Network Slimming
    <https://arxiv.org/abs/1708.06519>`_, 2017, section 3; Molchanov et al., `Importance Estimation
    for Neural Network Pruning <https://arxiv.org/abs/1906.10771>`_, 2019, equation 8; Fang et al.,
    `DepGraph: Towards Any Structural Pruning <https://arxiv.org/abs/2301.12900>`_, 2023, section 3.3,
    for ``"group"``.
  """
  if method not in IMPORTANCES:
    raise ValueError(f"method: {method!r} is unknown; it must be one of {', '.join(IMPORTANCES)}.")
  if len(getattr(images, "shape", ())) != 4 or 0 in images.shape:
    found = getattr(images, "shape", None) or shown(images)
    raise ValueError(f"images: {found} must be (N, height, width, channels), each at least 1.")
  check_whole("batch_size", batch_size, 1)
  seen = jax.eval_shape(
    preprocess or (lambda x: x), jax.ShapeDtypeStruct(images.shape, images.dtype)
  )
  graph, _ = traced(model, variables, seen.shape[1:])
  routes = find_routes(graph)
  params = jax.device_get(variables.get("params", {}))
  own = {node: parameters(params, node.name) for node in graph.nodes}
  _check_finite(own)
  if method == "taylor":
    scores = _taylor(model, variables, graph, routes, images, labels, preprocess, batch_size)
  elif method == "bn_gamma":
    scales = {n.output: np.abs(np.float64(own[n]["scale"])) for n in own if n.attrs.get("norm")}
    scores = _mean(routes, scales)
  elif method == "group":
    scores = _of_groups(graph, routes, own)
  else:
    scores = _mean(
      routes,
      {n.output: _relative_l1(own[n]["kernel"]) for n in own if "kernel" in own[n] and is_birth(n)},
    )
  return Importance(graph, routes, np.where(routes.locked, np.inf, scores))


def _check_finite(own: Mapping[Node, Mapping[str, Any]]) -> None:
  for node, entry in own.items():
    for name, array in entry.items():
      if not np.isfinite(np.asarray(array, np.float64)).all():
        raise ValueError(
          f"variables: the {name} of layer {node.name!r} is not finite everywhere, and tells nothing; give"
          " those of a checkpoint before training went astray."
        )


def _relative_l1(kernel: Any) -> np.ndarray:
  means = np.abs(np.float64(kernel)).reshape(-1, kernel.shape[-1]).mean(axis=0)
  return means / max(means.mean(), np.finfo(np.float64).tiny)


def _of_groups(graph: Graph, routes: Routes, own: Mapping[Node, Mapping[str, Any]]) -> np.ndarray:
  """(classes,) sum of squares of all that belongs to a class, in multiples of its signature's mean."""
  total = np.zeros(len(routes.locked))
  for node in graph.nodes:
    for name in ("kernel", "scale"):
      squares = np.square(np.float64(own[node].get(name, 0.0)))
      if not squares.ndim:
        continue
      made = squares.reshape(-1, squares.shape[-1]).sum(axis=0)
      np.add.at(total, routes.ids[node.output], made)
      if name == "kernel" and is_birth(node):
        read = by_groups(node, squares).sum(axis=(0, 3)).T.reshape(-1)
        np.add.at(total, routes.ids[node.inputs[0]], read)
  _, groups = np.unique(routes.signatures, return_inverse=True)
  means = np.bincount(groups, total) / np.bincount(groups)
  return total / np.maximum(means, np.finfo(np.float64).tiny)[groups]


def _mean(routes: Routes, values: Mapping[str, np.ndarray]) -> np.ndarray:
  """(classes,) mean of what some tensors' channels are worth; infinite for classes of none."""
  total, count = _sum(routes, values), _sum(routes, {t: np.ones(len(v)) for t, v in values.items()})
  return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def _sum(routes: Routes, values: Mapping[str, np.ndarray]) -> np.ndarray:
  total = np.zeros(len(routes.locked))
  for tensor, value in values.items():
    np.add.at(total, routes.ids[tensor], value)
  return total


def _taylor(
  model: nn.Module,
  variables: Mapping[str, Any],
  graph: Graph,
  routes: Routes,
  images: Any,
  labels: Any,
  preprocess: Any,
  batch_size: int,
) -> np.ndarray:
  if labels is not None and np.shape(labels) != (len(images),):
    raise ValueError(f"labels: {np.shape(labels)} must be ({len(images)},), one for each image.")
  if labels is not None and not (holds_classes(graph) and len(graph.shape(graph.output)) == 2):
    raise ValueError(
      "labels: they say the class of an image, and the model gives no logits (batch, classes); leave"
      " them out."
    )
  if labels is not None:
    _check_labels(np.asarray(labels), graph.shape(graph.output)[-1])
  births = [node for node in graph.nodes if is_birth(node)]
  count = -(-len(images) // batch_size)
  ends = [len(images) * part // count for part in range(count + 1)]
  scores = np.zeros(len(routes.locked))
  for start, end in pairwise(ends):
    own = None if labels is None else labels[start:end]
    found = _products(model, preprocess, holds_classes(graph), variables, images[start:end], own)
    slopes = jax.device_get(found)
    change = {n.output: _change(n, parameters(slopes, n.name)) for n in births}
    scores += np.square(_sum(routes, change))
  if not np.isfinite(scores).all():
    raise ValueError(
      "images: the slopes of the loss by the channels' scales are not finite on them; see that images and"
      " running statistics are."
    )
  return scores / count


def _check_labels(labels: np.ndarray, classes: int) -> None:
  whole = np.issubdtype(labels.dtype, np.integer)
  if not whole or labels.min() < 0 or labels.max() >= classes:
    raise ValueError(
      f"labels: {labels.dtype} from {labels.min()} to {labels.max()}; they must be integers from 0 to"
      f" {classes - 1}, since the model has {classes} classes."
    )


def _change(node: Node, products: Mapping[str, np.ndarray]) -> np.ndarray:
  """(features,) derivative of the loss by a factor of each output channel, before the activation."""
  scaled = ("scale", "bias") if node.attrs.get("norm") is not None else ("kernel", "bias")
  return sum(
    np.asarray(products[name], np.float64).reshape(-1, node.output_shapes[0][-1]).sum(axis=0)
    for name in scaled
    if name in products
  )


def _log_power(output: jax.Array) -> jax.Array:
  """Half the logarithm of the mean square, whose slope says by which share an output changes."""
  return jnp.log(jnp.mean(jnp.square(output)) + TINY) / 2


@partial(jax.jit, static_argnums=(0, 1, 2))
def _products(model, preprocess, of_classes, variables, images, labels):
  """Every parameter times the gradient of the loss by it."""
  images = images if preprocess is None else preprocess(images)

  def loss(params):
    output = model.apply({**variables, "params": params}, images, train=False)
    first, *others = name_outputs(as_endpoints(output)).values()
    if not of_classes:
      return sum(map(_log_power, (first, *others)))
    wanted = jnp.argmax(jax.lax.stop_gradient(first), -1) if labels is None else labels
    losses = optax.softmax_cross_entropy_with_integer_labels(first, wanted)
    return jnp.mean(losses) + sum(map(_log_power, others))

  params = variables.get("params", {})
  return jax.tree.map(jnp.multiply, params, jax.grad(loss)(params))


class SlimmingState(NamedTuple):
  """State of :func:`slimming`: updates so far, int32 scalar."""

  count: jax.Array  # type: ignore[assignment]  # tuple.count is not needed


def slimming(strength: float | optax.Schedule) -> optax.GradientTransformation:
  """Adds the gradient of ``strength * sum |gamma|`` over all BatchNorm scales.

  To be chained before the optimizer: ``optax.chain(prune.slimming(1e-4), optax.sgd(0.1))``. After it,
  it would drive the scales away from zero, which ``training.init_state`` refuses where nothing comes
  behind. Then ``channel_importance(method="bn_gamma")`` tells the channels apart better.

  Args:
    strength: of the penalty, at least 0; a number, or a schedule of the step.

  Returns:
    An optax transformation whose ``update`` needs the parameters.

  Raises:
    ValueError: if the strength is negative; on ``init``, if there are no scales; on ``update``,
      without parameters.

  Examples:
    >>> params = {"stem": {"scale": jnp.array([0.5, -2.0, 0.0]), "bias": jnp.ones(3)}}
    >>> penalty = slimming(0.25)
    >>> updates, _ = penalty.update(jax.tree.map(jnp.zeros_like, params), penalty.init(params), params)
    >>> updates["stem"]["scale"].tolist(), updates["stem"]["bias"].tolist()
    ([0.25, -0.25, 0.0], [0.0, 0.0, 0.0])

  References:
    Liu et al., `Learning Efficient Convolutional Networks through Network Slimming
    <https://arxiv.org/abs/1708.06519>`_, 2017, equation 1.
  """
  if not callable(strength) and not (is_number(strength) and strength >= 0):
    raise ValueError(f"strength: {shown(strength)} must be a number, and not negative.")

  def init(params: Any) -> SlimmingState:
    root = root_of(params)
    if not any(_is_scale(path, root) for path, _ in jax.tree_util.tree_leaves_with_path(params)):
      raise ValueError(
        "params: they have no BatchNorm scale, so slimming would do nothing; leave it out."
      )
    return SlimmingState(jnp.zeros((), jnp.int32))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError("params: slimming needs the parameters; pass them to update.")
    now = strength(state.count) if callable(strength) else strength
    root = root_of(params)

    def penalised(path, update, param):
      if not _is_scale(path, root):
        return update
      return update + (now * jnp.sign(param)).astype(update.dtype)

    updates = jax.tree_util.tree_map_with_path(penalised, updates, params)
    return updates, SlimmingState(optax.safe_increment(state.count))

  return optax.GradientTransformation(init, update)


def _is_scale(path: tuple[Any, ...], root: str) -> bool:
  names = jax.tree_util.keystr(path, simple=True, separator="/")
  return names.startswith(root) and names.split("/")[-1] == "scale"


def check_slimming(opt_state: Any) -> None:
  """Checks that an optimizer comes after every penalty.

  Raises:
    ValueError: if a penalty is the last of a chain, or alone.

  Examples:
    >>> params = {"stem": {"scale": jnp.ones(3)}}
    >>> check_slimming(optax.chain(slimming(1e-4), optax.sgd(0.1)).init(params))
  """
  last = opt_state
  while type(last) is tuple and last:
    last = last[-1]
  if isinstance(last, SlimmingState):
    raise ValueError(
      "optimizer: slimming comes last, so that its gradient is added to the weights; chain it before"
      " the optimizer, optax.chain(prune.slimming(1e-4), optax.sgd(0.1))."
    )
