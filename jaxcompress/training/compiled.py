"""A training step as it is called: jitted, one program for each stage, the stage chosen by itself."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxcompress.arguments import check_batch, check_type
from jaxcompress.training.state import CompressState, in_stage

Metrics = dict[str, jax.Array]


class Step:
  """A step of a run, ``(state, batch) -> (state, metrics)``; made of a function by decoration.

  Called, it first begins the recipe's stage that is due, as :func:`~jaxcompress.training.at_stage`
  does. In the stages before the main one it reads the state's position for that, and so waits for
  the step before; ``fit``, which counts by itself, does not. Then the stage's loss checks what of the
  batch is NumPy's (see ``check`` of :class:`~jaxcompress.distill.LossTransform`), such as places
  outside of memory banks; it does not wait for arrays on devices.

  Attributes:
    program: the jitted function alone, with the state donated: for states that are in their stage,
      and for use inside other transformations.

  Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxcompress import distill, models
    >>> from jaxcompress.training import Recipe, Stage, init_state, train_step
    >>> loss = distill.named_chain(labels=distill.cross_entropy())
    >>> first = Stage(loss, ("student/classifier",), steps=1)
    >>> options = {"optimizer": optax.sgd(0.1), "loss": loss, "stages": (first,)}
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> recipe = Recipe(student=models.resnet8(10), **options)
    >>> state = init_state(recipe, jax.random.key(0), batch)
    >>> for _ in range(2):
    ...   state, metrics = train_step(state, batch)
    ...   print(state.stage)
    0
    1
  """

  __name__: str
  __wrapped__: Callable[..., tuple[CompressState, Metrics]]

  def __init__(self, function: Callable[..., tuple[CompressState, Metrics]]):
    functools.update_wrapper(self, function)
    self.program = jax.jit(function, donate_argnums=0)

  def __call__(
    self, state: CompressState, batch: Mapping[str, jax.Array]
  ) -> tuple[CompressState, Metrics]:
    check_type("state", state, CompressState, "a CompressState, as init_state makes it")
    check_batch(batch)
    state = in_stage(state)
    loss, _ = state.recipe.stage(state.stage)
    loss.check({name: x for name, x in batch.items() if isinstance(x, np.ndarray)})
    return self.program(state, batch)

  def __getattr__(self, name: str) -> Any:
    """All else is the program's, such as ``lower``."""
    if name == "program":  # of an object that is only being made
      raise AttributeError(name)
    return getattr(self.program, name)
