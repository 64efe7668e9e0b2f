"""Compiles programs that run once or twice."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from jaxcompress.ops.dispatch import default_platform

QUICK: Mapping[str, Any] = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


def compiled(programs: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
  """Programs compiled quickly rather than well, beside one another.

  Args:
    programs: functions, each with arguments of the shapes that it takes.

  Examples:
    >>> import jax.numpy as jnp
    >>> (double,) = compiled([(lambda x: 2 * x, (jnp.ones(2),))])
    >>> double(jnp.arange(2.0)).tolist()
    [0.0, 2.0]
  """
  options = dict(QUICK) if default_platform() == "cpu" else None
  lowered = [jax.jit(run).lower(*arguments) for run, arguments in programs]
  with ThreadPoolExecutor() as pool:
    return list(pool.map(lambda program: program.compile(compiler_options=options), lowered))
