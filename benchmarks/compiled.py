"""A distillation step on any number of devices, compiled, and what XLA says of it.

Import it before jax: where there is one CPU, it becomes eight virtual devices.
"""

import os
import time

if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":  # real devices ignore it
  os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
  )
  os.environ["NPROC"] = "64"  # threads: a device may wait in several collectives at once

import jax
import numpy as np
import optax

from jaxcompress import distill, models, quantize, training
from jaxcompress.nn import init_variables
from jaxcompress.training.sharding import batch_sharding

DIM, NEGATIVES, ROUNDS = 128, 4096, 7


def sample(batch: int, examples: int) -> dict[str, np.ndarray]:
  """A batch of random 32 px images."""
  rng = np.random.default_rng(0)
  return {
    "image": rng.normal(size=(batch, 32, 32, 3)).astype(np.float32),
    "label": rng.integers(0, 100, batch).astype(np.int32),
    "index": rng.integers(0, examples, batch).astype(np.int32),
  }


def recipe_for(examples: int) -> training.Recipe:
  """MobileNetV2 x0.5 at int8, taught by a ResNet with KD and CRD."""
  loss = distill.chain(
    distill.cross_entropy(),
    distill.kd(4.0),
    distill.crd(examples, dim=DIM, negatives=NEGATIVES, formulation="gather"),
  )
  return training.Recipe(
    student=models.mobilenet_v2(100, 0.5, layout="short"),
    teachers=(models.resnet8x4(100),),
    loss=loss,
    quantize=quantize.int8(),
    optimizer=optax.sgd(0.05, momentum=0.9),
  )


def state_for(recipe: training.Recipe, batch: dict[str, np.ndarray]) -> training.CompressState:
  """The first state, its teacher untrained."""
  variables = init_variables(recipe.teachers[0], jax.random.key(1), (32, 32, 3))
  return training.init_state(recipe, jax.random.key(0), batch, teacher_variables=(variables,))


def compiled_step(recipe: training.Recipe, devices: int, batch: int, examples: int):
  """The step over devices, compiled for shapes: ``batch`` images on each."""
  mesh = training.make_mesh(devices)
  given = sample(batch * devices, examples)
  state = training.shard(jax.eval_shape(lambda: state_for(recipe, given)), mesh)
  split = batch_sharding(mesh)
  shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split) for k, x in given.items()}
  return training.distill_step.lower(state, shapes).compile()


def clock() -> float:
  """Seconds; on a CPU those of all its cores, which tell percents apart while others use them."""
  return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()
