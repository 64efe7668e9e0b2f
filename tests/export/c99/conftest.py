"""Many networks in C as one program, which is compiled and started once."""

import pathlib
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np
import pytest

from jaxcompress.export.c99.emit import emit
from jaxcompress.export.c99.kernels import kernels_header, kernels_source
from jaxcompress.export.c99.texts import write_texts
from jaxcompress.quantize import QuantizedModel

OPTIONS = (
  *("-std=c99", "-pedantic", "-O1", "-Wall", "-Wextra", "-Werror", "-Wconversion"),
  *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
MAIN = """#include <stdint.h>
#include <stdio.h>
{declared}
int main(void) {{
  FILE *in, *out;
{calls}
  return 0;
}}
"""
CALL = """
  in = fopen("in{i}", "rb");
  out = fopen("out{i}", "wb");
  while (fread(n{i}_input(), 1, {size}, in) == {size}) {{
    n{i}_run();
{writes}
  }}
  fclose(in);
  fclose(out);
"""


def compute(
  folder: pathlib.Path,
  networks: Sequence[QuantizedModel],
  codes: Sequence[np.ndarray],
  weights: str = "int8",
  ram: int | None = None,
) -> list[dict[str, np.ndarray]]:
  """The outputs of networks in C, by name, for the integers that each reads."""
  declared, calls, functions, structs = [], [], set(), set()
  for i, (quantized, each) in enumerate(zip(networks, codes, strict=True)):
    operations = emit(quantized, weights).operations
    functions |= {emitted.function for emitted in operations}
    structs |= {emitted.params.struct for emitted in operations if emitted.params}
    own = folder / f"n{i}"
    own.mkdir()
    for name, text in write_texts(quantized, name="net", weights=weights, ram=ram).files.items():
      (own / name).write_text(text)
    names = ["input", "run"] + [f"output_{k}" for k in range(len(quantized.graph.outputs))]
    renamed = [f"#define net_{name} n{i}_{name}\n" for name in names]
    (folder / f"n{i}.c").write_text("".join(renamed) + f'#include "n{i}/net.c"\n')
    declared += [f"void *n{i}_input(void);", f"void n{i}_run(void);"]
    writes = []
    for k, (_, tensor) in enumerate(quantized.graph.outputs):
      shape, kind = quantized.graph.shape(tensor), quantized.grids[tensor].dtype
      size = int(np.prod(shape[1:])) * kind.itemsize
      declared.append(f"const void *n{i}_output_{k}(void);")
      writes.append(f"    if (fwrite(n{i}_output_{k}(), 1, {size}, out) != {size}) return 1;")
    (folder / f"in{i}").write_bytes(each.tobytes())
    calls.append(CALL.format(i=i, size=each[0].nbytes, writes="\n".join(writes)))
  (folder / "net_kernels.h").write_text(kernels_header(functions, structs, "net_"))
  source = '#include "net_kernels.h"\n\n' + kernels_source(functions, "net_")
  (folder / "net_kernels.c").write_text(source)
  main = MAIN.format(declared="\n".join(declared), calls="".join(calls))
  (folder / "main.c").write_text(main)
  files = sorted(path.name for path in folder.glob("*.c"))
  subprocess.run(["cc", *OPTIONS, "-o", "program", *files], cwd=folder, check=True)
  subprocess.run(["./program"], cwd=folder, check=True)
  return [
    _outputs(quantized, len(each), (folder / f"out{i}").read_bytes())
    for i, (quantized, each) in enumerate(zip(networks, codes, strict=True))
  ]


def _outputs(quantized: QuantizedModel, count: int, content: bytes) -> dict[str, np.ndarray]:
  rows = np.frombuffer(content, np.uint8).reshape(count, -1)
  found, start = {}, 0
  for name, tensor in quantized.graph.outputs:
    shape, kind = quantized.graph.shape(tensor)[1:], quantized.grids[tensor].dtype
    stop = start + int(np.prod(shape)) * kind.itemsize
    found[name] = np.ascontiguousarray(rows[:, start:stop]).view(kind).reshape(count, *shape)
    start = stop
  return found


@pytest.fixture(scope="session")
def in_c():
  """The function of this file."""
  if shutil.which("cc") is None:
    pytest.skip("there is no C compiler, cc")
  return compute
