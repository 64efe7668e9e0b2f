"""Losses by how far probabilities or features would have to be moved: Wasserstein distances."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress.arguments import check_range, check_whole
from jaxcompress.distill.base import LossTransform, on_host, stateful
from jaxcompress.distill.heads import check_head, head_of
from jaxcompress.distill.hints import init_regressors, regress
from jaxcompress.distill.labels import check_labels, check_soft_labels, likeliest, of_class
from jaxcompress.distill.layers import EXACT, unit
from jaxcompress.distill.logits import softened
from jaxcompress.distill.maps import Places, on_maps
from jaxcompress.distill.reads import both_logits
from jaxcompress.distill.scalars import check_number
from jaxcompress.distill.schedules import on_schedules

TINY = 1e-8  # keeps costs above 0, and Sinkhorn's divisions from zero
MOST_STEPS = (
  20  # of the regularization in a cost: exp(-20) is about TINY, below which nothing moves
)


def wkd_l(
  gamma: optax.ScalarOrSchedule = 600.0,
  temperature: optax.ScalarOrSchedule = 8.0,
  *,
  cost: Any = None,
  sharpen: float = 1.0,
  regularization: float = 0.05,
  iterations: int = 10,
  head: str = "classifier",
) -> LossTransform:
  """Wasserstein distillation of logits: errors among like classes cost less.

  ``-t_label log s_label + gamma W(s', t')``, averaged over the batch: ``t`` and ``s`` are
  probabilities, ``s'`` and ``t'`` those at ``softmax(x / T)`` of the other classes among themselves,
  and ``W`` is the cost of moving one to the other by the plan that some of Sinkhorn's iterations find.

  Args:
    gamma: weight of the distance, or a schedule of the step.
    temperature: ``T > 0``, or a schedule.
    cost: of moving probability from class to class, (classes, classes); negative ones are 0. None:
      ``1 - cos`` of the classes' vectors in the teacher's classifier, which is read from the extra
      ``teacher_params`` of ``update``; the training step passes it.
    sharpen: ``k``, 0 or more: what costs ``c`` costs ``1 - exp(-k c)``; 0 leaves it.
    regularization: of the plan; the smaller, the nearer to the cheapest one. Float32 needs at least a
      20th of what it costs to move to the nearest class; of 1 where ``cost`` is None, before ``sharpen``.
    iterations: of Sinkhorn's algorithm.
    head: path of the teacher's last layer in its parameters.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``wkd_l``. It reads ``logits`` of shape
    (batch, classes), and ``batch["label"]`` (batch,), or ``batch["target"]`` (batch, classes), of which
    the likeliest class is the label. On CIFAR-100 the authors take 600 at a temperature of 8
    (ResNet-32x4 to 8x4) or 200 at 6 (WRN-40-2 to ShuffleNetV1), both with costs by the centred kernel
    alignment of the classes' features, and let gamma fall to 0 from epoch 150 on.

  Raises:
    ValueError: if a number is out of range or ``cost`` is no square matrix of finite numbers; on ``init``, if there is no
      teacher, its classes differ, or labels are missing or of the wrong shape or dtype; on ``update``,
      if the classifier is not passed or not found.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> batch, even = {"label": jnp.array([1])}, Endpoints(jnp.zeros((1, 4)))
    >>> free = wkd_l(cost=jnp.zeros((4, 4)))
    >>> round(float(free.update((), (), even, (even,), batch)[0]), 4)  # log(4) / 4, no distance
    0.3466

  References:
    Lv et al., `Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation
    <https://arxiv.org/abs/2412.08139>`_, 2024, WKD-L, as their code has it.
  """
  options: dict[str, Any] = {
    "cost": cost,
    "sharpen": sharpen,
    "regularization": regularization,
    "iterations": iterations,
    "head": head,
  }
  if loss := on_schedules(partial(wkd_l, **options), gamma=gamma, temperature=temperature):
    return loss
  check_number("gamma", gamma)
  check_number("temperature", temperature, positive=True)
  check_number("sharpen", sharpen)
  check_range("sharpen", sharpen, 0, math.inf)
  check_number("regularization", regularization, positive=True)
  check_whole("iterations", iterations, 1)
  check_head("head", head)
  if cost is not None and (jnp.ndim(cost) != 2 or jnp.shape(cost)[0] != jnp.shape(cost)[1]):
    raise ValueError(f"cost: shape {jnp.shape(cost)} must be (classes, classes).")
  if cost is not None and (values := on_host(cost)) is not None:
    if not np.isfinite(values).all():
      raise ValueError(
        f"cost: {values[~np.isfinite(values)][0]} is among its numbers; all must be finite."
      )
    others = np.where(np.eye(len(values), dtype=bool), np.inf, values)
    nearest = float(np.min(others, axis=1).max()) if len(values) > 1 else 0.0
  else:
    nearest = 1.0 if cost is None else 0.0  # of a traced cost: unknown
  nearest = 1 - math.exp(-sharpen * nearest) if sharpen else nearest
  if nearest > MOST_STEPS * regularization:
    raise ValueError(
      f"regularization: {regularization} must be at least {nearest / MOST_STEPS:.3g}, a {MOST_STEPS}th"
      f" of what it costs to move to the nearest class, {nearest:.3g}, or nothing is moved in float32;"
      " raise it, or scale cost down."
    )

  def init(rng, student, teachers, batch):
    logits, _ = both_logits("wkd_l", student, teachers, of_images=True)
    check_labels(logits.shape, batch)
    if logits.shape[-1] < 2:
      raise ValueError("student: wkd_l needs at least 2 classes and there is 1.")
    if cost is not None and len(cost) != logits.shape[-1]:
      raise ValueError(f"cost: it is of {len(cost)} classes and the logits of {logits.shape[-1]}.")
    return (), ()

  def costs(classes, extras):
    if cost is not None:
      found = jnp.asarray(cost, jnp.float32)
    else:
      layer = head_of("wkd_l", "teacher", (extras.get("teacher_params") or (None,))[0], head)
      if layer["kernel"].shape[-1] != classes:
        raise ValueError(
          f"head: {head!r} of the teacher has {layer['kernel'].shape[-1]} outputs and the logits"
          f" {classes} classes; name the layer that makes the logits, or pass cost."
        )
      vectors = unit(jax.lax.stop_gradient(layer["kernel"]).T, epsilon=1e-12)
      found = 1 - jnp.dot(vectors, vectors.T, precision=EXACT)
    found = 1 - jnp.exp(-sharpen * found) if sharpen else found
    return jax.nn.relu(found) + TINY

  def compute(params, state, student, teachers, batch, extras):
    s, t = both_logits("wkd_l", student, teachers, of_images=True)
    label = likeliest(batch)
    of_label = -jnp.exp(of_class(jax.nn.log_softmax(t), label)) * of_class(
      jax.nn.log_softmax(s), label
    )
    others = label[:, None] != jnp.arange(s.shape[-1])[None]
    p, q = (jax.nn.softmax(softened(jnp.where(others, x, -jnp.inf), temperature)) for x in (s, t))
    distance = transport_cost(p, q, costs(s.shape[-1], extras), regularization, iterations)
    return jnp.mean(of_label + gamma * distance), state

  return stateful("wkd_l", init, compute, check_soft_labels, by_example=True)


def wkd_f(
  ratio: optax.ScalarOrSchedule = 4.0,
  *,
  grid: int = 1,
  maps: Places | None = (-1,),
  epsilon: float = 1e-5,
) -> LossTransform:
  """Wasserstein distillation of features: means and deviations of the channels, as of Gaussians.

  ``ratio sum_c (m(r(s))_c - m(t)_c)**2 + sum_c (d(r(s))_c - d(t)_c)**2``, averaged over the batch and
  the cells of a grid on the map: ``m`` are the means over a cell's pixels, ``d`` their (unbiased)
  deviations ``sqrt(var + epsilon)``, which is the distance of Gaussians with diagonal covariances where
  ``ratio`` is 1; the regressor ``r`` is that of :func:`~jaxcompress.distill.fitnet`.

  Args:
    ratio: weight of the means, or a schedule of the step.
    grid: cells per side, which may overlap by a pixel.
    maps: places in both networks' maps, or pairs of places; by default the last.
    epsilon: added to variances.

  Returns:
    A :class:`LossTransform` with a layer ``{"kernel", "scale", "bias"}`` and running
    :class:`~jaxcompress.distill.layers.Moments` for each map; metric ``wkd_f``. It reads ``maps``. On
    CIFAR-100 the authors weigh it with 0.08 (ResNet-32x4 to 8x4), or with 0.3 at a ratio of 3 and a
    grid of 4 (WRN-40-2 to ShuffleNetV1), and let the weight fall to 0 from epoch 150 on.

  Raises:
    ValueError: if a number is out of range or ``maps`` are no places; on ``init``, if there is no
      teacher or no such map.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> student = Endpoints(None, maps=(jnp.ones((2, 8, 8, 3)),))
    >>> teacher = Endpoints(None, maps=(jnp.ones((2, 4, 4, 5)),))
    >>> params, state = wkd_f().init(jax.random.key(0), student, (teacher,), {})
    >>> params[0]["kernel"].shape
    (3, 3, 3, 5)

  References:
    Lv et al., `Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation
    <https://arxiv.org/abs/2412.08139>`_, 2024, WKD-F, as their code has it.
  """
  if loss := on_schedules(partial(wkd_f, grid=grid, maps=maps, epsilon=epsilon), ratio=ratio):
    return loss
  check_number("ratio", ratio)
  check_number("epsilon", epsilon, positive=True)
  check_whole("grid", grid, 1)

  def of_cell(s, t):
    gaps = [jnp.sum(jnp.square(a - b)) for a, b in zip(moments(s), moments(t), strict=True)]
    return (ratio * gaps[0] + gaps[1]) / len(s)

  def moments(x):
    x = x.reshape(len(x), -1, x.shape[-1])
    mean = jnp.mean(x, axis=1, keepdims=True)
    variance = jnp.sum(jnp.square(x - mean), axis=1) / max(x.shape[1] - 1, 1)
    return mean[:, 0], jnp.sqrt(variance + epsilon)

  def cells(length):
    return [slice(i * length // grid, -(-(i + 1) * length // grid)) for i in range(grid)]

  def compute(params, state, pairs):
    pairs, state = regress(params, state, pairs)
    total = jnp.zeros((), jnp.float32)
    for s, t in pairs:
      s = jax.nn.relu(s)
      for rows in cells(s.shape[1]):
        for columns in cells(s.shape[2]):
          total += of_cell(s[:, rows, columns], t[:, rows, columns]) / grid**2
    return total, state

  return on_maps("wkd_f", maps, compute, init_regressors)


def transport_cost(
  p: jax.Array, q: jax.Array, cost: jax.Array, regularization: float, iterations: int
) -> jax.Array:
  """The cost of each row's plan that moves ``p`` to ``q``, by Sinkhorn's algorithm; (batch,).

  Args:
    p: (batch, classes), rows that sum to 1; classes of no probability take no part.
    q: likewise.
    cost: (classes, classes).
    regularization: the plan is that of ``exp(-cost / regularization)``, scaled.
    iterations: scalings of both sides.

  Examples:
    >>> p, q = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> transport_cost(p, q, jnp.array([[0.0, 3.0], [3.0, 0.0]]), 0.5, 10).round(2).tolist()
    [3.0]
  """
  kernel = jnp.exp(-cost / regularization)
  u = jnp.where(p > 0, 1.0, 0.0)
  u = u / jnp.sum(u, axis=-1, keepdims=True)
  for _ in range(iterations):
    v = q / (jnp.dot(u, kernel, precision=EXACT) + TINY)
    u = p / (jnp.dot(v, kernel.T, precision=EXACT) + TINY)
  return jnp.sum(u * jnp.dot(v, (kernel * cost).T, precision=EXACT), axis=-1)
