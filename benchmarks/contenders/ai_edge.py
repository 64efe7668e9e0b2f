"""ai-edge-quantizer's static int8 recipe, for ``peers_after_training.py``.

``python ai_edge.py FLOAT.tflite IMAGES.npy OUT.tflite static_wi8_ai8`` prints the seconds that it takes.
"""

import json
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def main(source: str, images: str, out: str, method: str) -> None:
  """Quantizes a file and prints a line of JSON."""
  (signature,) = Interpreter(model_path=source).get_signature_list().items()
  key, (reads,) = signature[0], signature[1]["inputs"]
  examples = {key: [{reads: image[None]} for image in np.load(images)]}
  started = time.perf_counter(), time.process_time()
  made = quantizer.Quantizer(source)
  made.load_quantization_recipe(getattr(recipe, method)())
  made.quantize(made.calibrate(examples)).export_model(out, overwrite=True)
  seconds = time.perf_counter() - started[0], time.process_time() - started[1]
  print(json.dumps(dict(zip(("seconds", "processor"), seconds, strict=True))))


if __name__ == "__main__":
  main(*sys.argv[1:])
