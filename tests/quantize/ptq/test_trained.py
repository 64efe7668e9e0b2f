"""A trained MobileNet keeps its accuracy as integers, without fine-tuning."""

import jax
import numpy as np
import optax
import pytest

from jaxcompress import data, distill, models, training
from jaxcompress.nn import Norm
from jaxcompress.quantize.ptq.post_training import post_training

STEPS = 160
PREPROCESS = data.Preprocess()
QUICK = Norm(momentum=0.9)  # running statistics that follow in so few steps
MODEL = models.mobilenet_v3_small(10, width=0.35, layout="cifar", norm=QUICK)


@pytest.fixture(scope="module")
def digits():
  return data.load("digits", size=16)


def trained(model, digits):
  recipe = training.Recipe(
    student=model,
    preprocess=PREPROCESS,
    optimizer=optax.adam(optax.cosine_decay_schedule(3e-3, STEPS)),
    loss=distill.cross_entropy(),
  )
  batch_at = lambda step: data.batch_at(digits.train, 64, seed=0, position=step)  # noqa: E731
  state = training.init_state(recipe, jax.random.key(0), batch_at(0))
  for step in range(STEPS):
    state, _ = training.train_step(state, batch_at(step))
  return jax.device_get(state.variables)


@pytest.mark.slow
def test_int8_is_within_half_a_point_of_float_from_unlabelled_images(digits):
  variables = trained(MODEL, digits)
  quantized = post_training(
    MODEL, variables, digits.train.images[:256], preprocess=PREPROCESS, method="mse"
  )
  parts = digits.train, digits.validation, digits.test  # few are held out: one is 0.2 points
  images, labels = (
    np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels")
  )
  logits = jax.jit(lambda x: MODEL.apply(variables, PREPROCESS(x), train=False).logits)(images)
  top1 = lambda y: float(np.mean(np.argmax(y, axis=-1) == labels))  # noqa: E731
  assert top1(logits) > 0.85
  assert top1(quantized(images)) >= top1(logits) - 0.005
