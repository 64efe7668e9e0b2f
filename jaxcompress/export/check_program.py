"""The program that computes a certificate's hashes with LiteRT, NumPy and hashlib alone."""

import json
import os
from collections.abc import Mapping, Sequence

from jaxcompress.export.certificate import EQUAL, INPUTS_FILE, Certificate
from jaxcompress.export.certifying import as_paths
from jaxcompress.export.pixels import check_input, is_shift
from jaxcompress.export.runtime import Runtime
from jaxcompress.quantize import QuantizedModel

FEEDS = {  # of integers, by what a file reads
  "codes": "part",
  "uint8": "(part.astype(np.int16) + 128).astype(np.uint8)",
  "float32": "(part.astype(np.float32) - {zero_point}) * np.float32({scale!r})",
}
LOGITS = {"codes": "x", "uint8": "(x.astype(np.int16) - 128).astype(np.int8)"}
PROGRAM = '''\
"""Prints the SHA-256 of the logits of a model file on inputs.npy: python check.py {file}"""

import hashlib
import pathlib
import sys

import numpy as np

try:
  from ai_edge_litert.interpreter import Interpreter
except ImportError:
  from tflite_runtime.interpreter import Interpreter

KNOWN = {{
{known}
}}
codes = np.load(pathlib.Path(__file__).with_name("inputs.npy"))
model = Interpreter(sys.argv[1] if sys.argv[1:] else sys.exit(__doc__))
model.allocate_tensors()
source, ends = model.get_input_details()[0], model.get_output_details()
size, found = source["shape"][0], []
for start in range(0, len(codes), size):
  part = codes[np.arange(start, start + size).clip(max=len(codes) - 1)]
  model.set_tensor(source["index"], {feed})
  model.invoke()
  found.append([model.get_tensor(end["index"]) for end in ends])
outputs = [np.concatenate(parts)[: len(codes)] for parts in zip(*found)]
contents = [pathlib.Path(sys.argv[1]).read_bytes(), codes.tobytes()]
contents += [{logits}.tobytes() for x in outputs]
sums = [hashlib.sha256(content).hexdigest() for content in contents]
for name, found in zip({names}, sums):
  print(name, found, KNOWN.get(found, "DIFFERS from the certificate"))
sys.exit(not set(sums) <= set(KNOWN))
'''


def program_of(
  certificate: Certificate,
  paths: Sequence[str | os.PathLike] | str | os.PathLike,
  quantized: QuantizedModel,
) -> str | None:
  """A program that checks a certificate with LiteRT and NumPy alone, on a phone.

  Args:
    certificate: of the files.
    paths: the files; the first .tflite file that reads the certificate's integers is taken.
    quantized: the model that they were written from.

  Returns:
    Python source for beside ``inputs.npy``; None where there is no such file.
  """
  for path in as_paths(paths):
    if path.suffix.lower() != ".tflite" or path.is_dir():
      continue
    runtime = Runtime(path)
    reads = (
      "codes" if runtime.input_dtype.name == certificate.images.dtype else runtime.input_dtype.name
    )
    gives = {dtype.name for dtype in runtime.output_dtypes.values()}
    table = check_input(quantized, "uint8") if reads == "uint8" else None
    if table is not None and not is_shift(table):
      continue
    order = sorted(runtime.output_places, key=lambda name: runtime.output_places[name])
    if len(order) == 1:  # files of others call theirs as they like
      order = list(certificate.outputs)
    known = {certificate.model[path.name]: EQUAL, certificate.images.sha256: EQUAL}
    rules: dict[str, list[str]] = {}
    for rule, exact in certificate.exact.items():
      if rule.startswith(("xnnpack", "reference")):
        for name in order:
          rules.setdefault(exact.sha256[name], []).append(rule)
    known |= {
      digest: f"equal, by the rules of {', '.join(names)}" for digest, names in rules.items()
    }
    return check_program(
      path.name,
      known,
      order,
      reads=reads,
      gives="uint8" if gives == {"uint8"} else "codes",
      scale=certificate.images.scale,
      zero_point=certificate.images.zero_point,
    )
  return None


def check_program(
  file: str,
  known: Mapping[str, str],
  outputs: Sequence[str],
  *,
  reads: str = "codes",
  gives: str = "codes",
  scale: float = 1.0,
  zero_point: int = 0,
) -> str:
  """Python that runs a .tflite file on ``inputs.npy`` and prints hashes, with nothing of jaxcompress.

  Args:
    file: name of the file.
    known: words for each hash that is right: of the file, the images and the outputs.
    outputs: their names, in the file's order.
    reads: what the file reads: ``"codes"``, ``"uint8"`` or ``"float32"``.
    gives: what it gives: ``"codes"`` or ``"uint8"``.
    scale: of the images' integers, for a file that reads float32.
    zero_point: likewise.

  Returns:
    Its source. The program ends with exit code 0 if all hashes are known, otherwise 1.

  Examples:
    >>> text = check_program("a.tflite", {"22": "equal: logits by the rules of xnnpack"}, ["logits"])
    >>> [line for line in text.splitlines() if "22" in line]
    ['  "22": "equal: logits by the rules of xnnpack",']
  """
  return PROGRAM.format(
    file=file,
    known="\n".join(f"  {_string(one)}: {_string(words)}," for one, words in known.items()),
    feed=FEEDS[reads].format(scale=scale, zero_point=zero_point),
    logits=LOGITS[gives],
    names=f"[{', '.join(map(_string, (file, INPUTS_FILE, *outputs)))}]",
  )


def _string(text: str) -> str:
  """A double-quoted Python string; JSON's escapes are Python's."""
  return json.dumps(text, ensure_ascii=False)
