"""The commands on models that are there: quantize, export, info, bench and lint."""

from typing import Annotated, Any

import typer


def quantize(
  context: typer.Context,
  model: Annotated[
    str | None,
    typer.Argument(
      metavar="MODEL_FILE",
      help="A trained model: a .safetensors file of models.save, or OUT/student or OUT/teacher of"
      " a compress run. With --torch there is none.",
    ),
  ] = None,
  torch: Annotated[
    str | None,
    typer.Option(help="Source of a PyTorch checkpoint, such as timm/mobilenetv3_small_100."),
  ] = None,
  weights: Annotated[
    str | None, typer.Option(help="With --torch: its .pth, .pt or .safetensors file.")
  ] = None,
  calibration: Annotated[
    str | None, typer.Option(help="With --torch: a folder of any images, without labels.")
  ] = None,
  data: Annotated[
    str | None,
    typer.Option(help="glyphs, digits, tfds:NAME or folder:PATH, as for compress [glyphs]."),
  ] = None,
  method: Annotated[
    str, typer.Option(help="auto, or one method, such as minmax, mse, equalize or adaround.")
  ] = "auto",
  bits: Annotated[int | None, typer.Option(help="Bits of the weights, 2 to 8 [8].")] = None,
  max_drop: Annotated[
    float | None,
    typer.Option(help="Largest loss of top-1, a share; stops at the first method that meets it."),
  ] = None,
  budget: Annotated[
    str | None,
    typer.Option(help="Size of the packed weights, such as 300KB; each layer gets its own bits."),
  ] = None,
  analyze: Annotated[
    bool,
    typer.Option("--analyze", help="Say which layers lose how much, in a table, plot and JSON."),
  ] = False,
  images: Annotated[int, typer.Option(help="Training images that calibrate and decide.")] = 1024,
  kernels: Annotated[
    str | None,
    typer.Option(
      help="Runtime whose rounding it is: xnnpack, reference, tflm or onnxruntime [what runs the file]."
    ),
  ] = None,
  image_size: Annotated[
    int | None, typer.Option(help="Side of the images in pixels [what the model's file says].")
  ] = None,
  seed: Annotated[int, typer.Option(help="Of the data and the choice of images.")] = 0,
  out: Annotated[
    str, typer.Option(help="The integer file: .tflite, .onnx, .stablehlo or .jcz (packed).")
  ] = "model.tflite",
  force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
) -> None:
  """Quantize a trained model without training it further, export it, and verify the file.

  The model is one of jaxcompress's, or with --torch a checkpoint of PyTorch's.
  """
  from rich.console import Console

  from jaxcompress import pipeline

  wanted: dict[str, Any] = {"model": model}
  others: dict[str, Any] = {"weights": weights, "calibration": calibration}
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
        f"{name}: none is given;"
        f" {needed if torch is None else '--torch needs --weights and --calibration'}."
      )
  given = {name: value for name, value in context.params.items() if name != "weights"}
  options = {**given, "model": model or weights, "data": data or "glyphs"}
  keep_compiled_programs()
  pipeline.quantize_model(pipeline.QuantizeOptions(**options), console=Console())


def export(
  context: typer.Context,
  model: Annotated[
    str,
    typer.Argument(
      metavar="CHECKPOINT",
      help="A packed file (.jcz), or a trained model as for quantize, which is quantized first.",
    ),
  ],
  format: Annotated[
    str,
    typer.Option(
      help="Formats between commas: tflite, tflite-int4, onnx, stablehlo, packed; of the network"
      " before it is quantized tflite-float32, tflite-float16, onnx-float32."
    ),
  ] = "tflite",
  target: Annotated[
    str | None,
    typer.Option(
      help="Device whose rules the files obey: xnnpack, tflm, ethos-u or edgetpu for .tflite,"
      " tensorrt for .onnx."
    ),
  ] = None,
  out: Annotated[
    str | None, typer.Option(help="Name of the files, without a suffix [beside CHECKPOINT].")
  ] = None,
  force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
  data: Annotated[str | None, typer.Option(help="As for quantize [glyphs].")] = None,
  method: Annotated[str | None, typer.Option(help="As for quantize [auto].")] = None,
  bits: Annotated[int | None, typer.Option(help="As for quantize [8].")] = None,
  images: Annotated[int | None, typer.Option(help="As for quantize [1024].")] = None,
  image_size: Annotated[int | None, typer.Option(help="As for quantize.")] = None,
  seed: Annotated[int | None, typer.Option(help="As for quantize [0].")] = None,
) -> None:
  """Write a packed or a trained model in several formats beside each other, and verify the files."""
  from rich.console import Console

  from jaxcompress import pipeline
  from jaxcompress.pipeline.formats import parse_formats

  own = ("model", "format", "out", "force", "target")
  given = {
    name: value for name, value in context.params.items() if name not in own and value is not None
  }
  formats = parse_formats(format)
  keep_compiled_programs()
  pipeline.export_model(
    model, formats, out=out, force=force, target=target, console=Console(), **given
  )


def info(
  model: Annotated[
    str | None,
    typer.Argument(
      help="Name of a model, such as mobilenet_v2; all of them if left out. `distill`: the losses."
    ),
  ] = None,
  width: Annotated[
    float | None, typer.Option(help="Width multiplier; without a model, of those that have one.")
  ] = None,
  classes: Annotated[
    int | None, typer.Option(help="Number of classes [1000; 100 for networks made for 32 px].")
  ] = None,
  image_size: Annotated[
    int | None, typer.Option(help="Side of the images in pixels [what the model is made for].")
  ] = None,
) -> None:
  """Show the sizes of all models, one model layer by layer, or the distillation losses."""
  from rich.console import Console

  from jaxcompress import distill, models
  from jaxcompress.report import tables

  if model == "distill":
    Console().print(tables.loss_table(distill.DISTILLERS))
    return

  if image_size is not None and image_size < 1:
    raise ValueError(f"image_size: {image_size} must be at least 1.")

  def summarize(name: str, options: dict) -> models.Summary:
    options = options if classes is None else {**options, "num_classes": classes}
    return models.summarize(models.create(name, **options), image_size)

  options = {} if width is None else {"width": width}
  if model is not None:
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


def bench(
  files: Annotated[list[str], typer.Argument(help=".tflite and .onnx files.")],
  threads: Annotated[int, typer.Option(help="Threads that the runtimes compute on.")] = 1,
  repeats: Annotated[int, typer.Option(help="Timed runs of each file.")] = 200,
) -> None:
  """Time model files side by side in their runtimes, one image at a time."""
  from rich.console import Console

  from jaxcompress import export
  from jaxcompress.report import tables

  found = {file: export.benchmark(file, threads=threads, repeats=repeats) for file in files}
  Console().print(tables.latency_table(found, threads))


def lint(
  file: Annotated[str, typer.Argument(help="A .tflite file; an .onnx file for tensorrt.")],
  target: Annotated[
    str, typer.Option(help="xnnpack, tflm, ethos-u, edgetpu or tensorrt.")
  ] = "xnnpack",
) -> None:
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
