"""The optimizer that the default run uses; what decays, and which layers learn faster, in any other."""

import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import check_optimizer, check_type
from jaxcompress.nn import Graph
from jaxcompress.nn.select import Layer, Selector, layers_of, offered_graph, parse, select
from jaxcompress.prune.rules import root_of

Mask = Callable[[Any], Any]


def kernels_only(params: Any) -> Any:
  """A mask that is true for kernels: no weight decay on BatchNorm, biases, or learned scales.

  Examples:
    >>> kernels_only({"stem": {"kernel": 1.0, "scale": 1.0}})
    {'stem': {'kernel': True, 'scale': False}}
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: _is_kernel(path), params)


def dense_kernels_only(params: Any) -> Any:
  """A mask that is true for kernels but those of depthwise convolutions.

  For any optax optimizer that takes one: ``optax.adamw(1e-3, mask=dense_kernels_only)``. Depthwise
  kernels, (height, width, 1, channels), have few weights each and BatchNorm behind them; decay
  shrinks whole channels to zero. The stem of a network for one-channel images has the same shape,
  and does not decay either.

  Examples:
    >>> dense_kernels_only({"depthwise": {"kernel": jnp.ones((3, 3, 1, 8))}})
    {'depthwise': {'kernel': False}}
    >>> dense_kernels_only({"expand": {"kernel": jnp.ones((1, 1, 4, 8))}})
    {'expand': {'kernel': True}}

  References:
    Howard et al., `MobileNets <https://arxiv.org/abs/1704.04861>`_, 2017, section 3.2.
  """

  def decays(path, leaf):
    shape = jnp.shape(leaf)
    return _is_kernel(path) and not (len(shape) == 4 and shape[2] == 1)

  return jax.tree_util.tree_map_with_path(decays, params)


def _is_kernel(path: tuple[Any, ...]) -> bool:
  return bool(path) and getattr(path[-1], "key", None) == "kernel"


def sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  nesterov: bool = True,
  mask: Mask | None = kernels_only,
) -> optax.GradientTransformation:
  """SGD with momentum and weight decay, which is added to the gradient.

  Args:
    learning_rate: a number, or a schedule of the step.
    momentum: share of the velocity that stays.
    weight_decay: times the weights, added to their gradients.
    nesterov: whether the velocity is looked ahead.
    mask: which parameters decay, such as :func:`kernels_only` or :func:`dense_kernels_only`; None:
      all.

  Examples:
    >>> isinstance(sgd(0.1, mask=dense_kernels_only), optax.GradientTransformation)
    True
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=mask),
    optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov),
  )


def layer_rates(
  optimizer: optax.GradientTransformation,
  rates: Mapping[Selector, optax.ScalarOrSchedule],
  *,
  graph: Graph | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Multiplies the learning rate of an optimizer in some layers.

  Its updates, weight decay included, are multiplied: for optimizers such as ``optax.sgd`` and
  ``optax.adam`` that is a factor of the learning rate. What no selector names keeps its rate, as does
  what quantizers and losses train. Normalizations go on following the batch where the factor is 0;
  ``Recipe(trainable=...)`` holds them too, and ``Recipe(freeze_norm_step=0)`` their statistics alone. A transformation that prunes goes around this one.

  Args:
    optimizer: any optax transformation.
    rates: factors, or schedules of them, by selector of layers (:mod:`jaxcompress.nn.select`); of
      several that name a layer the first counts.
    graph: of the network, such as ``models.summarize(model, image_size).graph``; None: the one that
      ``training.init_state`` traces. Paths need none.

  Raises:
    ValueError: if an argument, a selector or a factor is not valid; on ``init``, if a selector names no layer with
      parameters, or asks for a kind without a graph.

  Examples:
    >>> from jaxcompress import models
    >>> model = models.summarize(models.resnet8(10), 8)
    >>> optimizer = layer_rates(optax.sgd(0.5), {"last": 4.0, "stage0": 0.0}, graph=model.graph)
    >>> params = jax.tree.map(lambda x: jnp.ones(x.shape), model.variables["params"])
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> [float(updates[name]["kernel"].max()) for name in ("stem", "classifier")]
    [-0.5, -2.0]
  """
  check_optimizer(optimizer)
  check_type("rates", rates, Mapping, "a dict of factors, such as {'last': 10.0}")
  check_type("graph", graph, Graph | None, "one such as models.summarize(model, image_size).graph")
  parts = {"": optax.identity()}
  for selector, rate in rates.items():
    parse(selector, "rates")
    is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not callable(rate) and not (is_number and 0 <= rate < float("inf")):
      raise ValueError(f"rates: {rate!r} for {selector!r} must be a number of at least 0.")
    parts[str(selector)] = _scaled(rate)

  def labels(params: Any) -> Any:
    root, owner = root_of(params), dict[Any, str]()
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      if name.startswith(root):
        owner[path] = name.removeprefix(root).rpartition("/")[0]
    layers = {name: Layer((name,)) for name in sorted(set(owner.values()))}
    if any(part.kinds for selector in rates for part in parse(selector)):
      known = offered_graph() if graph is None else graph
      if known is None:
        raise ValueError(
          "graph: rates name kinds of layers, which parameters alone do not tell; give"
          " graph=models.summarize(model, image_size).graph, or paths."
        )
      layers |= {name: layer for name, layer in layers_of(known).items() if name in layers}
    label = dict.fromkeys(layers, "")
    for selector in reversed(list(rates)):
      label.update(dict.fromkeys(select(selector, layers, "rates"), str(selector)))
    return jax.tree_util.tree_map_with_path(
      lambda path, _: label.get(owner.get(path, ""), ""), params
    )

  return optax.chain(optimizer, optax.partition(parts, labels))


def _scaled(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
  if callable(rate):
    return optax.scale_by_schedule(rate)
  return optax.scale(rate) if rate else optax.set_to_zero()


class DotState(NamedTuple):
  """State of :func:`dot`: a momentum for each of two gradients, in the tree's form."""

  task: Any
  distill: Any


def dot(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  delta: float = 0.075,
  weight_decay: float = 5e-4,
  mask: Callable[[Any], Any] = kernels_only,
) -> optax.GradientTransformationExtraArgs:
  """Distillation-oriented SGD: the teacher's gradient has more momentum than the labels'.

  ``v_task = (m - d) v_task + g_task``, ``v_distill = (m + d) v_distill + g_distill`` and
  ``p = p - learning_rate * (v_task + v_distill)``; weight decay is part of ``g_task``.

  In the authors' code parameters that only one of the two reaches, such as a loss's own, have the
  momentum ``m``; here each gradient keeps its own.

  Args:
    learning_rate: a number or a schedule.
    momentum: ``m``.
    delta: ``d``; ``m - d`` and ``m + d`` must be in [0, 1). The authors take 0.075 on CIFAR-100 and
      Tiny-ImageNet, and 0.09 on ImageNet.
    weight_decay: of what ``mask`` selects.
    mask: ``tree -> tree of bools``; by default kernels.

  Returns:
    An optax transformation whose ``update`` needs ``parts={"task": gradients, "distill":
    gradients}``, as the training step passes for a recipe with ``apart``.

  Raises:
    ValueError: if a momentum is out of range; on ``update``, without ``parts``.

  Examples:
    >>> optimizer = dot(1.0, momentum=0.5, delta=0.25, weight_decay=0.0)
    >>> params, one = {"kernel": 0.0}, {"kernel": 1.0}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...   updates, state = optimizer.update(one, state, params, parts={"task": one, "distill": one})
    >>> float(updates["kernel"])  # 1 + 0.25 and 1 + 0.75
    -3.0

  References:
    Zhao et al., `DOT: A Distillation-Oriented Trainer <https://arxiv.org/abs/2307.08436>`_, 2023,
    section 3.
  """
  if not (0 <= momentum - delta < 1 and 0 <= momentum + delta < 1):
    raise ValueError(
      f"delta: {momentum} - {delta} and {momentum} + {delta} must both be in [0, 1)."
    )

  def init(params):
    return DotState(*(optax.tree.zeros_like(params) for _ in range(2)))

  def update(updates, state, params=None, *, parts=None, **extras):
    del updates, extras
    if parts is None:
      raise ValueError("parts: dot needs two gradients; name the distillation terms in apart=.")
    task, distill = parts["task"], parts["distill"]
    if weight_decay:
      decayed = mask(params)
      task = jax.tree.map(lambda g, p, m: g + weight_decay * p if m else g, task, params, decayed)
    task = jax.tree.map(lambda v, g: (momentum - delta) * v + g, state.task, task)
    distill = jax.tree.map(lambda v, g: (momentum + delta) * v + g, state.distill, distill)
    return optax.tree.add(task, distill), DotState(task, distill)

  momenta = optax.GradientTransformationExtraArgs(init, update)
  return optax.chain(momenta, optax.scale_by_learning_rate(learning_rate))
