"""Networks are traced, trained and adapted alike where Python strips assertions and docstrings."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

PROGRAM = """
import flax.linen as nn, jax, jax.numpy as jnp, optax
from jaxcompress import distill, models, quantize, training
from jaxcompress.nn import init_variables
from jaxcompress.nn.tracing import intercept
model, teacher = models.resnet8(3), models.vgg8(3)
counts = [len(models.summarize(model).graph.nodes) for _ in range(3)]  # each of them intercepts
adapted = distill.adapter(teacher)
batch = {"image": jnp.ones((4, 32, 32, 3)), "label": jnp.arange(4) % 3}
recipe = training.Recipe(
  student=model, optimizer=optax.sgd(0.01), teachers=(adapted,), loss=distill.kd(), remat=True,
  quantize=quantize.int8(),
)
variables = init_variables(teacher, jax.random.key(1), (32, 32, 3))
state = training.init_state(recipe, jax.random.key(0), batch, teacher_variables=(variables,))
for _ in range(2):
  state, metrics = training.distill_step(state, batch)
logits = state.quantized().integers(batch["image"])
from flax.linen.module import _global_interceptor_stack as stack
try:
  with intercept(lambda call, args, kwargs, context: call(*args, **kwargs)):
    raise KeyError
except KeyError:
  pass
print(__debug__, len(stack), counts[0] == counts[2], float(metrics["loss"]), float(logits.sum()))
"""


def printed(*flags):
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  command = [sys.executable, *flags, "-c", PROGRAM]
  child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
  assert child.returncode == 0, child.stderr
  return child.stdout.split()


@pytest.fixture(scope="module")
def usual():
  return printed()


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_nothing_goes_on_intercepting_without_assertions(usual, flag):
  debug, left, *found = printed(flag)
  assert (debug, left) == ("False", "0")
  assert found == usual[2:] and found[0] == "True"
