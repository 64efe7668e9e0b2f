"""Networks that were trained with quantization, held against float."""

import dataclasses
import io
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

import jaxcompress as jc
from jaxcompress import data as datasets
from jaxcompress import models, quantize
from jaxcompress.pipeline import integers, phases
from jaxcompress.pipeline.context import Score
from jaxcompress.pipeline.networks import network_of
from jaxcompress.pipeline.options import CompressOptions
from tests.pipeline.stripes import SIDE, stripes

PREPROCESS = jc.data.Preprocess()


@pytest.mark.parametrize("weights", ["absmax(8)", "absmax(5)", "lsq(4)", "lsq(2)"])
def test_steps_of_few_bits_are_trained(weights):
  plan = phases.integers(CompressOptions(bits=int(weights[-2])), (), start=3)
  assert plan.weights.call == weights


@pytest.fixture(scope="module")
def trained():
  """A network in float that tells the stripes apart, and its variables."""
  train, model = stripes(64, 0), models.resnet8(2)
  recipe = jc.Recipe(student=model, preprocess=PREPROCESS, optimizer=optax.sgd(0.05, momentum=0.9))
  batch_at = lambda position: datasets.batch_at(train, 32, seed=0, position=position)  # noqa: E731
  state = jc.init_state(recipe, jax.random.key(0), batch_at(0))
  for position in range(20):
    state, _ = jc.train_step(state, batch_at(position))
  state = jc.training.reestimate_norm(state, [batch_at(n) for n in range(4)])
  return network_of("resnet8", None, model, (SIDE, SIDE, 3)), jax.device_get(state.variables)


@pytest.fixture
def run(trained):
  """As much of a run as is looked at."""
  data = SimpleNamespace(train=stripes(64, 0), validation=stripes(100, 1))

  def evaluate(network, variables, split):
    logits = network.module.apply(variables, PREPROCESS(split.images), train=False).logits
    return Score(float(np.mean(np.argmax(logits, -1) == split.labels)), 0.0)

  return SimpleNamespace(
    data=data,
    evaluate=evaluate,
    preprocess=PREPROCESS,
    preset=SimpleNamespace(whole=False),
    options=SimpleNamespace(prunes=False, cluster=None, bits=8, seed=0),
    console=Console(file=io.StringIO(), width=200),
  )


@pytest.fixture(scope="module")
def whole(trained):
  """The quantized network, as good as in float."""
  network, variables = trained
  images = stripes(64, 0).images
  return quantize.post_training(
    network.module, variables, images, method="minmax", preprocess=PREPROCESS, progress=False
  )


@pytest.fixture(scope="module")
def ruined(whole):
  """The same, its logits the other way round."""
  last = whole.layers["classifier"]
  layers = {**whole.layers, "classifier": last._replace(weights=-last.weights)}
  return dataclasses.replace(whole, layers=layers)


def share(model, split):
  return np.mean(model(split.images).argmax(-1) == split.labels)


def test_a_network_that_lost_nothing_is_kept_without_a_word(run, trained, whole):
  assert run.evaluate(*trained, run.data.validation).top1 > 0.9
  assert integers.checked(run, *trained, whole) == (whole, ())


@pytest.mark.slow
def test_one_that_training_ruined_is_quantized_without_training_and_told(run, trained, ruined):
  kept, (note,) = integers.checked(run, *trained, ruined)
  assert share(ruined, run.data.validation) < 0.2 < 0.9 < share(kept, run.data.validation)
  assert note.startswith("integers: trained with quantization") and "the latter is taken" in note
  assert " ".join(run.console.file.getvalue().split()) == note


@pytest.mark.parametrize("asked", [{"prunes": True}, {"cluster": 16}])
def test_what_was_asked_for_beside_integers_is_kept_and_the_loss_told(run, trained, ruined, asked):
  vars(run.options).update(asked)
  kept, (note,) = integers.checked(run, *trained, ruined)
  assert kept is ruined and "the network in float" in note


def test_without_validation_images_of_its_own_a_run_keeps_what_was_trained(run, trained, ruined):
  run.preset.whole = True
  assert integers.checked(run, *trained, ruined) == (ruined, ())
