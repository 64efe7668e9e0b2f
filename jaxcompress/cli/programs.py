"""What makes programs start sooner: those of earlier runs are kept, and tracing is not interrupted."""

import gc

YOUNG, MIDDLE, OLD = 100_000, 50, 100  # allocations, and collections of the next younger ones


def collect_rarely() -> None:
  """Lets a step be traced in two thirds of the time.

  Tracing makes millions of small objects that stay, and Python's cyclic garbage collector would look
  at all of them again and again. Arrays are freed by their reference counts as before.
  """
  gc.set_threshold(YOUNG, MIDDLE, OLD)


def keep_compiled_programs() -> None:
  """Lets later runs, and resumed ones, find what this one compiles; the environment may differ."""
  import jax

  from jaxcompress.data.storage import cache_folder

  folder = cache_folder()
  if folder is not None and jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
