"""``jaxcompress export``: one network in several formats."""

from typing import Annotated

import typer

from jaxcompress.cli.programs import keep_compiled_programs


def export(
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
    target=target,
    quantize={name: value for name, value in given.items() if value is not None},
  )
  keep_compiled_programs()
  pipeline.export_model(options, console=Console())
