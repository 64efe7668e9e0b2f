"""Interceptors of linen's methods, also where Python runs without assertions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
from flax.linen import module as linen


@contextmanager
def intercept(interceptor: Callable[..., Any]) -> Iterator[None]:
  """``nn.intercept_methods``, which ends under ``python -O`` too.

  Flax takes an interceptor back inside an ``assert``, which ``-O`` leaves out: it would go on
  intercepting every later call of any network.

  Args:
    interceptor: as for ``nn.intercept_methods``.

  Examples:
    >>> from jaxcompress.nn import Activation
    >>> seen = []
    >>> def look(call, args, kwargs, context):
    ...   seen.append(type(context.module).__name__)
    ...   return call(*args, **kwargs)
    >>> with intercept(look):
    ...   _ = Activation("relu").apply({}, 1.0)
    >>> _ = Activation("relu").apply({}, 1.0)
    >>> seen
    ['Activation']
  """
  try:
    with nn.intercept_methods(interceptor):
      yield
  finally:
    if not __debug__:
      _take_back(interceptor)


def _take_back(interceptor: Callable[..., Any]) -> None:
  stack = linen._global_interceptor_stack
  if next(iter(stack), None) is interceptor:  # the newest comes first
    stack.pop()
