"""``jaxcompress info``: the sizes of models, and the losses."""

from typing import Annotated

import typer


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
    Console().print(report.method_table(distill.DISTILLERS))
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
