"""Compiled programs, kept between runs."""


def keep_compiled_programs() -> None:
  """Lets later runs, and resumed ones, find what this one compiles; the environment may differ."""
  import jax

  from jaxcompress.data.cache import cache_folder

  folder = cache_folder()
  if folder is not None and jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
