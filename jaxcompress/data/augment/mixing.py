"""Mixup and CutMix: one formula with a weight for the image, or for each pixel."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_batch, check_range, check_whole

MOST_ALPHA = 1e6  # of a Beta distribution, whose numbers then are one half


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
  """Mixup, CutMix, or by chance one of them; every image is mixed with the one before it.

  Attributes:
    classes: number of classes.
    mixup: ``alpha`` of mixup, whose weight is from Beta(alpha, alpha), one a batch; 0: no mixup.
    cutmix: ``alpha`` of CutMix, whose box covers a share from Beta(alpha, alpha) of the image, one
      a batch, and is cut off at the edges; 0: no CutMix.
    switch: probability of CutMix where both are on.
    probability: of mixing a batch at all.

  Raises:
    ValueError: if a number is out of range, or neither is on.

  Examples:
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "label": jnp.array([0, 1])}
    >>> mixed = Mix(classes=10, cutmix=1.0)(jax.random.key(0), batch)
    >>> mixed["image"].dtype.name, mixed["target"].shape
    ('uint8', (2, 10))

  References:
    Zhang et al., `mixup: Beyond Empirical Risk Minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018, section 2. Yun et al., `CutMix
    <https://arxiv.org/abs/1905.04899>`_, 2019, section 3.1, equations 1 and 2.
  """

  classes: int
  mixup: float = 0.0
  cutmix: float = 0.0
  switch: float = 0.5
  probability: float = 1.0

  def __post_init__(self):
    check_whole("classes", self.classes, 1)
    most = {"mixup": MOST_ALPHA, "cutmix": MOST_ALPHA, "switch": 1, "probability": 1}
    for name, value in most.items():
      check_range(name, getattr(self, name), 0, value)
    if not self.mixup and not self.cutmix:
      raise ValueError("mixup, cutmix: both are 0; set one of them, or leave Mix out.")

  def __call__(self, rng: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Mixes a batch.

    Args:
      rng: key.
      batch: ``image``, and ``label`` (batch,) or ``target`` (batch, classes).

    Returns:
      The batch with ``image``, ``target`` and ``label`` changed; see :func:`mix`. Where only
      CutMix is on, images keep their dtype, else they are float32.
    """
    check_batch(batch)
    keys = jax.random.split(rng, 5)
    shape = batch["image"].shape[1:3]
    weight = jnp.ones(shape)
    if self.mixup:
      weight = jnp.full(shape, jax.random.beta(keys[0], self.mixup, self.mixup))
    if self.cutmix:
      outside = 1.0 - random_box(keys[1], jax.random.beta(keys[2], self.cutmix, self.cutmix), shape)
      chosen = jax.random.bernoulli(keys[3], self.switch if self.mixup else 1.0)
      weight = jnp.where(chosen, outside, weight)
    weight = jnp.where(jax.random.bernoulli(keys[4], self.probability), weight, 1.0)
    mixed = mix(batch, weight, self.classes)
    if not self.mixup:
      mixed["image"] = mixed["image"].astype(batch["image"].dtype)
    return {**batch, **mixed}


def random_box(rng: jax.Array, kept: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """CutMix's box: sides ``sqrt(1 - kept)`` of the image's, its middle anywhere.

  Args:
    rng: key.
    kept: share of the image outside the box, where nothing is cut off, scalar.
    shape: (height, width).

  Returns:
    (height, width) float32, 1 inside and 0 outside.
  """
  inside = jnp.ones(shape)
  for axis, (key, side) in enumerate(zip(jax.random.split(rng), shape, strict=True)):
    half = (side * jnp.sqrt(1 - kept)).astype(jnp.int32) // 2
    middle = jax.random.randint(key, (), 0, side)
    place = jnp.arange(side)
    line = (place >= middle - half) & (place < middle + half)
    inside *= jnp.expand_dims(line, 1 - axis)
  return inside


def mix(batch: Mapping[str, jax.Array], weight: jax.Array, classes: int) -> dict[str, jax.Array]:
  """``weight`` of every example and the rest of the one before it; the first takes the last.

  Targets are mixed with the weight's mean over the pixels.

  Args:
    batch: ``image`` and ``label`` or ``target``; and ``weight`` (batch,) if examples count unequally.
    weight: 0 to 1: a scalar, or (height, width).
    classes: number of classes; a label beyond them gives a target of NaN.

  Returns:
    ``image`` and ``target``, float32; and where there are, ``label`` of the larger share, and ``weight``,
    which is mixed too.

  Examples:
    >>> batch = {"image": jnp.zeros((2, 1, 1, 1)), "label": jnp.array([0, 1])}
    >>> mix(batch, jnp.float32(0.75), 2)["target"].tolist()
    [[0.75, 0.25], [0.25, 0.75]]
  """
  target = batch.get("target")
  if target is None:
    if "label" not in batch:
      raise ValueError(
        f"batch: it has {', '.join(batch)}, but no 'label' or 'target'; mixing mixes it."
      )
    label = batch["label"].reshape(-1, 1)
    inside = (label >= 0) & (label < classes)
    target = jnp.where(inside, jax.nn.one_hot(batch["label"], classes), jnp.nan)
  share = jnp.mean(weight)

  def blend(x, weight):
    x = x.astype(jnp.float32)
    return weight * x + (1 - weight) * jnp.roll(x, 1, axis=0)

  mixed = {
    "image": blend(batch["image"], weight.reshape(1, *weight.shape, 1) if weight.ndim else weight),
    "target": blend(target, share),
  }
  if "label" in batch:
    mixed["label"] = jnp.where(share >= 0.5, batch["label"], jnp.roll(batch["label"], 1, axis=0))
  if "weight" in batch:
    mixed["weight"] = blend(batch["weight"], share)
  return mixed
