"""``jaxcompress compress``: the whole run."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from jaxcompress.cli.commands import keep_compiled_programs
from jaxcompress.cli.ending import INTERRUPTED, STOPPED, WRONG, EndError, of_system
from jaxcompress.cli.parameters import Parameter, command


@command(
  preset=Parameter(
    str,
    "A published protocol, such as crd-cifar100: data, networks, losses and schedule; other"
    " options change it [default].",
  ),
  data=Parameter(
    str,
    "glyphs (built in), digits (handwriting), folder:PATH with one folder of images per class,"
    " csv:FILE (columns path, label), npz:FILE, hf:FOLDER (Hugging Face), wds:FILES (WebDataset),"
    " fashion-mnist, mnist, idx:FOLDER (files of MNIST's kind), cifar:PATH or tfds:NAME [glyphs].",
  ),
  student=Parameter(
    str,
    "The small model, or the source of its weights: timm/NAME, torchvision/NAME [mobilenet_v2].",
  ),
  student_weights=Parameter(
    str,
    "Initial weights of the student: a .pth or .safetensors file, a file of models.save, or an earlier run.",
  ),
  width=Parameter(float, "Width multiplier of the student [0.25]."),
  teacher=Parameter(
    str, "The large model, or a trained one: FILE.onnx, or a folder of .npz outputs [mobilenet_v2]."
  ),
  teacher_width=Parameter(float, "Width multiplier of the teacher [0.75]."),
  teacher_weights=Parameter(
    str,
    "Initial weights of the teacher, likewise; a network that knows the data's classes teaches as it is.",
  ),
  teacher_pixels=Parameter(
    str, "How FILE.onnx reads pixels: imagenet, 0..1, -1..1 or 0..255 [as the file states]."
  ),
  teacher_outputs=Parameter(
    str, "Names of its logits and, after a comma, its pooled features [its only such output]."
  ),
  distill=Parameter(
    str,
    "Losses and weights, such as kd:0.9,crd:0.8; `jaxcompress info distill` lists them [kd].",
  ),
  bits=Parameter(int, "Bits of the weights, 2 to 8 [8]."),
  sparsity=Parameter(float, "Share of zeros in pruned layers, such as 0.8 [nothing is pruned]."),
  sparsity_distribution=Parameter(
    str,
    "Distribution of the zeros over layers: erk, small layers are denser; lamp, by what a layer loses; global,"
    " by one threshold; or uniform [erk].",
  ),
  sparsity_pattern=Parameter(
    str, "Pattern of the zeros: unstructured, or n of every m inputs, such as 2:4."
  ),
  cluster=Parameter(int, "Values that a layer's weights share, such as 32 [any]."),
  epochs=Parameter(
    float,
    "Passes over the training images, each for teacher and student [1000 steps; small sets: 25].",
  ),
  batch_size=Parameter(int, "Images per step [64]."),
  learning_rate=Parameter(float, "Peak of the learning rate [the preset's]."),
  freeze=Parameter(
    str, "Layers to freeze in a network with pretrained weights: a selector, or backbone [none]."
  ),
  patience=Parameter(int, "Epochs without a better validation after which a phase ends [all run]."),
  balance=Parameter(
    str, "For classes of unequal size: weights (in the loss) or sampling [neither]."
  ),
  image_size=Parameter(
    int, "Side in pixels to which a folder's images are brought [the weights', or their own]."
  ),
  resize=Parameter(
    str, "How images are resized: cover, squash, letterbox or pad [as for the weights, or cover]."
  ),
  channels=Parameter(
    int, "Channels of the images: 3 (RGB) or 1 (grey) [as for the weights, or 3]."
  ),
  augment=Parameter(str, "Strength of the augmentation in training: none, light, medium, strong."),
  group_by=Parameter(
    str, "Pattern on file names: images with the same match, as of a burst, stay in one split."
  ),
  strict=Parameter(bool, "Damaged images are an error, and not left out.", False),
  flip=Parameter(
    bool,
    "Train on mirrored images too, where these keep their class [known sets of photos only].",
    names=("--flip/--no-flip",),
  ),
  seed=Parameter(int, "Random seed [0]."),
  out=Parameter(str, "Output folder [jaxcompress-out, or the next free number]."),
  resume=Parameter(
    bool, "Resume the run in the output folder; with more --epochs, also a finished one.", False
  ),
  max_size=Parameter(
    str,
    "Bytes that the packed file may take, such as 300KB: students of several widths, with"
    " channels removed and bits chosen by layer, are tried.",
  ),
  max_macs=Parameter(str, "Most multiply-adds for an image, such as 10M; likewise."),
  max_latency_ms=Parameter(
    float,
    "Most milliseconds for an image in LiteRT on one thread here; likewise.",
  ),
  quick=Parameter(bool, "Less data and fewer steps, for a quick check.", False),
  input_workers=Parameter(
    int,
    "Processes that decode images, for data larger than memory [CPU cores - 1].",
  ),
  coordinator=Parameter(
    str,
    "HOST:PORT of process 0, of several that train together; auto: what Slurm, Open MPI or"
    " Kubernetes says [alone; on TPU pods auto].",
  ),
  num_processes=Parameter(int, "Number of processes."),
  process_id=Parameter(int, "Number of this process, from 0."),
  heartbeat=Parameter(int, "Seconds after which a process that is silent counts as dead.", 30),
)
def compress(
  out: str | None,
  resume: bool,
  input_workers: int | None,
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  heartbeat: int,
  **given: Any,
) -> None:
  """Train a teacher and a student, distil, quantize, export, verify, and write a report.

  Needs no options: by default it trains on a built-in set of glyphs, in a few minutes. It
  trains on all devices; on several machines, start it on each with --coordinator and the same
  options, on an output folder that all see.
  """
  from rich.console import Console

  from jaxcompress.pipeline.checks import is_outside
  from jaxcompress.pipeline.folders import claim_together
  from jaxcompress.pipeline.run import carry_out
  from jaxcompress.report.tables import result_table
  from jaxcompress.terminal import say
  from jaxcompress.training import processes

  given["quick"] = given["quick"] or None
  given["strict"] = given["strict"] or None
  for name in ("student_weights", "teacher_weights"):
    if given[name] is not None:
      given[name] = str(pathlib.Path(given[name]).absolute())
  if is_outside(given["teacher"]):
    given["teacher"] = str(pathlib.Path(given["teacher"]).absolute())
  keep_compiled_programs()
  processes.join_processes(coordinator, num_processes, process_id, heartbeat)
  console = Console(quiet=not processes.is_first())
  folder, options = claim_together(out, given, resume=resume)
  typed = shlex.join(["jaxcompress", *sys.argv[1:]])
  with _resumable(folder, resumed=resume):
    results = carry_out(options, folder, command=typed, workers=input_workers, console=console)
    console.print(result_table(results))
    say(console, f"report: {folder / 'report.html'}   model: {folder / 'student.tflite'}")


@contextlib.contextmanager
def _resumable(folder: pathlib.Path, *, resumed: bool) -> Iterator[None]:
  """Says how to go on where a run ends before its end; after a mistake a new run's folder is free again."""
  from jaxcompress import data, training
  from jaxcompress.pipeline.folders import release_folder
  from jaxcompress.training import processes

  on = f"go on with --resume --out {shlex.quote(str(folder))}"
  try:
    yield
  except ValueError:
    if processes.is_first() and not resumed:
      release_folder(folder)
    raise
  except KeyboardInterrupt as error:
    raise EndError(f"stopped; {on}", INTERRUPTED) from error
  except training.PreemptedError as error:
    raise EndError(f"{error}; {on}", STOPPED) from error
  except (data.InputError, OSError) as error:
    words = of_system(error) if isinstance(error, OSError) else str(error)
    raise EndError(f"{words}; {on}", WRONG) from error
