"""Every tensor of a network from its name, shape and kind, so that no checkpoint is shipped.

The same name, shape, kind and seed give the same array under every version of NumPy.
"""

import functools
import gzip
import json
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
PARTS = ("", "newer_", "attention_")  # of the files, by what their names begin with


def generator(name: str, seed: int) -> np.random.RandomState:
  """The stream of numbers that belongs to a tensor's name."""
  return np.random.RandomState((zlib.crc32(name.encode()) ^ (seed * 2654435761)) & 0xFFFFFFFF)


def make(name: str, shape: tuple, kind: str, scale: float = 1.0, seed: int = 0) -> np.ndarray:
  """One tensor; ``scale``, the variance of a BatchNorm's inputs, keeps activations near 1."""
  normal, uniform = (stream := generator(name, seed)).standard_normal, stream.random_sample
  match kind:
    case "conv":
      array = normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    case "query":  # of queries and keys, so that no softmax is so sharp that it amplifies rounding
      array = normal(shape) * np.sqrt(0.5 / np.prod(shape[1:]))
    case "linear":
      array = normal(shape) * np.sqrt(1.0 / shape[1])
    case "bias":
      array = 0.1 * normal(shape)
    case "bn_gamma":
      array = 0.5 + uniform(shape)
    case "layer_scale":  # so small that residuals do not amplify rounding
      array = 0.1 + 0.2 * uniform(shape)
    case "bn_beta":
      array = 0.2 * normal(shape)
    case "bn_mean":
      array = 0.2 * np.sqrt(scale) * normal(shape)
    case "bn_var":  # between scale / 5 and 4 * scale: small enough for epsilon to matter
      array = scale * np.exp(np.log(0.2) + uniform(shape) * np.log(20.0))
    case "nbt":
      return np.array(1, np.int64)
    case _:
      raise ValueError(f"kind: unknown kind {kind!r} of tensor {name!r}; see the cases above.")
  return np.asarray(array, np.float32)


@functools.cache
def image(size: int, seed: int = 1, batch: int = 2) -> np.ndarray:
  """NCHW images, blocks and noise, in which padding, borders and order in the batch show."""
  stream = np.random.RandomState(seed)
  blocks = stream.standard_normal((batch, 3, 5, 5))
  index = np.arange(size) * 5 // size
  noise = 0.5 * stream.standard_normal((batch, 3, size, size))
  return _fixed((blocks[:, :, index][:, :, :, index] + noise).astype(np.float32))


@functools.cache
def specs(*parts: str) -> dict[str, list]:
  """Of every source, the rows (name, shape, kind) or (name, shape, kind, scale)."""
  files = [FOLDER / f"{part}specs.json.gz" for part in parts or PARTS]
  texts = [gzip.decompress(file.read_bytes()) for file in files]
  return {name: rows for text in texts for name, rows in json.loads(text).items()}


@functools.lru_cache(maxsize=2)  # the largest takes 130 MB
def _tensors(source: str, seed: int) -> dict[str, np.ndarray]:
  return {
    name: _fixed(make(name, tuple(shape), kind, *scale, seed=seed))
    for name, shape, kind, *scale in specs()[source]
  }


def state_dict(source: str, seed: int = 0) -> dict[str, np.ndarray]:
  """A PyTorch-style state dict: OIHW kernels, (out, in) linears, BatchNorm statistics."""
  return dict(_tensors(source, seed))


@functools.cache
def outputs() -> dict[str, np.ndarray]:
  """Reads the outputs of the original networks; the README names the keys."""
  found = {}
  for part in PARTS:
    with np.load(FOLDER / f"{part}outputs.npz") as file:
      found |= {key: _fixed(array) for key, array in file.items()}
  return found


def _fixed(array: np.ndarray) -> np.ndarray:
  array.flags.writeable = False
  return array
