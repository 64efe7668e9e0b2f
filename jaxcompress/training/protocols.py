"""Learning rates over time, and published training protocols as data."""

import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxcompress.arguments import unknown
from jaxcompress.training.optimizers import Mask, dense_kernels_only, dot, layer_rates, sgd


def warmup_cosine(peak: float, steps: int, *, warmup: float = 0.1) -> optax.Schedule:
  """Linear warm-up over a share of the steps, then a cosine to zero.

  Raises:
    ValueError: if ``peak`` or ``steps`` is not positive or ``warmup`` is not in [0, 1).

  Examples:
    >>> float(warmup_cosine(0.1, 100)(10))
    0.10000000149011612
  """
  if peak <= 0 or steps < 1 or not 0 <= warmup < 1:
    raise ValueError(
      f"peak, steps, warmup: {peak}, {steps}, {warmup} must be above 0, at least 1, and in [0, 1)."
    )
  rising = min(max(1, round(warmup * steps)), steps - 1)  # the rate of a single step is the peak
  return optax.warmup_cosine_decay_schedule(0.0, peak, rising, steps)


def step_decay(
  start: float, steps: int, *, milestones: tuple[float, ...], factor: float = 0.1
) -> optax.Schedule:
  """A constant rate that is multiplied by ``factor`` at each milestone.

  Args:
    start: rate at first.
    steps: of the whole run.
    milestones: shares of the run, ascending, each in (0, 1).
    factor: at each milestone.

  Raises:
    ValueError: if ``start``, ``steps`` or ``factor`` is not positive or the milestones are no
      ascending shares.

  Examples:
    >>> rate = step_decay(0.05, 240, milestones=(150 / 240, 180 / 240, 210 / 240))
    >>> [round(float(rate(step)), 6) for step in (149, 150, 180, 239)]
    [0.05, 0.005, 0.0005, 5e-05]
  """
  if start <= 0 or steps < 1 or factor <= 0:
    raise ValueError(
      f"start, steps, factor: {start}, {steps}, {factor} must be above 0, at least 1, and above 0."
    )
  bounds = (0, *milestones, 1)
  if any(a >= b for a, b in itertools.pairwise(bounds)):
    raise ValueError(f"milestones: {milestones} must be ascending shares of the run, in (0, 1).")
  places = [round(share * steps) for share in milestones]
  factors = {place: factor ** places.count(place) for place in places}  # short runs may merge two
  return optax.piecewise_constant_schedule(start, factors)


def epoch_decay(start: float, steps: int, *, epochs: float, factor: float) -> optax.Schedule:
  """A rate that is multiplied by ``factor`` after each epoch.

  Args:
    start: rate in the first epoch.
    steps: of the whole run.
    epochs: of the whole run; one may be of a fraction of a step.
    factor: after each epoch.

  Raises:
    ValueError: if a number is not positive.

  Examples:
    >>> rate = epoch_decay(0.1, 100, epochs=10, factor=0.5)
    >>> [round(float(rate(step)), 6) for step in (0, 9, 10, 35)]
    [0.1, 0.1, 0.05, 0.0125]
  """
  if start <= 0 or steps < 1 or epochs <= 0 or factor <= 0:
    raise ValueError(
      f"start, steps, epochs, factor: {start}, {steps}, {epochs}, {factor} must be above 0, at least 1,"
      " above 0, and above 0."
    )
  length = steps / epochs
  return lambda step: start * factor ** jnp.floor(step / length)


def _convolutions_only(params: Any) -> Any:
  """True for kernels of convolutions over all channels: no weight decay on the classifier, either."""
  return jax.tree.map(
    lambda leaf, decays: decays and jnp.ndim(leaf) == 4, params, dense_kernels_only(params)
  )


def every(params: Any) -> Any:
  """True for every parameter."""
  return jax.tree.map(lambda _: True, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """A training protocol, whatever the data: epochs, schedule and optimizer.

  Attributes:
    epochs: passes over the training images.
    batch_size: images per step.
    learning_rate: at its highest.
    schedule: ``"cosine"`` with a linear warm-up, ``"steps"``, or ``"exponential"``.
    warmup_epochs: of the cosine.
    milestones: epochs at which ``"steps"`` multiplies by ``factor``.
    factor: of the rate, at each milestone, or in ``"exponential"`` after each epoch.
    optimizer_name: ``"sgd"``, or ``"adamw"``, whose steps do not depend on the scale of a loss or a network;
      or ``"adam"``, which sees weight decay as part of the gradient, as Keras' regularizers are.
    momentum: of SGD.
    nesterov: whether it looks ahead.
    delta: how much more momentum the teacher's gradient has where there is one, and how much less the
      labels'; see :func:`~jaxcompress.training.dot`. Losses with a stage before go without.
    weight_decay: of what ``mask`` selects.
    mask: which parameters decay; None: all.
    label_smoothing: of the cross-entropy.
    ema: decay of the moving average of the weights, or None.
    last: factor of the rate of the last layer, such as a head on a trained network.
    fine_tuning: factor of the rate while the network learns to live with integers.

  Raises:
    ValueError: if a number is out of range.

  Examples:
    >>> PROTOCOLS["cifar-steps"].steps(images=50_000)
    187500
    >>> rate = PROTOCOLS["imagenet-cosine"].rate(100)
    >>> round(float(rate(0)), 3), round(float(rate(4)), 3), round(float(rate(100)), 3)
    (0.0, 0.4, 0.0)
  """

  epochs: float
  batch_size: int
  learning_rate: float
  schedule: Literal["cosine", "steps", "exponential"] = "cosine"
  warmup_epochs: float = 0.0
  milestones: tuple[float, ...] = ()
  factor: float = 0.1
  optimizer_name: Literal["sgd", "adamw", "adam"] = "sgd"
  momentum: float = 0.9
  nesterov: bool = False
  delta: float = 0.0
  weight_decay: float = 5e-4
  mask: Mask | None = None
  label_smoothing: float = 0.0
  ema: float | None = None
  last: float = 1.0
  fine_tuning: float = 1 / 20

  def __post_init__(self):
    for name in ("epochs", "batch_size", "learning_rate", "factor"):
      if not getattr(self, name) > 0:
        raise ValueError(f"{name}: {getattr(self, name)} must be positive.")
    if self.schedule not in ("cosine", "steps", "exponential"):
      raise unknown("schedule", self.schedule, ("cosine", "steps", "exponential"))

  def steps(self, images: int) -> int:
    """Steps of a run over so many training images."""
    return max(1, round(self.epochs * images / self.batch_size))

  def rate(self, steps: int) -> optax.Schedule:
    """The learning rate over a run of so many steps, which may be a shortened one."""
    if self.schedule == "cosine":
      return warmup_cosine(self.learning_rate, steps, warmup=self.warmup_epochs / self.epochs)
    if self.schedule == "exponential":
      return epoch_decay(self.learning_rate, steps, epochs=self.epochs, factor=self.factor)
    shares = tuple(epoch / self.epochs for epoch in self.milestones)
    return step_decay(self.learning_rate, steps, milestones=shares, factor=self.factor)

  def optimizer(self, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer at the protocol's learning rate."""
    return self.optimizer_at(self.rate(steps))

  def optimizer_at(
    self, rate: optax.ScalarOrSchedule, *, apart: bool = False
  ) -> optax.GradientTransformation:
    """The same at any rate, such as :meth:`rate` followed by fine-tuning.

    Args:
      rate: a number or a schedule.
      apart: whether it is for a recipe that keeps the teacher's gradient apart, whose momentum
        ``delta`` changes.
    """
    if self.optimizer_name == "adamw":
      made = optax.adamw(rate, weight_decay=self.weight_decay, mask=self.mask)
    elif self.optimizer_name == "adam":
      decay = optax.add_decayed_weights(self.weight_decay, mask=self.mask)
      made = optax.chain(decay, optax.adam(rate, eps=1e-7))
    elif apart:
      made = dot(
        rate,
        momentum=self.momentum,
        delta=self.delta,
        weight_decay=self.weight_decay,
        mask=self.mask or every,
      )
    else:
      made = sgd(
        rate,
        momentum=self.momentum,
        weight_decay=self.weight_decay,
        nesterov=self.nesterov,
        mask=self.mask,
      )
    return made if self.last == 1 else layer_rates(made, {"last": self.last})


PROTOCOLS = {
  # RepDistiller (Tian et al., Contrastive Representation Distillation, 2020, section 4): SGD as
  # PyTorch's, decay on every parameter.
  "cifar-steps": Protocol(
    epochs=240, batch_size=64, learning_rate=0.05, schedule="steps", milestones=(150, 180, 210)
  ),
  # The same for MobileNet and ShuffleNet students.
  "cifar-steps-light": Protocol(
    epochs=240, batch_size=64, learning_rate=0.01, schedule="steps", milestones=(150, 180, 210)
  ),
  # sunshangquan/logit-standardization-KD, configs/cifar100/mlkd: twice as long, with RepDistiller's
  # milestones, so that the smallest rate has 270 of 480 epochs.
  "cifar-long": Protocol(
    epochs=480, batch_size=64, learning_rate=0.025, schedule="steps", milestones=(150, 180, 210)
  ),
  # The same for MobileNet and ShuffleNet students; 960 epochs for ShuffleNets.
  "cifar-long-light": Protocol(
    epochs=480, batch_size=64, learning_rate=0.01, schedule="steps", milestones=(150, 180, 210)
  ),
  # megvii-research/mdistiller, configs/cifar100/dot; on ImageNet delta is 0.09, with half the weight on
  # the labels and a temperature of 1.
  "cifar-dot": Protocol(
    epochs=240,
    batch_size=64,
    learning_rate=0.05,
    schedule="steps",
    milestones=(150, 180, 210),
    delta=0.075,
  ),
  "cifar-dot-light": Protocol(
    epochs=240,
    batch_size=64,
    learning_rate=0.01,
    schedule="steps",
    milestones=(150, 180, 210),
    delta=0.075,
  ),
  "cifar-cosine": Protocol(
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    warmup_epochs=5,
    nesterov=True,
    mask=dense_kernels_only,
  ),
  # Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2: 0.1 for each 256 images after a
  # warm-up of 5 epochs. He et al., Bag of Tricks, 2019, sections 3 and 5: cosine, label smoothing,
  # no decay on BatchNorm and biases. MobileNetV2's decay is 4e-5.
  "imagenet-cosine": Protocol(
    epochs=150,
    batch_size=1024,
    learning_rate=0.4,
    warmup_epochs=5,
    nesterov=True,
    weight_decay=4e-5,
    mask=dense_kernels_only,
    label_smoothing=0.1,
    ema=0.9999,
  ),
  # MLPerf Tiny's reference implementation, image_classification/train.py and
  # visual_wake_words/train_vww.py: Keras' Adam, an L2 penalty of 1e-4 (twice that in the gradient).
  # Its script begins Adam's moments anew at VWW's milestones; here they go on.
  "mlperf-resnet8": Protocol(
    epochs=500,
    batch_size=32,
    learning_rate=1e-3,
    schedule="exponential",
    factor=0.99,
    optimizer_name="adam",
    weight_decay=2e-4,
    mask=_convolutions_only,
  ),
  "mlperf-vww": Protocol(
    epochs=50,
    batch_size=32,
    learning_rate=1e-3,
    schedule="steps",
    milestones=(20, 30),
    factor=0.5,
    optimizer_name="adam",
    weight_decay=2e-4,
    mask=_convolutions_only,
  ),
}
"""Published settings of training by name."""
