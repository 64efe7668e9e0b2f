"""jaxcompress."""

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from contenders import (
  CLASSES,
  KD_TEMPERATURE,
  KD_WEIGHT,
  MOMENTUM,
  RATE,
  TEACHER_WIDTH,
  Setting,
  Step,
  batch_of,
)
from jaxcompress.nn import count_parameters


def network(setting: Setting, width: float):
  """The library's network, padded as the others are."""
  layout = "cifar" if setting.size == 32 else "imagenet"
  return jc.models.mobilenet_v2(CLASSES, width, layout=layout)


def train(setting: Setting, plan=None, teacher: bool = False) -> Step:
  """A step of a recipe."""
  batch = jax.device_put(batch_of(setting))
  dtype = jnp.bfloat16 if setting.dtype == "bfloat16" else None
  optimizer, student = optax.sgd(RATE, MOMENTUM), network(setting, setting.width)
  parts, given, step = {}, (), jc.train_step
  if teacher:
    module = network(setting, TEACHER_WIDTH)
    given = (jc.init_variables(module, jax.random.key(1), batch["image"].shape[1:]),)
    kd = jc.distill.scale(KD_WEIGHT, jc.distill.kd(KD_TEMPERATURE))
    labels = jc.distill.scale(1 - KD_WEIGHT, jc.distill.cross_entropy())
    parts, step = {"teachers": (module,), "loss": jc.distill.chain(labels, kd)}, jc.distill_step
  recipe = jc.Recipe(
    student=student, optimizer=optimizer, quantize=plan, compute_dtype=dtype, **parts
  )
  state = jc.init_state(recipe, jax.random.key(0), batch, teacher_variables=given)
  parameters = count_parameters(state.params)

  def run():
    nonlocal state
    state, _ = jax.block_until_ready(step(state, batch))

  return Step(run, parameters)


def apart(setting: Setting) -> Step:
  """The student's step on labels and the teacher's pass, in programs of their own."""
  student = train(setting)
  batch, module = jax.device_put(batch_of(setting)), network(setting, TEACHER_WIDTH)
  given = jc.init_variables(module, jax.random.key(1), batch["image"].shape[1:])
  teach = jax.jit(lambda variables, x: module.apply(variables, x, train=False).logits)

  def run():
    jax.block_until_ready(teach(given, batch["image"]))
    student.run()

  return Step(run, student.parameters)


def int8(setting: Setting) -> Step:
  """With moving ranges."""
  return train(setting, jc.quantize.int8())


def lsq(setting: Setting) -> Step:
  """With trained steps."""
  plan = jc.quantize.Quantization(
    weights=jc.quantize.lsq(8), activations=jc.quantize.lsq_activations(8)
  )
  return train(setting, plan)


def distill(setting: Setting) -> Step:
  """With a teacher."""
  return train(setting, teacher=True)
