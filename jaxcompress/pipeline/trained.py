"""Inputs of post-training quantization: a trained network, calibration and validation images."""

import dataclasses
import warnings
from typing import Any

import flax.linen as nn
import numpy as np
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import models, quantize, training
from jaxcompress.nn import fold, fuse_activations
from jaxcompress.pipeline.context import EVAL_BATCH, file_metadata
from jaxcompress.pipeline.formats import FloatNetwork
from jaxcompress.pipeline.networks import read_network
from jaxcompress.pipeline.quantize_options import QuantizeOptions
from jaxcompress.terminal import say, waiting

SYMMETRIC = "tensorrt"  # the target whose activations have no zero points


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A network, and the images that calibrate it and, with labels, decide.

  Attributes:
    test: labelled images, or None.
    metadata: of its files.
  """

  module: nn.Module
  variables: Any
  preprocess: datasets.Preprocess
  images: np.ndarray
  labels: np.ndarray | None
  test: datasets.Split | None
  metadata: dict[str, Any]

  def in_float(self) -> FloatNetwork:
    """The network as it is."""
    graph = models.summarize(self.module, self.images.shape[1], self.images.shape[-1]).graph
    return FloatNetwork(graph, fold(fuse_activations(graph), self.variables))

  def quantized(
    self, options: QuantizeOptions, method: str, **asked: Any
  ) -> quantize.QuantizedModel:
    """The integer network of post-training quantization."""
    return quantize.post_training(
      self.module,
      self.variables,
      self.images,
      labels=self.labels,
      method=method,
      preprocess=self.preprocess,
      kernels=options.runtime,
      symmetric=options.target == SYMMETRIC,
      seed=options.seed,
      **asked,
    )

  def top1(self, test: datasets.Split) -> float:
    """Share of test images that the network gets right as it is."""
    batches = datasets.eval_batches(test, min(EVAL_BATCH, len(test)))
    found = training.evaluate(self.module, self.variables, batches, preprocess=self.preprocess)
    return found["top1"]


def read_trained(options: QuantizeOptions, console: Console) -> Trained:
  """Reads a model of ours with the images of a data set.

  Args:
    options: of the run.
    console: what was found goes here.

  Raises:
    ValueError: if the model or the data cannot be read, or do not fit together.
  """
  saved = read_network(options.model)
  _check_classifier(saved.module, options.model)
  size = options.image_size or (saved.image_shape[0] if saved.image_shape else None)
  with waiting(console, f"reading {options.data}"):
    data = datasets.load(options.data, seed=options.seed, size=size, reader=saved.reader)
  for note in data.notes:
    say(console, note)
  if saved.classes is not None and saved.classes != data.classes:
    raise ValueError(
      f"data: {options.data} has {len(data.classes)} classes ({', '.join(data.classes[:3])}, ...) and"
      f" the model knows {len(saved.classes)} ({', '.join(saved.classes[:3])}, ...); name the data"
      " that it was trained on, or other data with the same classes."
    )
  wanted = saved.module.num_classes
  if wanted != len(data.classes):
    raise ValueError(
      f"data: {options.data} has {len(data.classes)} classes and the model {wanted} logits; they must"
      " be as many."
    )
  if len(data.test) == 0:
    raise ValueError(f"data: {options.data} has no test images; give it more images.")
  if saved.reader is None:
    say(
      console,
      "the model's file names no preprocessing; that of compress is taken: every image at the same"
      " brightness and contrast",
    )
  order = np.random.default_rng(options.seed).permutation(len(data.train))
  chosen = np.sort(order[: options.images])
  say(
    console,
    f"{saved.title} on {data.name}: {len(chosen):,} training images for calibration and choice",
  )
  return Trained(
    saved.module,
    saved.variables,
    data.reader.preprocess,
    data.train.images[chosen],
    data.train.labels[chosen],
    data.test,
    file_metadata(saved.title, data),
  )


def _check_classifier(module: nn.Module, model: Any) -> None:
  """Raises if a network gives something else than scores of classes."""
  graph = models.summarize(module).graph
  shapes = {name: graph.shape(tensor)[1:] for name, tensor in graph.outputs}
  if [len(shape) for shape in shapes.values()] != [1]:
    listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    raise ValueError(
      f"model: {model} gives {listed}; this command takes networks of one output, the scores of"
      " classes. From Python quantize.post_training and export.tflite take any."
    )


def read_torch(options: QuantizeOptions, console: Console) -> Trained:
  """Reads a checkpoint of PyTorch's with images that have no labels.

  Args:
    options: of the run.
    console: what was found goes here.

  Raises:
    ValueError: if the source is unknown, or the checkpoint or an image cannot be read.
  """
  source, calibration = options.torch or "", options.calibration or ""
  reader = datasets.ImageReader.of_source(source)
  module, variables = models.from_torch(source, options.model)
  if options.image_size is not None:
    reader = reader.at(options.image_size)
  with waiting(console, f"reading {calibration}"), warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always", UserWarning)
    images = datasets.calibration_images(
      calibration, reader, limit=options.images, seed=options.seed
    )
  for one in told:
    say(console, str(one.message))
  say(console, f"{source}: {len(images):,} images for calibration and choice")
  metadata = {"source": source, **reader.to_metadata()}
  return Trained(module, variables, reader.preprocess, images, None, None, metadata)
