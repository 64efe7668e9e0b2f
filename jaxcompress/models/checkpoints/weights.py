"""The named weights of a PyTorch network, from a state dict or a checkpoint of any usual form."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from safetensors import safe_open

from jaxcompress.models.checkpoints.pickles import (
  PICKLE_MAGIC,
  ZIP_MAGIC,
  existing_file,
  read_pickle,
  unreadable,
)

NESTS = ("state_dict", "model", "net", "params")
EMA_NESTS = tuple(f"{name}_ema" for name in NESTS)
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile
DEEPEST = 4  # nests in each other


def read_weights(weights: Mapping[str, Any] | str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads named weights from a state dict, or from a file of torch or safetensors.

  Checkpoints that hold more are searched: the state dict may lie under ``state_dict``, ``model``,
  ``net`` or ``params``, and failing these under the same names with ``_ema``. A prefix ``module.``
  or ``_orig_mod.`` that all names share is dropped. torch is not needed and no pickle is run.

  Args:
    weights: names to numpy, jax or torch arrays; or the path of a .safetensors, .pth, .pt, .bin
      or .tar file, told apart by what is in it.

  Returns:
    The arrays by name: float32 for floating values, int64 for integers, bool as it is. Arrays of
    a mapping are copied; those of a file may be read-only views.

  Raises:
    ValueError: if a file is missing, damaged or asks for anything but data, no or several state
      dicts are found, a value is no real number, or one does not fit float32 or int64.

  Examples:
    >>> weights = read_weights({"model": {"module.fc.bias": np.array([1.0, 2.0])}, "epoch": 3})
    >>> weights
    {'fc.bias': array([1., 2.], dtype=float32)}
  """
  if isinstance(weights, Mapping):
    found, copy, subject = weights, True, "weights"
  elif isinstance(weights, str | os.PathLike):
    path = existing_file(weights, "weights")
    found, copy, subject = _read(path), False, f"weights: {str(path)!r}"
  else:
    hint = "give its state_dict()" if hasattr(weights, "state_dict") else "give a state dict"
    raise ValueError(
      f"weights: {type(weights).__name__} is neither a mapping nor a path; {hint} or a file."
    )
  try:
    return _strip(_arrays(_state_dict(found), copy))
  except ValueError as error:
    raise ValueError(f"{subject}: {error}") from error


def _read(path: pathlib.Path) -> Any:
  try:
    with path.open("rb") as file:
      start = file.read(9)
  except OSError as error:
    raise unreadable(path, "weights", error) from error
  if start.startswith((ZIP_MAGIC, PICKLE_MAGIC)) and start[8:] != b"{":
    return read_pickle(path, argument="weights")
  if path.suffix == ".safetensors" or start[8:] == b"{":
    return _read_safetensors(path)
  raise ValueError(
    f"weights: {str(path)!r} is neither a safetensors file nor one of torch.save; give one of these."
  )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with safe_open(str(path), framework="np") as file:
      return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except Exception as error:  # its own class, and numpy's for types that numpy lacks
    raise unreadable(path, "weights", error) from error


def _state_dict(found: Any) -> Mapping[str, Any]:
  """The state dict in a checkpoint: itself, or the one that its nests hold."""
  top = found
  for _ in range(DEEPEST):
    if not isinstance(found, Mapping):
      raise ValueError(f"it holds a {type(found).__name__}, not a dict; save a state dict.")
    inner = _nests(found, NESTS) or _nests(found, EMA_NESTS)
    if len(inner) > 1:
      raise ValueError(
        f"{_listed(inner)} all hold weights, of the keys {_listed(found)}; give the one that is"
        " meant."
      )
    if not inner:
      break
    found = found[inner[0]]
  if not any(map(_is_array, found.values())):
    raise ValueError(
      f"no state dict was found; the top-level keys are {_listed(top)}. Give the mapping"
      " from names to arrays."
    )
  return found


def _nests(found: Mapping[str, Any], names: Iterable[str]) -> list[str]:
  return [name for name in names if _holds_arrays(found.get(name), set())]


def _holds_arrays(value: Any, seen: set[int]) -> bool:
  """Whether a value is a state dict or holds one; a dict may hold itself."""
  if not isinstance(value, Mapping) or id(value) in seen or len(seen) == DEEPEST:
    return False
  seen.add(id(value))
  if any(map(_is_array, value.values())):
    return True
  return any(_holds_arrays(value.get(name), seen) for name in NESTS + EMA_NESTS)


def _is_array(value: Any) -> bool:
  return isinstance(value, np.ndarray | jax.Array) or hasattr(value, "detach")


def _listed(names: Iterable[Any]) -> str:
  """The first names, quoted; the number of the others."""
  names = list(names)
  shown = [repr(name[:60]) if isinstance(name, str) else type(name).__name__ for name in names[:8]]
  more = f" and {len(names) - 8} more" if len(names) > 8 else ""
  return (", ".join(shown) or "none") + more


def _arrays(state: Mapping[str, Any], copy: bool) -> dict[str, np.ndarray]:
  unnamed = [name for name in state if not isinstance(name, str)]
  if unnamed:
    raise ValueError(f"names of a state dict are text, but {_listed(unnamed)} are among them.")
  state = dict(state)
  shared = {id(value): (name, value) for name, value in state.items()}  # converted once
  arrays = {key: _numeric(value) for key, (_, value) in shared.items()}
  wrong = [name for name, value in state.items() if arrays[id(value)] is None]
  if wrong:
    raise ValueError(f"{_listed(wrong)} of the state dict are no real numbers; remove them.")
  converted = {
    key: _converted(shared[key][0], array, copy)
    for key, array in arrays.items()
    if array is not None
  }
  return {name: converted[id(value)] for name, value in state.items()}


def _numeric(value: Any) -> np.ndarray | None:
  """The value as an array of real numbers, or None."""
  if hasattr(value, "detach"):
    value = _from_torch(value)
  if not isinstance(value, np.ndarray | np.generic | jax.Array | bool | int | float):
    return None
  if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
    return None  # a key of jax.random
  array = np.asarray(value)
  real = any(jax.dtypes.issubdtype(array.dtype, kind) for kind in (np.floating, np.integer))
  return array if real or array.dtype == np.bool_ else None


def _from_torch(tensor: Any) -> np.ndarray | None:
  try:
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # which numpy lacks
      tensor = tensor.float()
    return tensor.numpy()
  except (AttributeError, TypeError, RuntimeError):  # sparse, or without values
    return None


def _converted(name: str, array: np.ndarray, copy: bool) -> np.ndarray:
  if array.dtype == np.bool_:
    return np.array(array) if copy else array
  floating = jax.dtypes.issubdtype(array.dtype, np.floating)
  dtype = np.dtype(np.float32 if floating else np.int64)
  with np.errstate(all="ignore"):
    result = array.astype(dtype, copy=copy)
  if floating and array.dtype.itemsize > 4:
    fits = not (np.isinf(result) & np.isfinite(array)).any()
  else:
    fits = array.dtype != np.uint64 or not (result < 0).any()
  if not fits:
    raise ValueError(f"{_listed([name])} holds a value that {dtype} cannot; scale it down.")
  return result


def _strip(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in arrays)), None):
    arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
  return arrays
