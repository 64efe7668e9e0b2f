"""The command that finds the operation of a device whose integers are others."""

import json
from typing import Any

import typer

from jaxcompress.cli.parameters import NEEDED, Argument, Parameter, command


@command(
  model=Argument(
    str, "A packed file (.jcz), a run's folder with one, or a .tflite file of integers.", NEEDED
  ),
  dump=Argument(
    str,
    "What the device printed of the tensors: a .npz file, or a folder of files by their names, .npy or"
    " raw bytes.",
    NEEDED,
  ),
  images=Parameter(
    list[str],
    "Pictures and folders of them that the device read, in the order of the dump, or a .npy file of what"
    " the model takes; where the dump has the input they are compared with it.",
  ),
  kernels=Parameter(
    str,
    "Runtime whose rounding the device should have: xnnpack, reference, tflm or onnxruntime [the model's].",
  ),
  json=Parameter(bool, "Print JSON.", False),
)
def locate(
  model: str, dump: str, images: list[str] | None, kernels: str | None, **given: Any
) -> None:
  """Name the first operation whose integers on a device differ, and the rule that explains them.

  Exit code 0: all that was printed is equal; 1: a fault is located; 2: nothing was compared.
  """
  from rich.console import Console
  from rich.table import Table
  from rich.text import Text

  from jaxcompress import export
  from jaxcompress.export.faults.model import open_model
  from jaxcompress.export.faults.search import as_json
  from jaxcompress.terminal import literal, spelled, waiting

  opened = open_model(model)
  if kernels is not None:
    opened = opened._replace(quantized=opened.quantized.with_kernels(kernels))
  read = _images(images) if images else None
  with waiting(Console(stderr=True), f"evaluating {model}"):
    found = export.locate(opened, dump, read)
  if given["json"]:
    print(json.dumps(as_json(found), indent=2))
  else:
    console, table = Console(), Table(show_header=False, box=None)
    for row in found.rows():
      table.add_row(*(Text(spelled(literal(words), console.encoding)) for words in row))
    console.print(table)
  if not found.is_equal:
    raise typer.Exit(1)


def _images(given: list[str]) -> Any:
  """An array, or the paths of pictures."""
  if len(given) == 1 and given[0].endswith(".npy"):
    import numpy as np

    try:
      return np.load(given[0])
    except (OSError, ValueError) as error:
      raise ValueError(f"images: {given[0]} cannot be read ({error}).") from error
  from rich.console import Console

  from jaxcompress.cli.using import find_pictures

  return find_pictures(given, Console(stderr=True))
