"""The header of a network in C: what is called, and what its integers stand for."""

import hashlib

import numpy as np

from jaxcompress.export.c99.emitted import Network, Tensor
from jaxcompress.export.metadata import own_version
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid

TEXT = """/* A network in C, made by jaxcompress {version}. SHA-256 of its constants:
 * {sha256}
 *
 * Write the integers of an image to {name}_input(), call {name}_run(), and read {outputs}.
 * A number x is the integer x / SCALE + ZERO_POINT, rounded to the nearest. Tensors are row by row,
 * column by column, with all channels of a cell one after the other. {name}_run() uses the memory of
 * its input and outputs for what lies between: write the input again before each run. */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* Bytes of memory for all tensors, which the network has for itself. */
#define {upper}_ARENA_BYTES {arena}

{ends}
/* Computes the outputs of the image that lies in the input. */
void {name}_run(void);

#ifdef __cplusplus
}}
#endif

#endif
"""
END = """/* {what}: {shape}. */
#define {macro}_SIZE {size}
#define {macro}_SCALE {scale}f
#define {macro}_ZERO_POINT {zero_point}
{kind} *{function}(void);
"""


def header_text(
  quantized: QuantizedModel, network: Network, name: str, arena: int, constants: bytes
) -> str:
  """The header of a network.

  Args:
    quantized: the network.
    network: its operations.
    name: with which all names begin.
    arena: bytes of memory.
    constants: all arrays, one after the other.
  """
  grids, upper = quantized.grids, name.upper()
  source = network.tensors[network.input]
  ends = [_end("The input", source, grids[network.input], f"{name}_input", "")]
  for i, (called, tensor) in enumerate(network.outputs):
    said = called.replace("\n", " ").replace("*/", "* /").replace("/*", "/ *")
    function = f"{name}_output_{i}"
    ends.append(
      _end(f"Output {said!r}", network.tensors[tensor], grids[tensor], function, "const ")
    )
  return TEXT.format(
    version=own_version(),
    sha256=hashlib.sha256(constants).hexdigest(),
    name=name,
    upper=upper,
    outputs=" and ".join(f"{name}_output_{i}()" for i in range(len(network.outputs))),
    arena=arena,
    ends="\n".join(ends),
  )


def _end(what: str, tensor: Tensor, grid: Grid, function: str, qualifier: str) -> str:
  return END.format(
    what=what,
    shape=" x ".join(map(str, tensor.shape)),
    macro=function.upper(),
    size=int(np.prod(tensor.shape)),
    scale=float_text(grid.scale),
    zero_point=grid.zero_point,
    kind=f"{qualifier}{tensor.dtype.name}_t",
    function=function,
  )


def float_text(value: np.float32) -> str:
  """The shortest digits that give a float32 number, with a point.

  Examples:
    >>> float_text(np.float32(0.1)), float_text(np.float32(1e-12)), float_text(np.float32(3))
    ('0.1', '1e-12', '3.0')
  """
  return str(np.float32(value))
