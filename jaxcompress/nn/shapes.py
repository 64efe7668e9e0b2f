"""A mode in which only shapes are wanted, so that layers leave out what does not change them."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxcompress import ops
from jaxcompress.ops.dispatch import XLA_ONLY

# Programs that were traced within are kept apart from others.
_only_shapes = jax.make_user_context(default_value=False)


@contextmanager
def only_shapes() -> Iterator[None]:
  """Leaf ops called inside return arrays of the right shapes and dtypes, with any values.

  Without normalization, activation functions and random numbers a graph is recorded in less than half
  of the time.

  Examples:
    >>> with only_shapes():
    ...   shapes_alone()
    True
  """
  with _only_shapes(True), ops.formulations(**XLA_ONLY._asdict()):
    yield


def shapes_alone() -> bool:
  """Whether values do not matter here."""
  return _only_shapes.value
