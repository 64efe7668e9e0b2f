"""StableHLO files: one program for CPU, CUDA and TPU, for any number of images.

What stands in a file depends on the model alone, not on the machine that writes it.
"""

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export

from jaxcompress.export.metadata import FREE_BATCH
from jaxcompress.export.trial import try_out
from jaxcompress.files.checksums import UNSEALED, read_sealed, seal
from jaxcompress.files.extras import require
from jaxcompress.files.values import one_line
from jaxcompress.files.writing import write_atomically
from jaxcompress.nn import INPUT
from jaxcompress.nn.foreign import check_made, check_model, flag_for
from jaxcompress.nn.outputs import as_endpoints, name_outputs, only_or_all
from jaxcompress.ops.dispatch import ANYWHERE, traced_for
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.program import all_tensors
from jaxcompress.quantize.model import QUANTIZED

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(quantized: QuantizedModel, path: str | os.PathLike) -> pathlib.Path:
  """Writes the exact evaluation of a quantized model: integer images in, integer logits out.

  Of a network of several outputs the program gives a dict of all by name.

  The program holds integers in float32 and computes those of the runtime ``quantized.kernels``.
  Convolutions are written as shifted products at the highest precision, which every backend
  computes exactly, whichever one writes the file; so it is for checking, not for speed.

  Args:
    quantized: from ``state.quantized()`` or :func:`jaxcompress.quantize.assemble`.
    path: the file. It is written beside it and renamed, so it is whole, or as it was before.

  Returns:
    The path.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if ``quantized`` is not a quantized model, or the path cannot be written.

  Examples:
    >>> import tempfile
    >>> import numpy as np
    >>> from jaxcompress.nn import Graph, Node
    >>> from jaxcompress.quantize.integer.grid import Grid
    >>> shapes = ((1, 2, 2, 3),), ((1, 3),)
    >>> pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
    >>> grid = Grid(np.float32(0.1), 0)
    >>> quantized = QuantizedModel(
    ...   Graph((pool,), (1, 2, 2, 3), "pool"), {"input": grid, "pool": grid}, {}
    ... )
    >>> path = stablehlo(quantized, tempfile.mkdtemp() + "/pool.stablehlo")
    >>> load_stablehlo(path)(np.full((5, 2, 2, 3), 7, np.int8))[0].tolist()
    [7, 7, 7]
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  program = quantized.program

  def run(codes: jax.Array) -> Any:
    x = codes.astype(jnp.float32) - program.zero_point
    tensors = all_tensors(program.steps, program.arrays, x)
    return only_or_all(
      {
        output.name: (tensors[output.tensor] + output.zero_point).astype(output.dtype)
        for output in program.outputs
      }
    )

  return _write(run, path, quantized.graph.input_shape[1:], quantized.grids[INPUT].dtype)


def stablehlo_float(
  model: nn.Module,
  variables: Mapping[str, Any],
  path: str | os.PathLike,
  image_shape: tuple[int, int, int],
) -> pathlib.Path:
  """Writes a float model in evaluation: images after preprocessing in, logits out.

  Args:
    model: a linen module whose ``__call__(x, *, train)`` returns :class:`Endpoints`, logits, or a
      tree of several outputs, which the program gives as a dict by name.
    variables: its variables; they become constants of the program.
    path: as for :func:`stablehlo`.
    image_shape: (height, width, channels).

  Returns:
    The path.

  Raises:
    MissingExtraError: as :func:`stablehlo`.
    ValueError: as :func:`stablehlo`.

  Examples:
    >>> import tempfile
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> path = stablehlo_float(model, variables, tempfile.mkdtemp() + "/a.stablehlo", (8, 8, 3))
    >>> load_stablehlo(path)(jnp.ones((3, 8, 8, 3))).shape
    (3, 10)
  """

  check_model("model", model)

  def run(images: jax.Array) -> Any:
    result = as_endpoints(model.apply(variables, images, **flag_for(model, False)))
    return only_or_all(name_outputs(result))

  return _write(run, path, image_shape, jnp.float32)


def load_stablehlo(path: str | os.PathLike) -> Callable[[jax.Array], Any]:
  """The program of a file, to be called on images.

  Args:
    path: of a file that :func:`stablehlo` or :func:`stablehlo_float` wrote.

  Returns:
    A function of (batch, height, width, channels); ``jax.jit`` compiles it. Of a network of several
    outputs it gives a dict of them by name.

  Raises:
    MissingExtraError: if the ``edge`` extra is not installed.
    ValueError: if there is no such file, it is damaged, or it is not such a file. One without a
      checksum, as earlier versions wrote them, is first opened in a process of its own.

  Examples:
    >>> import tempfile
    >>> from jaxcompress.nn import ConvNorm
    >>> ones = {"params": {"kernel": jnp.ones((1, 1, 3, 2)), "bias": jnp.ones(2)}}
    >>> path = tempfile.mkdtemp() + "/layer.stablehlo"
    >>> path = stablehlo_float(ConvNorm(2, norm=None), ones, path, (1, 1, 3))
    >>> load_stablehlo(path)(jnp.ones((2, 1, 1, 3))).reshape(2, 2).tolist()
    [[4.0, 4.0], [4.0, 4.0]]
  """
  require("stablehlo")
  content, is_sealed = read_sealed(path, f"path: {path}")
  try:
    program = export.deserialize(bytearray(content))
  except Exception as error:  # what flatbuffers raises on other bytes has no common base
    raise ValueError(
      f"path: {path} is no StableHLO file of jaxcompress ({one_line(error)})."
    ) from error
  if not is_sealed:  # the compiler ends the process on some damaged programs
    try_out(path, content, "stablehlo", "look_at")
  return program.call


def _write(
  run: Callable[[jax.Array], Any], path: str | os.PathLike, shape: Any, dtype: Any
) -> pathlib.Path:
  require("stablehlo")
  (batch,) = export.symbolic_shape(FREE_BATCH)
  images = jax.ShapeDtypeStruct((batch, *shape), dtype)
  with traced_for(ANYWHERE), _nameless_lines():
    exported = export.export(jax.jit(run), platforms=PLATFORMS)(images)
  # a flatbuffer may be longer than it says, so that the checksum has room behind it
  return write_atomically(path, seal(bytes(exported.serialize()) + UNSEALED.encode()))


@contextmanager
def _nameless_lines() -> Iterator[None]:
  """Keeps out of a program where on this machine the source of each of its lines lies."""
  option = "jax_traceback_in_locations_limit"
  kept = getattr(jax.config, option)
  jax.config.update(option, 0)
  try:
    yield
  finally:
    jax.config.update(option, kept)
