"""First values of parameters, drawn without compiling a program for every network.

XLA takes about 0.1 s to compile the drawing of one kernel, which is 10 s or more for a network.
Leaf ops therefore say what they start from as data; the numbers come from one small program that
is the same for all networks.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.arguments import check_key, check_type
from jaxcompress.nn.checks import is_whole
from jaxcompress.nn.foreign import check_model, flag_for
from jaxcompress.ops.dispatch import only_shapes, shapes_alone

CHUNK = 2**18  # numbers drawn at once

_recorded: contextvars.ContextVar[dict[int, Any] | None] = contextvars.ContextVar(
  "recorded", default=None
)


@dataclasses.dataclass(frozen=True)
class Initial:
  """An initializer as linen takes it: normal around a value, or that value where nothing deviates.

  Attributes:
    value: mean.
    deviation: standard deviation.

  Examples:
    >>> Initial(1.0)(jax.random.key(0), (2,)).tolist()
    [1.0, 1.0]
  """

  value: float = 0.0
  deviation: float = 0.0

  def __call__(self, rng: Any, shape: tuple[int, ...]) -> jax.Array:
    """Float32 numbers of the given shape; without deviation no key is needed."""
    recorded = _recorded.get()
    if shapes_alone() or not self.deviation:
      array = jax.lax.full(shape, self.value, jnp.float32)
    else:
      array = self.value + self.deviation * jax.random.normal(rng, shape)
    if recorded is not None:
      recorded[id(array)] = (self, array)  # holding the array keeps its id its own
    return array


ZEROS, ONES = Initial(0.0), Initial(1.0)


@contextlib.contextmanager
def _recording() -> Iterator[dict[int, tuple[Initial, Any]]]:
  found: dict[int, tuple[Initial, Any]] = {}
  token = _recorded.set(found)
  try:
    yield found
  finally:
    _recorded.reset(token)


def init_variables(model: nn.Module, rng: jax.Array, image_shape: tuple[int, ...]) -> Any:
  """Initializes a model's variables.

  Parameters that begin as :class:`Initial` says, as those of leaf ops do, take their numbers from
  one stream in the order of their paths; any others are ``model.init``'s. Under a transformation
  such as ``vmap`` all are.

  Args:
    model: a linen module that takes images, and ``train`` or another flag of that kind if it has one.
    rng: a key.
    image_shape: (height, width, channels).

  Returns:
    A nested dict of ``params`` and ``batch_stats``, without the collections that the model lacks.

  Raises:
    ValueError: if the model was not called, ``rng`` is no key, ``image_shape`` is not three whole numbers of 1 or more, or images of it are too
      small for the network.

  Examples:
    >>> from jaxcompress import models
    >>> sorted(init_variables(models.resnet8(10), jax.random.key(0), (32, 32, 3)))
    ['batch_stats', 'params']
  """
  check_model("model", model)
  check_key("rng", rng)
  check_image_shape(image_shape)
  image = jnp.zeros((1, *image_shape))
  init: Any = partial(model.init, **flag_for(model, False))
  if isinstance(rng, jax.core.Tracer):
    return init(rng, image)
  initials: list[Initial | None] = []

  def plan(rng, image):
    with _recording() as recorded, only_shapes():
      variables = init(rng, image)
    initials.extend(recorded.get(id(leaf), (None,))[0] for leaf in jax.tree.leaves(variables))
    return variables

  leaves, tree = jax.tree.flatten(jax.eval_shape(plan, rng, image))
  others = [i for i, initial in enumerate(initials) if initial is None]
  if others:
    rest = jax.jit(lambda rng: [jax.tree.leaves(init(rng, image))[i] for i in others])
    made = dict(zip(others, rest(rng), strict=True))
  sizes = [
    leaf.size if initial and initial.deviation else 0
    for leaf, initial in zip(leaves, initials, strict=True)
  ]
  numbers = np.split(_normal(rng, sum(sizes)), np.cumsum(sizes))[: len(sizes)]
  filled = [
    made[i] if initial is None else _fill(initial, drawn, leaf.shape)
    for i, (leaf, initial, drawn) in enumerate(zip(leaves, initials, numbers, strict=True))
  ]
  return jax.tree.unflatten(tree, jax.device_put(filled))


def check_image_shape(image_shape: Any) -> None:
  """Checks the size of images.

  Raises:
    ValueError: if it is not three whole numbers of 1 or more.

  Examples:
    >>> check_image_shape((32, 32))
    Traceback (most recent call last):
    ValueError: image_shape: (32, 32) must be (height, width, channels), 1 or more each.
  """
  wanted = "(height, width, channels), such as (32, 32, 3)"
  check_type("image_shape", image_shape, Sequence, wanted)
  if len(image_shape) != 3 or not all(is_whole(side, 1) for side in image_shape):
    raise ValueError(
      f"image_shape: {tuple(image_shape)} must be (height, width, channels), 1 or more each."
    )


def _fill(initial: Initial, drawn: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  if not initial.deviation:
    return np.full(shape, initial.value, np.float32)
  return (initial.value + np.float32(initial.deviation) * drawn).reshape(shape)


def _normal(rng: jax.Array, count: int) -> np.ndarray:
  """Standard normal float32 numbers."""
  chunks = [np.asarray(_draw(rng, i)) for i in range(-(-count // CHUNK))]
  return np.concatenate([*chunks, np.zeros(0, np.float32)])[:count]


@jax.jit
def _draw(rng: jax.Array, i: int) -> jax.Array:
  return jax.random.normal(jax.random.fold_in(rng, i), (CHUNK,))
