"""onnxruntime's ``quantize_static``: QDQ, int8, weights by channel, for ``peers_after_training.py``.

``python onnxruntime_static.py FLOAT.onnx IMAGES.npy OUT.onnx MinMax`` prints the seconds that it takes.
"""

import json
import sys
import time

import numpy as np
from onnxruntime.quantization import (
  CalibrationDataReader,
  CalibrationMethod,
  QuantFormat,
  QuantType,
  quantize_static,
)

BATCH = 16


class Images(CalibrationDataReader):
  """Batches of (N, channels, height, width)."""

  def __init__(self, images: np.ndarray):
    self._batches = iter(np.split(images, range(BATCH, len(images), BATCH)))

  def get_next(self):
    batch = next(self._batches, None)
    return None if batch is None else {"image": batch}


def main(source: str, images: str, out: str, method: str) -> None:
  """Quantizes a file and prints a line of JSON."""
  reader = Images(np.load(images).transpose(0, 3, 1, 2).copy())
  started = time.perf_counter(), time.process_time()
  quantize_static(
    source,
    out,
    reader,
    quant_format=QuantFormat.QDQ,
    per_channel=True,
    activation_type=QuantType.QInt8,
    weight_type=QuantType.QInt8,
    calibrate_method=CalibrationMethod[method],
  )
  seconds = time.perf_counter() - started[0], time.process_time() - started[1]
  print(json.dumps(dict(zip(("seconds", "processor"), seconds, strict=True))))


if __name__ == "__main__":
  main(*sys.argv[1:])
