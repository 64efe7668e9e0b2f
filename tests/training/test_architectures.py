"""Architectures train, in float and in int8, in one program; MobileNetV2 does in the pipeline."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, models, quantize
from jaxcompress.training import Recipe, init_state, train_step

pytestmark = pytest.mark.usefixtures("programs_forgotten")
START, STEPS, CLASSES, BATCH = 10, 20, 4, 8
NETWORKS = {  # one of each architecture, as narrow as it goes; few blocks, for compile time
  "mobilenet_v1": {"width": 0.25},
  "mobilenet_v3_small": {"width": 0.35},
  "mobilenet_v4_conv_small": {"width": 0.25},
  "shufflenet_v1": {"width": 0.25, "groups": 2},
  "shufflenet_v2": {"width": 0.25},
  "ghostnet": {"width": 0.25},
  "wide_resnet": {"depth": 10, "widen": 1},
  "vgg8": {},
}


@pytest.fixture
def few_blocks(monkeypatch):
  """Fewer repetitions of the same blocks in the networks that take longest to compile."""
  v1, v4, shuffle_v1, shuffle_v2, ghostnet = (
    sys.modules[f"jaxcompress.models.{name}"]
    for name in ("mobilenet_v1", "mobilenet_v4", "shufflenet_v1", "shufflenet_v2", "ghostnet")
  )
  rows = tuple((row._replace(repeats=1),) for (row,) in v1.STAGES)
  monkeypatch.setattr(v1, "STAGES", rows)
  # the first row of one stage and the last of the next, which differ
  stages = tuple((s[0 if i % 2 else -1],) for i, s in enumerate(v4.SMALL.stages))
  monkeypatch.setattr(v4, "SMALL", v4.SMALL._replace(stages=stages))
  for module in (shuffle_v1, shuffle_v2):
    monkeypatch.setattr(module, "REPEATS", (2, 2, 2))
  stages = (*ghostnet.STAGES[:4], ghostnet.STAGES[7])
  monkeypatch.setattr(ghostnet, "STAGES", stages)
  monkeypatch.setattr(ghostnet, "STRIDES", (2, *(stage[0].stride for stage in stages)))


@pytest.fixture(scope="module")
def batch():
  """Noisy copies of one picture per class."""
  rng = np.random.default_rng(0)
  label = np.arange(BATCH) % CLASSES
  pictures = rng.normal(size=(CLASSES, 32, 32, 3))
  image = pictures[label] + 0.5 * rng.normal(size=(BATCH, 32, 32, 3))
  return {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}


def quickly_compiled(state, batch):
  """The step without LLVM's optimizations, which take longer than these few steps."""
  return train_step.lower(state, batch).compile({"xla_backend_optimization_level": 0})


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_falls_in_float_and_goes_on_falling_in_int8(name, batch, few_blocks):
  recipe = Recipe(
    student=models.create(name, CLASSES, **NETWORKS[name]),
    loss=distill.cross_entropy(),
    quantize=quantize.int8(start_step=START),
    optimizer=optax.adam(5e-4),
  )
  state = init_state(recipe, jax.random.key(0), batch)
  step, losses = quickly_compiled(state, batch), []
  for _ in range(STEPS):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all()
  assert np.mean(losses[START - 3 : START]) < 0.9 * losses[0]
  assert np.mean(losses[-3:]) < np.mean(losses[START : START + 3])
