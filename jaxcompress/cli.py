"""The command line: ``compress``, ``quantize``, ``export``, ``bench``, ``lint`` and ``info``."""

import os
import pathlib
import shlex
import sys
from typing import Annotated

import typer

app = typer.Typer(
  help="Small vision models for the edge: distilled, quantized and written to an integer file"
  " whose logits on the device are bit for bit those computed here.",
  no_args_is_help=True,
  add_completion=False,
  pretty_exceptions_enable=False,
  rich_markup_mode=None,
)

Width = Annotated[float | None, typer.Option(help="Width multiplier of the student [0.25].")]


@app.command()
def compress(
  preset: Annotated[
    str | None,
    typer.Option(
      help="A published protocol, such as crd-cifar100: data, networks, losses and schedule; other"
      " options change it [default]."
    ),
  ] = None,
  data: Annotated[
    str | None,
    typer.Option(
      help="glyphs (built in), digits (handwriting), tfds:NAME, or folder:PATH with one folder of"
      " PNG or JPEG images per class [glyphs]."
    ),
  ] = None,
  student: Annotated[str | None, typer.Option(help="The small model [mobilenet_v2].")] = None,
  width: Width = None,
  teacher: Annotated[str | None, typer.Option(help="The large model [mobilenet_v2].")] = None,
  teacher_width: Annotated[
    float | None, typer.Option(help="Width multiplier of the teacher [0.75].")
  ] = None,
  teacher_checkpoint: Annotated[
    str | None, typer.Option(help="A trained teacher: OUT/teacher of an earlier run.")
  ] = None,
  distill: Annotated[
    str | None,
    typer.Option(
      help="Losses and weights, such as kd:0.9,crd:0.8; `jaxcompress info distill` lists them [kd]."
    ),
  ] = None,
  bits: Annotated[int | None, typer.Option(help="Bits of the weights, 2 to 8 [8].")] = None,
  epochs: Annotated[
    float | None,
    typer.Option(
      help="Passes over the training images, each for teacher and student [1000 steps; small sets: 25]."
    ),
  ] = None,
  batch_size: Annotated[int | None, typer.Option(help="Images per step [64].")] = None,
  image_size: Annotated[
    int | None, typer.Option(help="Side in pixels to which a folder's images are brought.")
  ] = None,
  seed: Annotated[int | None, typer.Option(help="Of everything that is random [0].")] = None,
  out: Annotated[
    str | None, typer.Option(help="Output folder [jaxcompress-out, or the next free number].")
  ] = None,
  resume: Annotated[
    bool, typer.Option("--resume", help="Go on with the run in the output folder.")
  ] = False,
  max_size: Annotated[
    str | None,
    typer.Option(
      help="Bytes that the packed file may take, such as 300KB: students of several widths, with"
      " channels removed and bits chosen by layer, are tried."
    ),
  ] = None,
  max_macs: Annotated[
    str | None, typer.Option(help="Multiply-adds that an image may take, such as 10M; likewise.")
  ] = None,
  max_latency_ms: Annotated[
    float | None,
    typer.Option(help="Milliseconds an image may take in LiteRT on one thread here; likewise."),
  ] = None,
  quick: Annotated[
    bool, typer.Option("--quick", help="Less data and fewer steps, to see that it works.")
  ] = False,
) -> None:
  """Train a teacher and a student, distil, quantize, export, verify, and write a report.

  Needs nothing: without options it learns to read a built-in set of glyphs in a few minutes.
  """
  from rich.console import Console

  from jaxcompress import pipeline, report

  given = {
    "preset": preset,
    "data": data,
    "student": student,
    "width": width,
    "teacher": teacher,
    "teacher_width": teacher_width,
    "teacher_checkpoint": teacher_checkpoint and str(pathlib.Path(teacher_checkpoint).absolute()),
    "distill": distill,
    "bits": bits,
    "epochs": epochs,
    "batch_size": batch_size,
    "image_size": image_size,
    "seed": seed,
    "quick": quick or None,
    "max_size": max_size,
    "max_macs": max_macs,
    "max_latency_ms": max_latency_ms,
  }
  _keep_compiled_programs()
  console = Console()
  folder, options = pipeline.claim_folder(out, given, resume=resume)
  command = shlex.join(["jaxcompress", *sys.argv[1:]])
  try:
    results = pipeline.compress(options, folder, command=command, console=console)
  except ValueError:
    pipeline.release_folder(folder)
    raise
  console.print(report.result_table(results))
  console.print(f"report: {folder / 'report.html'}   model: {folder / 'student.tflite'}")


@app.command()
def quantize(
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

  file = _checkpoint(model, data, torch, weights, calibration)
  options = pipeline.QuantizeOptions(
    model=file,
    data=data or "glyphs",
    method=method,
    bits=bits,
    max_drop=max_drop,
    budget=budget,
    images=images,
    kernels=kernels,
    image_size=image_size,
    analyze=analyze,
    out=out,
    force=force,
    seed=seed,
  )
  _keep_compiled_programs()
  if torch is None:
    pipeline.quantize_model(options, console=Console())
  else:
    pipeline.quantize_torch(torch, calibration, options, console=Console())


@app.command()
def export(
  model: Annotated[
    str,
    typer.Argument(
      metavar="CHECKPOINT",
      help="A packed file (.jcz), or a trained model as for quantize, which is quantized first.",
    ),
  ],
  format: Annotated[
    str, typer.Option(help="Formats between commas: tflite, onnx, stablehlo, packed.")
  ] = "tflite",
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

  given = {
    "data": data,
    "method": method,
    "bits": bits,
    "images": images,
    "image_size": image_size,
    "seed": seed,
  }
  options = pipeline.ExportOptions(
    model=model,
    formats=pipeline.parse_formats(format),
    out=out,
    force=force,
    quantize={name: value for name, value in given.items() if value is not None},
  )
  _keep_compiled_programs()
  pipeline.export_model(options, console=Console())


@app.command()
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

  from jaxcompress import distill, models, report

  if model == "distill":
    Console().print(report.method_table(distill.METHODS))
    return

  if image_size is not None and image_size < 1:
    raise ValueError(f"image_size: {image_size} must be at least 1.")

  def summarize(name: str, options: dict) -> models.Summary:
    options = options if classes is None else {**options, "num_classes": classes}
    return models.summarize(models.create(name, **options), image_size)

  options = {} if width is None else {"width": width}
  if model is not None:
    summary = summarize(model, options)
    table = report.layer_table(summary.graph, summary.variables["params"], title=model)
  else:
    table = report.model_table(
      {
        name: summarize(name, options if "width" in models.options_of(name) else {})
        for name in models.MODELS
      }
    )
  Console().print(table)


@app.command()
def bench(
  files: Annotated[list[str], typer.Argument(help=".tflite and .onnx files.")],
  threads: Annotated[int, typer.Option(help="Threads that the runtimes compute on.")] = 1,
  repeats: Annotated[int, typer.Option(help="Timed runs of each file.")] = 200,
) -> None:
  """Time model files side by side in their runtimes, one image at a time."""
  from rich.console import Console

  from jaxcompress import export, report

  found = {file: export.benchmark(file, threads=threads, repeats=repeats) for file in files}
  Console().print(report.latency_table(found, threads))


@app.command()
def lint(
  file: Annotated[str, typer.Argument(help="A .tflite file; an .onnx file for tensorrt.")],
  target: Annotated[
    str, typer.Option(help="xnnpack, tflm, ethos-u, edgetpu or tensorrt.")
  ] = "xnnpack",
) -> None:
  """Check a model file against what a device or its compiler asks; exit code 1 if it breaks that."""
  from rich.console import Console

  from jaxcompress import export, report

  findings = export.lint(file, target)
  console = Console()
  if findings:
    console.print(report.finding_table(findings))
  errors = sum(finding.severity == "error" for finding in findings)
  warnings = len(findings) - errors
  console.print(f"{file} for {target}: errors {errors}, warnings {warnings}", soft_wrap=True)
  if errors:
    raise typer.Exit(1)


def _checkpoint(
  model: str | None,
  data: str | None,
  torch: str | None,
  weights: str | None,
  calibration: str | None,
) -> str:
  """The file that is quantized; what is given for it must fit together."""
  others = {"weights": weights, "calibration": calibration}
  if torch is None:
    for name, value in others.items():
      if value is not None:
        raise ValueError(f"{name}: {value} is given without --torch; name the checkpoint's source.")
    if model is None:
      raise ValueError("model: none is given; name a file, or a checkpoint with --torch.")
    return model
  for name, value in others.items():
    if value is None:
      raise ValueError(f"{name}: none is given; --torch needs --weights and --calibration.")
  for name, value in {"model": model, "data": data}.items():
    if value is not None:
      raise ValueError(f"{name}: {value} is given beside --torch; leave it out.")
  return weights


def _keep_compiled_programs() -> None:
  """Lets later runs, and resumed ones, find what this one compiles; the environment may differ."""
  import jax

  from jaxcompress.data.cache import cache_folder

  folder = cache_folder()
  if folder is not None and jax.config.jax_compilation_cache_dir is None:
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))


def start() -> None:
  """The program's entry: once more with huge pages where glibc has them, then :func:`main`.

  JAX frees and takes hundreds of megabytes at each step; with ordinary pages a third of a step on
  CPU goes into page faults. A process cannot change this about itself, so it starts again as
  another program under the same number. ``GLIBC_TUNABLES`` in the environment is left alone.
  """
  if sys.platform == "linux" and "compress" in sys.argv[1:2] and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  main()


def main() -> None:
  """Runs the command line; a mistake of the user's is one line on stderr and exit code 2."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  try:
    app()
  except ValueError as error:
    print(f"jaxcompress: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    hint = "; go on with --resume" if "compress" in sys.argv[1:2] else ""
    print(f"jaxcompress: stopped{hint}", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
  start()
