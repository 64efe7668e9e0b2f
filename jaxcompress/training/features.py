"""A new head on a network that is trained: what its last layer reads, once, and the best layer for it."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.nn.foreign import flag_for
from jaxcompress.nn.graph import Graph
from jaxcompress.nn.tracing import intercept, is_leaf_call, module_path

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of the data against weight decay, weakest first
ITERATIONS = 200  # of L-BFGS
SCALES = tuple(np.float32(2.0 ** (n / 2)) for n in range(13))  # of logits: 1 to 64
SMOOTHED = 0.1  # of labels by which the scale is chosen: a head that is too sure leaves no gradient
FOLDS = 5  # of cross-validation
FITTED = 10_000  # images: of more, fewer folds are held out
ABSENT = 10.0  # how much less than the least a class without images gets


class Head(NamedTuple):
  """A layer that makes logits out of features.

  Attributes:
    kernel: (features, classes) float32.
    bias: (classes,) float32.
  """

  kernel: np.ndarray
  bias: np.ndarray

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Logits (count, classes) of features (count, features)."""
    return features @ self.kernel + self.bias


def head_of(graph: Graph) -> str:
  """The path of the dense layer whose output are the logits.

  Raises:
    ValueError: if something else makes the logits.

  Examples:
    >>> from jaxcompress import models
    >>> head_of(models.summarize(models.resnet8(10), 8).graph)
    'classifier'
  """
  made = {tensor: node for node in graph.nodes for tensor in node.outputs}
  node = made[graph.outputs[0][1]]
  if node.op != "Dense" or len(node.input_shapes[0]) != 2 or not node.attrs.get("use_bias", True):
    raise ValueError(
      f"graph: the logits come from {node.name!r}, a {node.op}, and no dense layer with a bias on"
      " pooled features; train the network as a whole."
    )
  return node.name


def features(
  model: nn.Module,
  variables: Any,
  batches: Iterable[Mapping[str, Any]],
  head: str,
  *,
  preprocess: Callable[[Any], Any] | None = None,
  augment: Callable[..., Any] | None = None,
  rng: jax.Array | None = None,
) -> np.ndarray:
  """Computes the input of a head for every image: (count, features) float32, with running statistics.

  Args:
    model: a linen module of leaf ops.
    variables: its variables.
    batches: of ``image`` and, where the last is padded, ``mask``.
    head: its path, from :func:`head_of`.
    preprocess: maps images to what the model reads.
    augment: ``(rng, batch) -> batch``; changes images before they are read, or None.
    rng: a key for it, into which the number of each batch is folded.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> features(model, variables, [{"image": np.ones((2, 8, 8, 3))}], "classifier").shape
    (2, 64)
  """
  key, found = jax.random.key(0) if rng is None else rng, []
  for i, batch in enumerate(batches):
    seen = {name: batch[name] for name in ("image", "label") if name in batch}
    array = _read(model, preprocess, augment, head, variables, seen, jax.random.fold_in(key, i))
    mask = batch.get("mask")
    found.append(np.asarray(array) if mask is None else np.asarray(array)[np.asarray(mask)])
  return np.concatenate(found)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _read(model, preprocess, augment, head, variables, batch, key):
  images = (batch if augment is None else augment(key, batch))["image"]
  images = images if preprocess is None else preprocess(images)
  read: list[jax.Array] = []

  def note(call, args, kwargs, context):
    if is_leaf_call(context) and module_path(context.module) == head:
      read.append(args[0])
    return call(*args, **kwargs)

  with intercept(note):
    model.apply(variables, images, **flag_for(model, False))
  return read[0].astype(jnp.float32)


def fit_head(
  features: np.ndarray,
  labels: np.ndarray,
  classes: int,
  *,
  strength: float = 1.0,
  weights: np.ndarray | None = None,
) -> Head:
  """The head of least cross-entropy and weight decay: multinomial logistic regression by L-BFGS.

  Features are divided by their root mean square first, so that ``strength`` means the same for
  networks of any scale. There is one minimum, which does not depend on where one begins.

  Args:
    features: (count, features) float.
    labels: (count,) classes.
    classes: their number. Those without an example are never found.
    strength: inverse of the weight decay.
    weights: (count,) of each example, or None.

  Raises:
    ValueError: if the examples are all of one class.

  Examples:
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    >>> fit_head(x, np.array([0, 1, 0, 1]), 2)(x).argmax(-1)
    array([0, 1, 0, 1])
  """
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression
  from threadpoolctl import threadpool_limits

  scale = float(np.sqrt(np.mean(np.square(features, dtype=np.float64)))) or 1.0
  # products this small only wait for a second thread
  with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
    warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: validation judges
    found = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(
      np.asarray(features, np.float64) / scale, labels, sample_weight=weights
    )
  kernel, bias = found.coef_.T / scale, found.intercept_
  if len(found.classes_) == 2:  # one logit, of the second class against the first
    kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
  whole = Head(
    np.zeros((features.shape[1], classes), np.float32),
    np.full(classes, bias.min() - ABSENT, np.float32),
  )
  whole.kernel[:, found.classes_], whole.bias[found.classes_] = kernel, bias
  return whole


def best_head(
  views: np.ndarray,
  labels: np.ndarray,
  classes: int,
  *,
  weights: np.ndarray | None = None,
) -> tuple[Head, float]:
  """The head on several views of each image, its weight decay chosen by cross-validation.

  Each fifth of the images is held out in turn, with all its views, and judged by its first ones. Of
  the decays by which nearly as many images are right as by the best, one standard error less, the
  strongest is taken: a few images, which often resemble one another, hardly tell them apart, and a
  smaller head does better on others. How sure it is, a factor of its logits, is what makes the
  cross-entropy of images that are held out the least, their labels smoothed: where all are right,
  fine-tuning would else find nothing to do.

  Args:
    views: (views, count, features) float; the first are those of the images as they are, the others
      of changed ones.
    labels: (count,) classes.
    classes: their number.
    weights: (count,) of the images, or None.

  Returns:
    The head on all images, and its strength; see :func:`fit_head`.

  Raises:
    ValueError: if the images are all of one class.

  Examples:
    >>> x = np.random.default_rng(0).normal(size=(2, 40, 3))
    >>> head, strength = best_head(x, (x[0, :, 0] > 0) * 1, 2)
    >>> head.kernel.shape
    (3, 2)

  References:
    Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009, section 7.10; Guo et
    al., `On calibration of modern neural networks <https://arxiv.org/abs/1706.04599>`_, 2017, section
    4.2.
  """
  count = len(labels)
  fold = np.empty(count, int)
  fold[np.argsort(labels, kind="stable")] = np.arange(count) % FOLDS  # every class in every fold
  held_out = [
    fold == n
    for n in range(min(FOLDS, max(1, FITTED // count)))
    if (fold == n).any() and len(np.unique(labels[fold != n])) > 1
  ]

  def fitted(chosen: np.ndarray, strength: float) -> Head:
    examples = views[:, chosen].reshape(-1, views.shape[-1])
    tiled = None if weights is None else np.tile(weights[chosen], len(views))
    every = np.tile(labels[chosen], len(views))
    return fit_head(examples, every, classes, strength=strength / len(views), weights=tiled)

  def logits_of(strength: float) -> np.ndarray:
    """Logits of all images that are held out."""
    return np.concatenate([fitted(~out, strength)(views[0, out]) for out in held_out])

  whole = np.ones(count, bool)
  if not held_out:  # two images
    return fitted(whole, 1.0), 1.0
  known = np.concatenate([labels[out] for out in held_out])
  judged: dict[float, np.ndarray] = {}
  least = np.inf
  for strength in STRENGTHS:  # weaker decay takes longer, and is tried as long as the loss falls
    judged[strength] = logits_of(strength)
    if (loss := _cross_entropy(judged[strength], known)) > least:
      break
    least = loss
  wrong = {strength: logits.argmax(axis=-1) != known for strength, logits in judged.items()}
  best = min(wrong.values(), key=np.mean)
  most = np.mean(best) + np.std(best) / np.sqrt(len(best))
  strength = next(s for s in judged if np.mean(wrong[s]) <= most)
  scale = min(SCALES, key=lambda scale: _cross_entropy(scale * judged[strength], known, SMOOTHED))
  found = fitted(whole, strength)
  return Head(scale * found.kernel, scale * found.bias), strength


def _cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothed: float = 0.0) -> float:
  """Mean over examples; a share of each label may be spread over all classes."""
  shifted = logits - logits.max(axis=-1, keepdims=True)
  losses = np.log(np.exp(shifted).sum(axis=-1, keepdims=True)) - shifted
  right = losses[np.arange(len(labels)), labels]
  return float(np.mean((1 - smoothed) * right + smoothed * losses.mean(axis=-1)))


def with_head(variables: Any, head: str, found: Head) -> dict[str, Any]:
  """Variables with another head.

  Args:
    variables: of the network.
    head: its path.
    found: what is put there.
  """

  def replaced(tree: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    if not path:
      return {**tree, "kernel": jnp.asarray(found.kernel), "bias": jnp.asarray(found.bias)}
    return {**tree, path[0]: replaced(tree[path[0]], path[1:])}

  return {**variables, "params": replaced(variables["params"], head.split("/"))}
