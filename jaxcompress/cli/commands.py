"""The commands on models that are there: quantize, export, info, bench and lint."""

import pathlib
from typing import Any

import typer

from jaxcompress.cli.parameters import NEEDED, Argument, Parameter, command


@command(
  model=Argument(
    str,
    "A trained model: a .safetensors file of models.save, or OUT/student or OUT/teacher of a"
    " compress run. With --torch there is none.",
    more={"metavar": "MODEL_FILE"},
  ),
  torch=Parameter(str, "Source of a PyTorch checkpoint, such as timm/mobilenetv3_small_100."),
  weights=Parameter(str, "With --torch: its .pth, .pt or .safetensors file."),
  calibration=Parameter(str, "With --torch: a folder of any images, without labels."),
  data=Parameter(str, "As for compress, such as folder:PATH [glyphs]."),
  method=Parameter(str, "auto, or one method, such as minmax, mse, equalize or qdrop.", "auto"),
  bits=Parameter(int, "Bits of the weights, 2 to 8 [8]."),
  max_drop=Parameter(
    float,
    "Largest loss of top-1, a fraction such as 0.01; the search ends at the first method that meets it.",
  ),
  budget=Parameter(str, "Size of the packed weights, such as 300KB; each layer gets its own bits."),
  analyze=Parameter(bool, "Analyze how much each layer loses: a table, a plot and JSON.", False),
  images=Parameter(
    int, "Number of training images for calibration and for the choice of the method.", 1024
  ),
  kernels=Parameter(
    str,
    "Runtime whose rounding is used: xnnpack, reference, tflm or onnxruntime [what runs the file].",
  ),
  image_size=Parameter(int, "Side of the images in pixels [what the model's file says]."),
  seed=Parameter(int, "Random seed of the splits and of the choice of images.", 0),
  out=Parameter(
    str,
    "The integer file: .tflite, .onnx, .stablehlo or .jcz (packed); or a folder of C, NAME_c.",
    "model.tflite",
  ),
  force=Parameter(bool, "Replace files that exist.", False),
)
def quantize(model: Any, torch: Any, weights: Any, data: Any, **given: Any) -> None:
  """Quantize a trained model without training it further, export it, and verify the file.

  The model is one of jaxcompress's, or with --torch a checkpoint of PyTorch's.
  """
  from rich.console import Console

  from jaxcompress import pipeline

  wanted: dict[str, Any] = {"model": model}
  others: dict[str, Any] = {"weights": weights, "calibration": given["calibration"]}
  if torch is not None:
    wanted, others = others, {"model": model, "data": data}
  for name, value in others.items():
    if value is not None:
      beside = "without --torch; name the checkpoint's source"
      raise ValueError(
        f"{name}: {value} is given {beside if torch is None else 'beside --torch; leave it out'}."
      )
  for name, value in wanted.items():
    if value is None:
      needed = "name a file, or a checkpoint with --torch"
      raise ValueError(
        f"{name}: it is missing;"
        f" {needed if torch is None else '--torch needs --weights and --calibration'}."
      )
  options = pipeline.QuantizeOptions(
    model=model or weights, torch=torch, data=data or "glyphs", **given
  )
  keep_compiled_programs()
  pipeline.quantize_model(options, console=Console())


@command(
  model=Argument(
    str,
    "A packed file (.jcz), or a trained model as for quantize, which is quantized first.",
    NEEDED,
    more={"metavar": "CHECKPOINT"},
  ),
  format=Parameter(
    str,
    "Formats between commas: tflite, tflite-uint8, tflite-int4, onnx, stablehlo, packed; c and c-int4,"
    " folders of C99 for microcontrollers, NAME_c; of the network"
    " before it is quantized tflite-float32, tflite-float16, onnx-float32.",
    "tflite",
  ),
  target=Parameter(
    str,
    "Device whose requirements the files meet: xnnpack, tflm, ethos-u or edgetpu for .tflite,"
    " tensorrt for .onnx.",
  ),
  ram=Parameter(
    str,
    "Memory that c may take, such as 64KB: more is computed in patches, at the cost of time [any].",
  ),
  out=Parameter(
    str, "Name of the files, without a suffix; of c alone, the folder [beside CHECKPOINT]."
  ),
  force=Parameter(bool, "Replace files that exist.", False),
  data=Parameter(str, "As for quantize [glyphs]."),
  method=Parameter(str, "As for quantize [auto]."),
  bits=Parameter(int, "As for quantize [8]."),
  images=Parameter(int, "As for quantize [1024]."),
  image_size=Parameter(int, "As for quantize."),
  seed=Parameter(int, "As for quantize [0]."),
)
def export(model: str, format: str, **given: Any) -> None:
  """Write a packed or a trained model in several formats beside each other, and verify the files."""
  from rich.console import Console

  from jaxcompress import pipeline
  from jaxcompress.pipeline.formats import parse_formats

  formats = parse_formats(format)
  keep_compiled_programs()
  given = {name: value for name, value in given.items() if value is not None}
  pipeline.export_model(model, formats, console=Console(), **given)


@command(
  model=Argument(
    str,
    "Name of a model, such as mobilenet_v2, or a trained one: OUT/student or a file of models.save; all"
    " names if left out. `distill`: the losses.",
  ),
  width=Parameter(float, "Width multiplier; without a model, of those that have one."),
  classes=Parameter(int, "Number of classes [1000; 100 for networks made for 32 px]."),
  image_size=Parameter(int, "Side of the images in pixels [what the model is made for]."),
)
def info(model: Any, width: Any, classes: Any, image_size: Any) -> None:
  """Show the sizes of all models, one model layer by layer, or the distillation losses."""
  from rich.console import Console

  from jaxcompress import distill, models
  from jaxcompress.report import tables

  if model == "distill":
    for name, value in {"width": width, "classes": classes, "image_size": image_size}.items():
      if value is not None:
        raise ValueError(f"{name}: {value} is an option of models, not of losses; leave it out.")
    Console().print(tables.loss_table(distill.DISTILLERS))
    return

  if image_size is not None and image_size < 1:
    raise ValueError(f"image_size: {image_size} must be at least 1.")

  def summarize(name: str, options: dict) -> models.Summary:
    options = options if classes is None else {**options, "num_classes": classes}
    return models.summarize(models.create(name, **options), image_size)

  options = {} if width is None else {"width": width}
  if model is not None and model not in models.MODELS and pathlib.Path(model).exists():
    summary = _summary_of_saved(model, width, classes, image_size)
    table = tables.layer_table(summary.graph, summary.variables["params"], title=model)
  elif model is not None:
    if len(pathlib.Path(model).parts) > 1:
      raise ValueError(f"model: {model} does not exist; give a file, a run's folder, or a name.")
    summary = summarize(model, options)
    table = tables.layer_table(summary.graph, summary.variables["params"], title=model)
  else:
    table = tables.model_table(
      {
        name: summarize(name, options if "width" in models.options_of(name) else {})
        for name in models.MODELS
      }
    )
  Console().print(table)


def _summary_of_saved(model: str, width: Any, classes: Any, image_size: Any) -> Any:
  """The summary of a trained network that lies in a folder or a file."""
  from jaxcompress import models
  from jaxcompress.nn.operations import count_parameters
  from jaxcompress.pipeline.networks import network_of, read_network

  for name, value in {"width": width, "classes": classes}.items():
    if value is not None:
      raise ValueError(f"{name}: {value} is an option of models by name; leave it out.")
  if model.endswith(".tflite"):
    raise ValueError(
      f"model: {model} is an exported file; `jaxcompress explain` lists its operators."
    )
  saved = read_network(model)
  if saved.image_shape is None:  # it was written without; colour or grey is seen by its parameters
    count = count_parameters(saved.variables["params"])
    tried = (models.summarize(saved.module, image_size, channels) for channels in (3, 1))
    return next(summary for summary in tried if summary.parameters == count)
  if image_size is not None:
    return models.summarize(saved.module, image_size, saved.image_shape[2])
  return network_of(saved.title, None, saved.module, saved.image_shape).summary


@command(
  files=Argument(list[str], ".tflite and .onnx files.", NEEDED),
  threads=Parameter(int, "Threads that the runtimes compute on.", 1),
  repeats=Parameter(int, "Timed runs of each file.", 200),
)
def bench(files: list[str], threads: int, repeats: int) -> None:
  """Time model files side by side in their runtimes, one image at a time."""
  from rich.console import Console

  from jaxcompress import export
  from jaxcompress.report import tables

  found = {file: export.benchmark(file, threads=threads, repeats=repeats) for file in files}
  Console().print(tables.latency_table(found, threads))


@command(
  file=Argument(str, "A .tflite file; an .onnx file for tensorrt.", NEEDED),
  target=Parameter(str, "xnnpack, tflm, ethos-u, edgetpu or tensorrt.", "xnnpack"),
)
def lint(file: str, target: str) -> None:
  """Check a model file against what a device or its compiler asks; exit code 1 if it breaks that."""
  from rich.console import Console

  from jaxcompress import export
  from jaxcompress.report import tables
  from jaxcompress.terminal import say

  findings = export.lint(file, target)
  console = Console()
  if findings:
    console.print(tables.finding_table(findings))
  errors = sum(finding.severity == "error" for finding in findings)
  warnings = len(findings) - errors
  say(console, f"{file} for {target}: errors {errors}, warnings {warnings}")
  if errors:
    raise typer.Exit(1)


def keep_compiled_programs() -> None:
  """Lets later runs, and resumed ones, find what this one compiles; the environment may differ."""
  import jax

  from jaxcompress.data.storage import cache_folder

  folder = cache_folder()
  if folder is not None and jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
