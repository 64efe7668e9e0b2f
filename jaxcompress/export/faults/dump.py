"""Dumps of devices: the integers of tensors by name, written by LiteRT here and read from files."""

import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.export.trial import choose_kernels, read_runnable_model
from jaxcompress.files.extras import require
from jaxcompress.files.values import one_line
from jaxcompress.nn import INPUT
from jaxcompress.quantize import QuantizedModel

RAW = (".bin", ".raw", "")  # suffixes of files of bytes alone
SUFFIXES = (".npy", *RAW)
PRESERVING = ("xnnpack", "xnnpack-int4", "reference")  # LiteRT's, which can keep all tensors
MOST_NAMED = 5  # in a message


class Dump(NamedTuple):
  """Tensors that a device printed.

  Attributes:
    tensors: integers by name, (images, ...) each.
    skipped: names of what was printed that is no tensor of the model.
    images: how many there are.
  """

  tensors: Mapping[str, np.ndarray]
  skipped: tuple[str, ...]
  images: int


def dump(
  path: str | os.PathLike,
  images: np.ndarray,
  out: str | os.PathLike,
  *,
  kernels: str | None = None,
) -> pathlib.Path:
  """Runs a .tflite file in LiteRT and writes all tensors that it computes, as :func:`~jaxcompress.export.locate` reads them.

  LiteRT keeps all tensors (``experimental_preserve_all_tensors``), with XNNPACK and without it. What it
  computes with XNNPACK alone, within what is delegated, is kept as well.

  Args:
    path: of the file.
    images: (N, height, width, channels), of the type that the file reads: what
      ``quantized.quantize_input`` gives where it reads codes.
    out: a .npz file, or a folder, in which each tensor is a file ``NAME.bin`` of its bytes; in names
      all but letters, digits, points and dashes are underscores.
    kernels: ``"xnnpack"`` or ``"reference"``, as for :class:`~jaxcompress.export.Runtime`.

  Returns:
    The path of the dump.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if the file is missing, damaged or no .tflite file, its runtime cannot keep all tensors,
      the images do not fit it, or the dump exists or cannot be written.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.export import tflite
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> folder = tempfile.mkdtemp()
    >>> path = tflite(quantized, folder + "/pool.tflite")
    >>> with np.load(dump(path, np.full((1, 2, 2, 3), 7, np.int8), folder + "/a.npz")) as arrays:
    ...   arrays["pool"].tolist()
    [[7, 7, 7]]
  """
  kernels = choose_kernels(path, kernels)
  if kernels not in PRESERVING:
    raise ValueError(
      f"kernels: {kernels!r} keeps no tensors but the outputs; use 'xnnpack' or 'reference' and a"
      " .tflite file."
    )
  out = pathlib.Path(out)
  if out.exists():
    raise ValueError(f"out: {out} exists; name another file or folder.")
  images = np.asarray(images)
  if len(images) == 0:
    raise ValueError("images must not be empty; give at least one.")
  tensors = _computed(path, images, kernels)
  try:
    if out.suffix == ".npz":
      np.savez(out, **tensors)  # type: ignore[arg-type]  # none is called allow_pickle
    else:
      out.mkdir(parents=True)
      for name, array in tensors.items():
        (out / f"{flat(name)}.bin").write_bytes(array.tobytes())
  except OSError as error:
    raise ValueError(f"out: {out} cannot be written ({error.strerror}).") from error
  return out


def _computed(path: str | os.PathLike, images: np.ndarray, kernels: str) -> dict[str, np.ndarray]:
  """Everything that LiteRT holds after each image but constants, (images, ...) by name."""
  require("tflite")
  content = read_runnable_model(path, kernels)
  from ai_edge_litert.interpreter import Interpreter, OpResolverType

  resolver = OpResolverType.BUILTIN_REF if kernels == "reference" else OpResolverType.AUTO
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is for debugging
    interpreter = Interpreter(
      model_content=content,
      experimental_op_resolver_type=resolver,
      experimental_preserve_all_tensors=True,
    )
  interpreter.allocate_tensors()
  (source,) = interpreter.get_input_details()
  shape, dtype = tuple(source["shape"][1:]), np.dtype(source["dtype"])
  if images.shape[1:] != shape or images.dtype != dtype:
    raise ValueError(
      f"images: {images.dtype} of shape {images.shape} must be {dtype} of shape"
      f" ({', '.join(map(str, ('N', *shape)))}), as {path} reads them."
    )
  ends = {int(source["index"])}
  for operator in interpreter._get_ops_details():  # LiteRT has no public way to ask
    ends |= {int(index) for index in operator["outputs"]}
  kept = {
    tensor["name"]: tensor["index"]
    for tensor in interpreter.get_tensor_details()
    if tensor["index"] in ends and tensor["name"]
  }
  found: dict[str, list[np.ndarray]] = {name: [] for name in kept}
  for image in images:
    interpreter.set_tensor(source["index"], image[None])
    interpreter.invoke()
    for name, index in kept.items():
      found[name].append(interpreter.get_tensor(index))
  return {name: np.concatenate(_batched(arrays)) for name, arrays in found.items()}


def _batched(arrays: list[np.ndarray]) -> list[np.ndarray]:
  """Tensors of one image each, with an axis of images."""
  return [array if array.ndim and len(array) == 1 else array[None] for array in arrays]


def flat(name: str) -> str:
  """A tensor's name as that of a file.

  Examples:
    >>> flat("stage0_block0/split:1")
    'stage0_block0_split_1'
  """
  return re.sub(r"[^A-Za-z0-9.-]", "_", name)


def read_dump(
  dump: Any, quantized: QuantizedModel, others: Mapping[str, str] = MappingProxyType({})
) -> Dump:
  """Reads what a device printed of a model's tensors.

  Args:
    dump: a .npz file, a folder of .npy files or of raw bytes, or a mapping of arrays, by the names of
      tensors or of outputs; see :func:`~jaxcompress.export.locate`.
    quantized: the model.
    others: further names of its tensors.

  Raises:
    ValueError: if it cannot be read, holds no tensor of the model, two files are of one tensor, or a
      shape, a type or a number of images does not fit.

  Examples:
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
    >>> quantized = QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
    >>> found = read_dump({"pool": np.int8([[1, 2, 3]]), "arena": np.zeros(9)}, quantized)
    >>> found.images, found.tensors["pool"].shape, found.skipped
    (1, (1, 3), ('arena',))
  """
  names = _names(quantized)
  names = {
    name: tensor for other, tensor in others.items() for name in (flat(other), other)
  } | names
  found: dict[str, np.ndarray] = {}
  skipped = []
  for name, load in _entries(dump):
    tensor = names.get(name) or names.get(flat(name))
    if tensor is None:
      skipped.append(name)
      continue
    if tensor in found:
      raise ValueError(f"dump: tensor {tensor!r} is there twice, also as {name!r}; leave one.")
    found[tensor] = _checked(tensor, load(), quantized)
  if not found:
    raise ValueError(
      f"dump: it holds no tensor of the model ({_listed(skipped) or 'it is empty'}); names must be"
      f" those of its tensors, such as {_listed([INPUT, quantized.graph.nodes[0].output])}."
    )
  counts = {len(array): name for name, array in found.items()}
  if len(counts) > 1:
    words = ", ".join(f"{name!r} of {count}" for count, name in sorted(counts.items()))
    raise ValueError(f"dump: tensors are of different numbers of images ({words}).")
  return Dump(found, tuple(skipped), next(iter(counts)))


def tensors_of(quantized: QuantizedModel) -> tuple[str, ...]:
  """Names of all tensors of a model, in the order in which they are computed."""
  return (INPUT, *(tensor for node in quantized.graph.nodes for tensor in node.outputs))


def _names(quantized: QuantizedModel) -> dict[str, str]:
  """Tensors by all that they may be called: their names, those of files, and those of outputs."""
  tensors = tensors_of(quantized)
  outputs = {name: tensor for name, tensor in quantized.graph.outputs if name not in tensors}
  found = dict(outputs)
  alike: dict[str, list[str]] = {}
  for tensor in tensors:
    alike.setdefault(flat(tensor), []).append(tensor)
  found |= {name: which[0] for name, which in alike.items() if len(which) == 1}
  return found | {tensor: tensor for tensor in tensors}


def _entries(dump: Any) -> list[tuple[str, Any]]:
  """Names, and functions that give arrays, or bytes, of what is in a dump."""
  if isinstance(dump, Mapping):
    return [
      (str(name), lambda n=name, array=array: _array(n, array)) for name, array in dump.items()
    ]
  if not isinstance(dump, str | os.PathLike):
    raise ValueError(
      f"dump: {type(dump).__name__} must be a mapping of arrays, or the path of a .npz file or a folder."
    )
  path = pathlib.Path(dump)
  if path.is_dir():
    files = sorted(file for file in path.rglob("*") if file.is_file())
    named = [(file.relative_to(path).as_posix(), file) for file in files]
    return [(_without_suffix(name), lambda file=file: _load(file)) for name, file in named]
  try:
    arrays = np.load(path)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
      raise ValueError("it is one array")
    with arrays:
      return [(name, lambda array=arrays[name]: array) for name in arrays.files]
  except Exception as error:  # numpy and zipfile raise many kinds
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    raise ValueError(
      f"dump: {path} cannot be read ({reason}); give a .npz file, or a folder of files by tensor name."
    ) from error


def _array(name: str, given: Any) -> np.ndarray:
  try:
    return np.asarray(given)
  except ValueError as error:
    raise ValueError(f"dump: {name!r} is no array ({one_line(error)}).") from error


def _without_suffix(name: str) -> str:
  """The name of a file without the suffix that says how it is read; other suffixes stay."""
  for suffix in filter(None, SUFFIXES):
    name = name.removesuffix(suffix)
  return name


def _load(file: pathlib.Path) -> Any:
  try:
    found = np.load(file) if file.suffix == ".npy" else file.read_bytes()
    if not isinstance(found, np.ndarray | bytes):
      raise ValueError("it is no single array")
    return found
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"dump: {file} cannot be read ({one_line(error)}).") from error


def _checked(name: str, given: Any, quantized: QuantizedModel) -> np.ndarray:
  """The integers of a tensor, (images, ...) of the type of its grid."""
  grid, shape = quantized.grids[name], quantized.graph.shape(name)[1:]
  words = ", ".join(map(str, ("N", *shape)))
  if isinstance(given, bytes):
    each = grid.dtype.itemsize * int(np.prod(shape))
    if len(given) == 0 or len(given) % each:
      raise ValueError(
        f"dump: {name!r} has {len(given):,} bytes; it must be {grid.dtype} of shape ({words}), {each:,}"
        " bytes an image."
      )
    return np.frombuffer(given, grid.dtype.newbyteorder("<")).astype(grid.dtype).reshape(-1, *shape)
  array = given[None] if given.shape == shape else given
  if array.ndim != len(shape) + 1 or array.shape[1:] != shape or len(array) == 0:
    raise ValueError(f"dump: {name!r} has shape {given.shape}; it must be ({words}).")
  if array.dtype != grid.dtype:
    limits = np.iinfo(grid.dtype)
    wrong = array.dtype.kind not in "iu" or array.dtype == np.uint8
    if wrong or array.min() < limits.min or array.max() > limits.max:
      raise ValueError(
        f"dump: {name!r} is {array.dtype}; it must be {grid.dtype}, the integers as they lie in memory"
        " (of uint8 arrays array.view('int8'))."
      )
  return array.astype(grid.dtype)


def _listed(names: Any) -> str:
  """Names in a message, the first few of many.

  Examples:
    >>> _listed("abcdefgh")
    'a, b, c, d, e and 3 more'
  """
  names = list(names)
  rest = len(names) - MOST_NAMED
  return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
