"""Results that XLA must write to memory, for those that several loops read.

XLA on CPU fuses an expensive expression into every loop that reads it, and computes it again in
each; it drops ``lax.optimization_barrier`` before it fuses. A call that is not inlined it keeps:
what the call returns is computed once, on all cores.
"""

from collections.abc import Callable

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def kept(function: Callable) -> Callable:
  """``function``, whose results are written to memory once, however many loops read them.

  Args:
    function: of arrays. Not differentiated: call it within a custom gradient.

  Examples:
    >>> import jax.numpy as jnp
    >>> program = jax.jit(lambda x: kept(jnp.sin)(x) + 1).lower(jnp.ones(3)).compile()
    >>> " call(" in program.as_text()
    True
  """

  def called(*args):
    with set_xla_metadata(inlineable="false"):
      return jax.jit(function)(*args)

  return called
