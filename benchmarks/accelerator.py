"""The training step on an accelerator: images a second, beside others, and how far from its roofline.

    python benchmarks/accelerator.py --out benchmarks/results/accelerator.jsonl

One GPU needs at most ``--seconds`` (480) for all of it; what no time is left for is named. In this order:
exact evaluation on the accelerator against that on the host, bit for bit; steps of MobileNetV2 in float32,
bfloat16, int8 and LSQ, alone and after a ResNet-50, beside flax.linen's own layers and, where it is
installed, PyTorch (compiled, channels last, autocast); and the formulations of depthwise convolutions
against each other, by which ``jaxcompress.ops.dispatch`` chooses.

``roofline`` is the least time that the step's multiplications and bytes, as XLA counts them, take at the
device's published peaks, over the time that it took; "-" for devices whose peaks are not known here.
``--small`` runs every part once, with ResNet-8 and two of the cases, on whatever is there.
"""

import argparse
import functools
import importlib
import importlib.util
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from contenders import Setting
from programs import CASES, Case, recipe_of
from rich.console import Console
from shared import append_row, in_turns, print_table

import jaxcompress as jc
from jaxcompress import models, ops, quantize, training
from jaxcompress.nn import init_variables
from jaxcompress.ops.dispatch import CHOICES


class Scale(NamedTuple):
  """How much is measured.

  Attributes:
    steps: pixels and images of the steps.
    cases: names in ``programs.CASES``.
    student: makes the student of images of a side.
    teacher: makes its teacher.
    repeats: of which the median counts.
    exact: side and number of the images of exact evaluation.
    shapes: at most so many of depthwise convolutions.
  """

  steps: tuple[tuple[int, int], ...]
  cases: tuple[str, ...]
  student: Callable[[int], Any]
  teacher: Callable[[int], Any]
  repeats: int
  exact: tuple[int, int]
  shapes: int


def mobilenet(size: int) -> Any:
  """MobileNetV2 for images of a side."""
  return models.mobilenet_v2(1000, layout="imagenet" if size >= 64 else "cifar")


def resnet(size: int) -> Any:
  """Its teacher for images of a side."""
  return models.resnet50(1000) if size >= 64 else models.resnet8x4(1000)


WHOLE = Scale(
  steps=((32, 256), (224, 128)),
  cases=tuple(name for name, case in CASES.items() if not (case.plain or case.memory)),
  student=mobilenet,
  teacher=resnet,
  repeats=20,
  exact=(96, 200),
  shapes=100,
)
SMALL = Scale(
  steps=((16, 4),),
  cases=("float32", "int8, no teacher"),
  student=lambda _: models.resnet8(10),
  teacher=lambda _: models.resnet8(10),
  repeats=1,
  exact=(32, 8),
  shapes=1,
)


class Peak(NamedTuple):
  """Peak rates of a device, from its maker's data sheet.

  Attributes:
    flops: a second, dense: with float32 inputs as its units multiply them, and with bfloat16 ones.
    bytes: a second, of its memory.
  """

  flops: Mapping[str, float]
  bytes: float


HOPPER = {"float32": 494.7e12, "bfloat16": 989.4e12}  # TF32 in the former
PEAKS = {
  "H100": Peak(HOPPER, 3.35e12),
  "H200": Peak(HOPPER, 4.8e12),
  "A100": Peak({"float32": 156e12, "bfloat16": 312e12}, 2.04e12),
  "TPU v5 lite": Peak({"float32": 197e12, "bfloat16": 197e12}, 0.819e12),
  "TPU v6 lite": Peak({"float32": 918e12, "bfloat16": 918e12}, 1.64e12),
}


def roofline(flops: float, touched: float, dtype: str, seconds: float) -> float | None:
  """Share of the least possible time; None where the device's peaks are not known."""
  kind = jax.devices()[0].device_kind
  peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
  if peak is None:
    return None
  return max(flops / peak.flops[dtype], touched / peak.bytes) / seconds


def timed(run: Callable[[], Any], repeats: int) -> float:
  """Median seconds of a call that was made before."""
  return float(np.median(in_turns({"": run}, repeats)[""]))


class Budget:
  """Seconds that are left."""

  def __init__(self, seconds: float):
    self.end = time.perf_counter() + seconds
    self.left_out: list[str] = []

  def allows(self, what: str) -> bool:
    """Whether there is time; what there is none for is noted."""
    if time.perf_counter() < self.end:
      return True
    self.left_out.append(what)
    return False


def our_step(case: Case, scale: Scale, size: int, batch: int) -> dict[str, Any]:
  """A case's step: seconds, and what XLA says of it."""
  rng = np.random.default_rng(0)
  given = {
    "image": rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8),
    "label": rng.integers(0, 10, batch).astype(np.int32),
    "index": np.arange(batch, dtype=np.int32),
  }
  teacher = scale.teacher(size)
  recipe, options = recipe_of(case, scale.student(size), teacher), {}
  if case.teacher:
    options["teacher_variables"] = (init_variables(teacher, jax.random.key(1), (size, size, 3)),)
  state = training.init_state(recipe, jax.random.key(0), given, **options)
  given = jax.device_put(given)
  step = training.distill_step if case.teacher else training.train_step
  start = time.perf_counter()
  program = step.lower(state, given).compile()
  compiling = time.perf_counter() - start
  cost, memory = program.cost_analysis(), program.memory_analysis()

  def run():
    nonlocal state
    state, metrics = program(state, given)
    return metrics

  jax.block_until_ready(run())
  seconds = timed(run, scale.repeats)
  dtype = "float32" if case.dtype is None else "bfloat16"
  return {
    "seconds": seconds,
    "compile_seconds": round(compiling, 1),
    "held": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    "roofline": roofline(cost["flops"], cost["bytes accessed"], dtype, seconds),
  }


OTHERS = {
  "flax.linen": ("plain_flax.train", "flax"),
  "PyTorch, compiled": ("pytorch.compiled", "torch"),
}


def their_step(name: str, dtype: str, size: int, batch: int, repeats: int) -> dict[str, Any] | None:
  """Seconds of another's step without a teacher; None where it is not installed."""
  function, package = OTHERS[name]
  if importlib.util.find_spec(package) is None:
    return None
  module, _, function = function.partition(".")
  make = getattr(importlib.import_module(f"contenders.{module}"), function)
  step = make(Setting("float", size, batch, 1.0, dtype))
  step.run()
  return {"seconds": timed(step.run, repeats)}


def exact_logits(size: int, count: int) -> dict[str, Any]:
  """Share of the integers of exact evaluation that the accelerator and the host have in common."""
  model = models.mobilenet_v2(10, 0.25)
  images = np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)
  variables = init_variables(model, jax.random.key(0), images.shape[1:])
  quantized = quantize.post_training(model, variables, images[:16], method="minmax", progress=False)
  codes = quantized.quantize_input(images)
  start = time.perf_counter()
  found = quantized.run(codes)
  seconds = time.perf_counter() - start
  with jax.default_device(jax.devices("cpu")[0]):
    wanted = quantized.run(codes)
  return {"seconds": seconds, "bit_equal": float(np.mean(found == wanted)), "images": count}


def depthwise_rows(scale: Scale, size: int, batch: int) -> list[dict[str, Any]]:
  """Forward and backward seconds of each formulation, at the depthwise shapes of MobileNetV2."""
  graph = models.summarize(mobilenet(size), size).graph
  shapes = dict.fromkeys(
    (node.input_shapes[0][1:], node.attrs["stride"])
    for node in graph.nodes
    if node.attrs.get("groups") == "depthwise"
  )
  rows = []
  for shape, stride in list(shapes)[: scale.shapes]:
    x = jnp.ones((batch, *shape), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 1, shape[-1]), jnp.bfloat16)
    for name in CHOICES["depthwise"]:

      @jax.jit
      def both(x, kernel, name=name, stride=stride):
        def total(x, kernel):
          with ops.formulations(depthwise=name):
            y = ops.depthwise_conv(x, kernel, stride=stride)
          return jnp.sum(y.astype(jnp.float32))

        return jax.grad(total, (0, 1))(x, kernel)

      run = functools.partial(both, x, kernel)
      jax.block_until_ready(run())
      rows.append(
        {
          "shape": list(shape),
          "stride": stride,
          "formulation": name,
          "seconds": timed(run, scale.repeats),
        }
      )
  return rows


def main(given: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--out", type=pathlib.Path, help="file of JSON lines, to which rows are added"
  )
  parser.add_argument("--seconds", type=float, default=480, help="after which nothing is begun")
  parser.add_argument("--small", action="store_true", help="every part once, tiny")
  args = parser.parse_args(given)
  console, budget = Console(), Budget(args.seconds)
  device = jax.devices()[0].device_kind
  scale = SMALL if args.small else WHOLE
  console.print(f"jaxcompress {jc.__version__}, JAX {jax.__version__}, {device}")
  lines = []

  def note(part: str, what: str, size: int, batch: int, row: dict[str, Any] | None) -> None:
    if row is None:
      budget.left_out.append(f"{what} (not installed)")
      return
    row = {"device": device, "part": part, "what": what, "size": size, "batch": batch, **row}
    append_row(args.out, row)
    share = row.get("roofline")
    held = row.get("held")
    lines.append(
      (
        part,
        what,
        str(size),
        str(batch),
        f"{1e3 * row['seconds']:.2f}",
        f"{batch / row['seconds']:,.0f}",
        "-" if share is None else f"{share:.0%}",
        "" if held is None else f"{held / 1e9:.2f}",
        "" if "bit_equal" not in row else f"{row['bit_equal']:.2%}",
      )
    )

  side, count = scale.exact
  note("exact evaluation", "MobileNetV2 x0.25", side, count, exact_logits(side, count))
  for size, batch in scale.steps:
    for dtype in ("float32", "bfloat16"):
      for name in OTHERS:
        if not args.small and budget.allows(f"{name}, {dtype}, {size} px"):
          found = their_step(name, dtype, size, batch, scale.repeats)
          note("step", f"{name}, {dtype}", size, batch, found)
    for name in scale.cases:
      if CASES[name].teacher and size < 64 and not args.small:
        continue
      if budget.allows(f"{name}, {size} px"):
        note("step", name, size, batch, our_step(CASES[name], scale, size, batch))
  size, batch = scale.steps[-1]
  if budget.allows("depthwise formulations"):
    for row in depthwise_rows(scale, size, batch):
      what = f"{'x'.join(map(str, row['shape']))} /{row['stride']}, {row['formulation']}"
      note("depthwise", what, size, batch, row)
  print_table(
    ("part", "what", "px", "images", "ms", "images/s", "roofline", "GB held", "bit-equal"), lines
  )
  if budget.left_out:
    console.print("left out:", "; ".join(budget.left_out))


if __name__ == "__main__":
  main()
