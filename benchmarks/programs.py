"""Training steps compiled for machines that are not here, and what compilers say of programs.

libtpu and XLA's GPU plugin compile without a device.
"""

import functools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import jaxcompress as jc
from jaxcompress import distill, models, quantize, training
from jaxcompress.training.sharding import batch_sharding

KINDS = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({KINDS})(?:-start)?\(", re.MULTILINE)
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "s16": 2, "u16": 2, "pred": 1, "s8": 1, "u8": 1}
NOBODY = {  # libtpu asks nobody which machine this is
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
EXAMPLES = 1_281_167  # of ImageNet
CLASSES = 1000
QUICK = {"exec_time_optimization_effort": -1.0}
UNTIMED = {"xla_gpu_enable_triton_gemm": False}  # whose tiles are found by timing them on the GPU
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 13 minor: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""  # from NVIDIA's data sheet, as XLA's own descriptions of devices have it


class Cost(NamedTuple):
  """Cost of one training step on one device.

  Attributes:
    sent: bytes of the results of collectives, by kind.
    collectives: how many there are.
    flops: as XLA counts them; NaN where it does not.
    touched: bytes read and written, likewise.
    held: bytes of arguments and temporaries.
  """

  sent: Counter
  collectives: int
  flops: float
  touched: float
  held: int


def cost_of(compiled) -> Cost:
  """Reads the cost of a compiled program from XLA's analyses."""
  found = COLLECTIVE.findall(compiled.as_text())
  sent = Counter()
  for result, kind in found:
    for name, dims in re.findall(r"(\w+)\[([\d,]*)\]", result):
      sent[kind] += BYTES[name] * math.prod(int(n) for n in dims.split(",") if n)
  memory = compiled.memory_analysis()
  facts = compiled.cost_analysis() or {"flops": math.nan, "bytes accessed": math.nan}  # of GPUs
  held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  return Cost(sent, len(found), facts["flops"], facts["bytes accessed"], held)


class Target(NamedTuple):
  """Machines that a step is compiled for.

  Attributes:
    platform: ``"tpu"`` or ``"cuda"``.
    topology: as the platform's compiler calls it.
    count: devices of it that are used.
  """

  platform: str
  topology: str
  count: int


TARGETS = {
  "v5e x1": Target("tpu", "v5e:2x2", 1),
  "v5e x8": Target("tpu", "v5e:2x4", 8),
  "v5e x256": Target("tpu", "v5e:16x16", 256),
  "v6e x256": Target("tpu", "v6e:16x16", 256),
  "H100 x1": Target("cuda", "1x1x1", 1),
  "H100 x8": Target("cuda", "1x1x8", 8),
}


class Case(NamedTuple):
  """A training step to compile.

  Attributes:
    plan: what is quantized, or None.
    dtype: of activations and products, or None: float32.
    teacher: whether a ResNet-50 teaches.
    memory: whether CRD's banks of all of ImageNet do, too.
    options: of the recipe.
    plain: whether the student is of flax.linen's own layers.
  """

  plan: Callable[[], quantize.Quantization] | None = None
  dtype: Any = None
  teacher: bool = True
  memory: bool = False
  options: Mapping[str, Any] = {}
  plain: bool = False


def lsq() -> quantize.Quantization:
  """8 bits with trained steps."""
  return quantize.Quantization(weights=quantize.lsq(8), activations=quantize.lsq_activations(8))


def delayed() -> quantize.Quantization:
  """8 bits with the ranges of the step before."""
  return quantize.int8(delayed=True)


CASES = {
  "float32": Case(),
  "bfloat16": Case(dtype=jnp.bfloat16),
  "int8": Case(quantize.int8),
  "int8, bfloat16": Case(quantize.int8, jnp.bfloat16),
  "LSQ": Case(lsq),
  "int8, delayed": Case(delayed),
  "int8, delayed, local": Case(delayed, options={"batch_norm": "local"}),
  "int8, CRD": Case(quantize.int8, memory=True),
  "float32, no teacher": Case(teacher=False),
  "float32, plain": Case(teacher=False, plain=True),
  "bfloat16, no teacher": Case(dtype=jnp.bfloat16, teacher=False),
  "bfloat16, plain": Case(dtype=jnp.bfloat16, teacher=False, plain=True),
  "int8, no teacher": Case(quantize.int8, teacher=False),
  "int8, bfloat16, no teacher": Case(quantize.int8, jnp.bfloat16, teacher=False),
}
ALONE = [name for name, case in CASES.items() if not case.teacher]  # compared on one device


def devices_of(target: Target) -> list[Any]:
  """Devices that are not here.

  Raises:
    Exception: of the platform's, if its compiler is not installed.
  """
  for name, value in NOBODY.items():
    os.environ.setdefault(name, value)
  options: dict[str, Any] = {"topology_name": target.topology}
  if target.platform == "cuda":
    options = {"target_config": H100, "topology": target.topology}
  found = topologies.get_topology_desc(platform=target.platform, **options)
  return list(found.devices)[: target.count]


def shapes_of(count: int, size: int, sharding: NamedSharding) -> dict[str, jax.ShapeDtypeStruct]:
  """A batch, without numbers."""
  shape = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
  return {
    "image": shape((count, size, size, 3), jnp.uint8),
    "label": shape((count,), jnp.int32),
    "index": shape((count,), jnp.int32),
  }


def recipe_of(case: Case, student: Any, teacher: Any) -> training.Recipe:
  """How a case is trained."""
  parts = [distill.cross_entropy()]
  if case.teacher:
    parts.append(distill.kd(4.0))
  if case.memory:
    parts.append(distill.crd(EXAMPLES, dim=128, negatives=16384))
  return training.Recipe(
    student=student,
    teachers=(teacher,) if case.teacher else (),
    loss=distill.chain(*parts),
    quantize=None if case.plan is None else case.plan(),
    preprocess=jc.data.Preprocess(),
    optimizer=optax.sgd(0.05, momentum=0.9),
    compute_dtype=case.dtype,
    **case.options,
  )


def traced(
  case: Case, devices: list[Any], batch: int, size: int, student: Any = None, teacher: Any = None
) -> tuple[Any, Any]:
  """The step of a case for devices, traced, and the shapes of its state.

  Args:
    case: what is trained.
    devices: that it is for.
    batch: images of each.
    size: side of the images.
    student: None: MobileNetV2.
    teacher: None: ResNet-50.
  """
  mesh = training.make_mesh(devices)
  given = shapes_of(batch * len(devices), size, batch_sharding(mesh))
  if case.plain:
    return plain_step(case, mesh, given)
  student = models.mobilenet_v2(CLASSES) if student is None else student
  teacher = models.resnet50(CLASSES) if teacher is None else teacher
  recipe = recipe_of(case, student, teacher)

  def make(batch):
    options = {}
    if case.teacher:
      variables = training.init_variables(teacher, jax.random.key(1), (size, size, 3))
      options["teacher_variables"] = (variables,)
    return training.init_state(recipe, jax.random.key(0), batch, **options)

  small = {name: jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype) for name, x in given.items()}
  state = training.shard(jax.eval_shape(make, small), mesh)
  step = training.distill_step if case.teacher else training.train_step
  return step.trace(state, given), state


def plain_step(case: Case, mesh: Any, given: Mapping[str, Any]) -> tuple[Any, Any]:
  """The same of the student in flax.linen's own layers."""
  from contenders import MOMENTUM, RATE, rows_of
  from contenders.plain_flax import PlainMobileNetV2

  dtype = "float32" if case.dtype is None else jnp.dtype(case.dtype).name
  size = given["image"].shape[1]
  model = PlainMobileNetV2(rows_of(1.0, size), dtype=dtype, num_classes=CLASSES)
  optimizer, prepared = optax.sgd(RATE, MOMENTUM), jc.data.Preprocess()

  def init(images):
    found = model.init(jax.random.key(0), prepared(images), train=True)
    return found["params"], {"batch_stats": found["batch_stats"]}, optimizer.init(found["params"])

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, batch):
    params, stats, opt_state = state

    def loss_of(params):
      images = prepared(batch["image"])
      logits, updated = model.apply(
        {"params": params, **stats}, images, train=True, mutable=list(stats)
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
      return losses.mean(), updated

    (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), stats, opt_state), loss

  whole = NamedSharding(mesh, PartitionSpec())
  image = jax.ShapeDtypeStruct((2, *given["image"].shape[1:]), jnp.uint8)
  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init, image)
  )
  return step.trace(state, {name: given[name] for name in ("image", "label")}), state


class Compiled(NamedTuple):
  """A step as its compiler left it.

  Attributes:
    cost: what it says of it.
    cycles: that it estimates, of one step on one device; 0 where it estimates none.
    callbacks: calls of the host.
    donated: share of the state's arrays that the step writes in place.
  """

  cost: Cost
  cycles: int
  callbacks: int
  donated: float


def compiled(step: Any, state: Any, options: Mapping[str, Any] | None = None) -> Compiled:
  """Compiles what :func:`traced` gave."""
  lowered = step.lower()
  program = lowered.compile(compiler_options=dict(options) if options else None)
  text = program.as_text()
  header = text[: text.index("\n")]  # layouts of TPUs pad arrays, so that bytes do not tell
  aliased = len(re.findall(r"\{\d+\}: \(\d+", header))
  cycles = sum(int(n) for n in re.findall(r'"estimated_cycles":"?(\d+)', text))
  return Compiled(
    cost_of(program),
    cycles,
    len(re.findall("callback", text)),
    aliased / len(jax.tree.leaves(state)),
  )
