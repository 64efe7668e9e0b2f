"""What a trained state says of images, and how often it is right."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.distill.labels import expected
from jaxcompress.training.forward import forward
from jaxcompress.training.labels import hits, split_labels
from jaxcompress.training.networks import to_network_input
from jaxcompress.training.state import CompressState

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@jax.jit
def eval_step(state: CompressState, batch: Batch) -> Metrics:
  """Sums over one batch, so that batches can be added up.

  Args:
    state: a state of any recipe; its moving average is evaluated if it has one.
    batch: ``image`` and ``label``, classes or soft; an optional ``mask`` (batch,) leaves padding out.

  Returns:
    ``{"correct", "loss", "count"}``: float32 scalars; ``loss`` is summed cross-entropy.
  """
  return classification_sums(predict(state, batch["image"]), batch)


def classification_sums(logits: jax.Array, batch: Batch) -> Metrics:
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
  losses = -expected(jax.nn.log_softmax(logits), batch)
  return {
    "correct": jnp.sum(correct * mask),
    "loss": jnp.sum(jnp.where(mask > 0, losses * mask, 0.0)),
    "count": jnp.sum(mask),
  }


@jax.jit
def predict(state: CompressState, images: jax.Array) -> jax.Array:
  """Logits of the student, (batch, classes) float32, as trained so far (quantized if it is).

  Where the recipe asks for a moving average it is what is evaluated; for the latest weights give
  ``student.apply`` the state's ``variables``.
  """
  state = state.averaged
  output, _, _ = forward(state, state.trained, to_network_input(state.recipe, images), train=False)
  return output.logits.astype(jnp.float32)
