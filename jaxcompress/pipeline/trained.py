"""What is quantized after training: a trained network, and the images that calibrate it and decide."""

import dataclasses
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
from jaxcompress.pipeline.options import QuantizeOptions
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
  size = options.image_size or (saved.image_shape[0] if saved.image_shape else None)
  with waiting(console, f"reading {options.data}"):
    data = datasets.load(options.data, seed=options.seed, size=size)
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
  if saved.preprocess is None:
    say(
      console,
      "the model's file names no preprocessing; that of compress is taken: every image at the same"
      " brightness and contrast",
    )
  preprocess = saved.preprocess or datasets.Preprocess()
  order = np.random.default_rng(options.seed).permutation(len(data.train))
  chosen = np.sort(order[: options.images])
  say(
    console, f"{saved.title} on {data.name}: {len(chosen):,} training images calibrate and decide"
  )
  return Trained(
    saved.module,
    saved.variables,
    preprocess,
    data.train.images[chosen],
    data.train.labels[chosen],
    data.test,
    file_metadata(saved.title, data, preprocess),
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
  normalization = models.normalization_of(source)
  module, variables = models.from_torch(source, options.model)
  preprocess = datasets.Preprocess(
    center=tuple(255 * mean for mean in normalization.mean),
    scale=tuple(255 * std for std in normalization.std),
    per_image=False,
  )
  with waiting(console, f"reading {calibration}"):
    images = datasets.calibration_images(
      calibration,
      size=options.image_size or normalization.size,
      crop=normalization.crop,
      limit=options.images,
      seed=options.seed,
    )
  say(console, f"{source}: {len(images):,} images calibrate and decide")
  metadata = {"source": source, "preprocess": preprocess.to_metadata()}
  return Trained(module, variables, preprocess, images, None, None, metadata)
