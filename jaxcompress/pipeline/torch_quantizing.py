"""The run behind ``jaxcompress quantize --torch``: a PyTorch checkpoint becomes an integer file."""

import dataclasses
import pathlib

from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export, models, quantize, report
from jaxcompress.pipeline.formats import check_free, require_formats, write_all
from jaxcompress.pipeline.quantize_options import QuantizeOptions
from jaxcompress.pipeline.quantizing import describe_file
from jaxcompress.terminal import say, waiting

VERIFIED = 32  # calibration images that the file itself is run on


@dataclasses.dataclass(frozen=True, eq=False)
class FromTorch:
  """What came of a run.

  Attributes:
    model: the integer network.
    trials: methods that were tried; scores are shares of the images on which the float network
      decides alike.
    verification: of the file; None if no runtime runs it, or it is not installed.
    path: of the file.
  """

  model: quantize.QuantizedModel
  trials: tuple[quantize.Trial, ...]
  verification: export.Verification | None
  path: pathlib.Path


def quantize_torch(
  source: str, calibration: str, options: QuantizeOptions, *, console: Console | None = None
) -> FromTorch:
  """Quantizes a PyTorch checkpoint on images without labels, and writes the file.

  The images are resized, cropped and normalized as those that the source's original was trained on.

  Args:
    source: as in :func:`jaxcompress.models.from_torch`, such as ``"timm/mobilenetv3_small_100"``.
    calibration: a folder of images.
    options: as for :func:`~jaxcompress.pipeline.quantize_model`; its ``model`` is the checkpoint,
      and what needs labels is refused.
    console: tables and what was found go here.

  Returns:
    A :class:`FromTorch`.

  Raises:
    ValueError: if the source or how it prepares images is not known, the checkpoint or an image
      cannot be read, a file exists, or a drop cannot be met; nothing is written then.

  Examples:
    ``jaxcompress quantize --torch timm/mobilenetv3_small_100 --weights FILE --calibration FOLDER``
    runs it.
  """
  console = console or Console(stderr=True)
  for name, given in (("budget", options.budget), ("analyze", options.analyze or None)):
    if given is not None:
      raise ValueError(f"{name}: {given} needs labelled images; save the model and quantize that.")
  normalization = models.normalization_of(source)
  require_formats(options.models)
  check_free(options.models, force=options.force)
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
  model, trials = quantize.search(
    module,
    variables,
    images,
    method=options.method,
    bits=options.bits or 8,
    max_drop=options.max_drop,
    preprocess=preprocess,
    kernels=options.runtime,
    seed=options.seed,
  )
  kept = max(trials, key=lambda trial: (trial.score, trial.sqnr)).name
  console.print(report.trial_table(trials, labels=False, kept=kept))
  metadata = {"source": source, "preprocess": preprocess.to_metadata()}
  write_all(model, options.models, metadata)
  path = options.files["model"]
  verification = describe_file(model, path, images[:VERIFIED], console)
  return FromTorch(model, trials, verification, path)
