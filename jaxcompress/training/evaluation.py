"""Evaluation of float networks and of states: sums over batches, and logits."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxcompress.arguments import check_batch, check_batches, check_callable, check_type
from jaxcompress.distill.labels import expected
from jaxcompress.nn import Endpoints
from jaxcompress.nn.foreign import check_model, flag_for
from jaxcompress.nn.outputs import as_endpoints, name_outputs, only_or_all
from jaxcompress.training.forward import forward
from jaxcompress.training.networks import hits, per_example, split_labels, to_network_input
from jaxcompress.training.sharding import replicated, shard_batch, shares_threads
from jaxcompress.training.state import CompressState
from jaxcompress.training.targeted import Targeted

AHEAD = 2  # batches that are evaluated beside the one that is waited for


def evaluate(
  model: nn.Module,
  variables: Any,
  batches: Iterable[Mapping[str, Any]],
  *,
  preprocess: Callable[[Any], Any] | None = None,
  mesh: Mesh | None = None,
) -> dict[str, float]:
  """Computes top-1 accuracy and mean loss of a float model over batches of one shape.

  Args:
    model: a linen module.
    variables: its variables, such as ``state.averaged.variables``; of several processes, in their
      own memory or on the mesh.
    batches: of ``image``, ``label`` and, where the last is padded, ``mask``.
    preprocess: maps images to what the model reads.
    mesh: devices to share the batches; with several processes, each gives its examples of them.

  Returns:
    ``{"top1", "loss", "count"}``; ``top1`` is a share.

  Raises:
    ValueError: if an argument is of another kind, or the batches hold no example that counts.

  Examples:
    >>> class Brightness(nn.Module):
    ...   def __call__(self, x, *, train):
    ...     return jnp.concatenate([-x, x], axis=-1).reshape(len(x), 2)
    >>> images = jnp.array([-1.0, 1.0, 2.0, 3.0]).reshape(4, 1, 1, 1)
    >>> evaluate(Brightness(), {}, [{"image": images, "label": jnp.array([0, 0, 1, 1])}])["top1"]
    0.75
  """
  check_model("model", model)
  check_type("variables", variables, Mapping, "a dict, such as state.averaged.variables")
  check_batches(batches)
  check_callable("preprocess", preprocess, "images -> images, or None")
  if mesh is not None:
    variables = replicated(variables, mesh)
  found = collected(partial(_float_sums, model, preprocess, variables), batches, mesh)
  totals = {key: sum(float(part[key]) for part in found) for key in ("correct", "loss", "count")}
  count = totals["count"]
  if not count:
    raise ValueError(
      "batches must not be empty, nor masks leave out every example; give some images."
    )
  return {"top1": totals["correct"] / count, "loss": totals["loss"] / count, "count": count}


def collected(
  compute: Callable[[Mapping[str, Any]], Any],
  batches: Iterable[Mapping[str, Any]],
  mesh: Mesh | None,
) -> list[Any]:
  """Computes of each batch, and fetches all at the end: the devices wait for no answer on the way.

  Args:
    compute: a jitted function of a batch; its result is small.
    batches: of this process; a few at a time lie on the devices.
    mesh: devices to share them, or None.

  Examples:
    >>> batches = [{"image": jnp.full((2, 1, 1, 1), x)} for x in (1.0, 2.0)]
    >>> [float(sum) for sum in collected(lambda batch: batch["image"].sum(), batches, None)]
    [2.0, 4.0]
  """
  found: list[Any] = []
  ahead = 0 if shares_threads(mesh) else AHEAD
  for batch in batches:
    check_batch(batch)
    found.append(compute(batch if mesh is None else shard_batch(batch, mesh)))
    jax.block_until_ready(found[-1 - ahead :][0])
  return jax.device_get(found)


@partial(jax.jit, static_argnums=(0, 1))
def _float_sums(model, preprocess, variables, batch):
  images = batch["image"] if preprocess is None else preprocess(batch["image"])
  output = as_endpoints(model.apply(variables, images, **flag_for(model, False)))
  return classification_sums(output.logits.astype(jnp.float32), batch)


@Targeted
def eval_step(state: CompressState, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Sums hits and losses over one batch, so that batches can be added up.

  Args:
    state: a state of any recipe; its moving average is evaluated if it has one.
    batch: ``image`` and ``label``, classes or soft; an optional ``mask`` (batch,) leaves padding out.

  Returns:
    ``{"correct", "loss", "count"}``: float32 scalars; ``loss`` is summed cross-entropy.
  """
  return classification_sums(_evaluated(state, batch["image"]).logits.astype(jnp.float32), batch)


def classification_sums(logits: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Right answers, cross-entropy and examples of a batch, summed; ``mask`` leaves padding out.

  Examples:
    >>> batch = {"label": jnp.array([0, 1]), "mask": jnp.array([True, False])}
    >>> sums = classification_sums(jnp.array([[9.0, 0.0], [9.0, 0.0]]), batch)
    >>> float(sums["correct"]), float(sums["count"])
    (1.0, 1.0)
  """
  mask = batch.get("mask", jnp.ones(logits.shape[0])).astype(jnp.float32)
  batch = split_labels(batch)
  correct = hits(logits, batch["label"])
  losses = per_example(-expected(jax.nn.log_softmax(logits), batch))
  return {
    "correct": jnp.sum(correct * mask),
    "loss": jnp.sum(jnp.where(mask > 0, losses * mask, 0.0)),
    "count": jnp.sum(mask),
  }


@Targeted
def predict(state: CompressState, images: jax.Array) -> Any:
  """Computes logits of the student, (batch, classes) float32, as trained so far (quantized if it is).

  Where the recipe asks for a moving average it is what is evaluated; for the latest weights give
  ``student.apply`` the state's ``variables``.

  Returns:
    The logits; of a student with several outputs a dict of all by name.
  """
  found = name_outputs(_evaluated(state, images))
  return only_or_all({name: array.astype(jnp.float32) for name, array in found.items()})


def _evaluated(state: CompressState, images: jax.Array) -> Endpoints:
  state = state.averaged
  images = to_network_input(state.recipe.preprocess, images)
  return forward(state, state.trained, images, train=False)[0]
