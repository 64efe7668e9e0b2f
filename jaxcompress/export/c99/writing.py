"""Networks in C, without an interpreter."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxcompress.export.c99.folder import write_folder
from jaxcompress.export.c99.texts import write_texts
from jaxcompress.nn.foreign import check_made
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.model import QUANTIZED


def c(
  quantized: QuantizedModel,
  folder: str | os.PathLike,
  *,
  name: str = "model",
  weights: str = "int8",
  ram: int | None = None,
  metadata: Mapping[str, Any] | None = None,
  force: bool = False,
) -> pathlib.Path:
  """Writes a network as C99 that needs no interpreter: for microcontrollers, or to build into anything.

  Its integers are those of ``quantized.with_kernels("tflm")``, bit for bit. It allocates nothing, needs no
  operating system and computes nothing in float; all tensors lie in one array, whose size is known when
  it is compiled. Of the functions in C only those are written that the network calls.

  Args:
    quantized: from ``state.quantized()`` or :func:`jaxcompress.quantize.assemble`.
    folder: is made if it is not there; what a folder of ours held before is replaced.
    name: with which all names in C, and those of files, begin.
    weights: ``"int8"``, or ``"int4"``: layers whose integers have at most 4 bits are written with two
      weights in a byte, for half of the flash. Transposed convolutions, and layers that read 16 bits,
      stay int8.
    ram: bytes of memory that it may need, beside some stack; None: as few as are found without computing
      anything twice. Where that is more than may be, the first layers are computed in strips of columns,
      which compute what lies around their borders twice: slower, with the same integers.
    metadata: JSON values kept beside it, such as those of
      :meth:`jaxcompress.data.Dataset.to_metadata`: names of the classes and how pictures are read.
    force: whether files of the same names are replaced in a folder that export.c did not write, or was
      changed.

  Returns:
    The folder.

  Raises:
    ValueError: if ``quantized`` is not a quantized model, a layer has no C function or TFLite-Micro would refuse it, the
      name is not valid in C, ``weights`` is unknown or no layer has 4 bits, it needs more than
      ``ram``, the metadata is no JSON, or the folder holds other files or cannot be written.

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
    >>> folder = c(quantized, tempfile.mkdtemp() + "/pool")
    >>> sorted(path.name for path in folder.iterdir())[2:]
    ['README.md', 'examples', 'library.properties', 'main.c', 'manifest.json', 'src']
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  texts = write_texts(quantized, name=name, weights=weights, ram=ram)
  return write_folder(
    folder,
    quantized,
    texts.files,
    name=name,
    calls=texts.calls,
    sizes=texts.sizes,
    metadata=metadata,
    force=force,
  )
