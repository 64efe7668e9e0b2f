"""A mode in which only shapes are wanted, so that layers leave out what does not change them."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxcompress import ops

_only_shapes = jax.make_user_context(
  default_value=False
)  # a part of what traced programs are kept by


@contextmanager
def only_shapes() -> Iterator[None]:
  """Leaf ops called inside return arrays of the right shapes and dtypes, with any values.

  Recording a network's graph takes half as long so.

  Examples:
    >>> with only_shapes():
    ...   shapes_alone()
    True
  """
  with _only_shapes(True), ops.formulations(**ops.XLA_ONLY._asdict()):
    yield


def shapes_alone() -> bool:
  """Whether values do not matter here."""
  return _only_shapes.value
