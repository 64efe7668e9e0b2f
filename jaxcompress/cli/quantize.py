"""``jaxcompress quantize``: a trained model, without training it further."""

from typing import Annotated

import typer

from jaxcompress.cli.programs import keep_compiled_programs


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
  keep_compiled_programs()
  if torch is None:
    pipeline.quantize_model(options, console=Console())
  else:
    pipeline.quantize_torch(torch, calibration or "", options, console=Console())


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
  assert weights is not None  # as was just seen
  return weights
