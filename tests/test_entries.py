"""A newcomer's wrong arguments give errors of one sentence, and reprs in a notebook are short."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import data, distill, export, models, nn, prune, quantize
from jaxcompress.nn import Graph, Node
from jaxcompress.quantize.analysis.sensitivity import Sensitivity
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.training import Recipe, Stage, init_state, train_step

KEY = jax.random.key(0)
SIZE = (8, 8, 3)
MODEL = models.resnet8(10)
PART = data.Split(np.zeros((1200, *SIZE), np.uint8), np.zeros(1200, np.int32))
DATASET = data.Dataset(name="x", classes=("a", "b"), train=PART, validation=PART, test=PART)
QUANTIZED = "^quantized must be a QuantizedModel, such as state.quantized.*, got a CompressState"
OPTIMIZER = "^optimizer must be an optax transformation, such as optax.adam.*got "


def recipe(**parts):
  return Recipe(**{"student": MODEL, "optimizer": optax.sgd(0.1), **parts})


def batch_of(label, **more):
  return {"image": np.zeros((len(label), *SIZE), np.float32), "label": label, **more}


@pytest.fixture(scope="module")
def state():
  return init_state(recipe(), KEY, batch_of(np.zeros(2, np.int32)))


@pytest.mark.parametrize(
  "use",
  [
    lambda state: export.tflite(state, "a.tflite"),
    lambda state: export.onnx(state, "a.onnx"),
    lambda state: export.packed(state, "a.jcz"),
    lambda state: export.stablehlo(state, "a.stablehlo"),
    lambda state: export.verify("a.tflite", state, np.zeros((1, *SIZE))),
    lambda state: quantize.analyze(state, MODEL, state.variables, np.zeros((1, *SIZE))),
  ],
)
def test_a_state_is_no_quantized_model_and_the_message_says_how_it_becomes_one(use, state):
  with pytest.raises(ValueError, match=QUANTIZED):
    use(state)


@pytest.mark.parametrize(
  ("use", "message"),
  [
    (lambda: quantize.post_training(models.resnet8, {}, np.zeros((1, *SIZE))), "^model must be a"),
    (lambda: nn.init_variables(models.resnet8, KEY, SIZE), "^model must be .*function resnet8"),
    (lambda: nn.init_variables(MODEL, 0, SIZE), "^rng must be a key, .*got 0"),
    (lambda: nn.init_variables(MODEL, jnp.zeros(2), SIZE), "^rng must be a key"),
    (lambda: nn.init_variables(MODEL, KEY, 32), r"^image_shape must be \(height, .*got 32"),
    (lambda: prune.magnitude(optax.sgd, sparsity=0.5), f"{OPTIMIZER}the function sgd"),
    (lambda: prune.n_m("2:4"), f"{OPTIMIZER}'2:4'"),
    (lambda: prune.remove_channels(MODEL, {}, 0.5), "^keep must be a prune.Keep, .*got 0.5"),
    (
      lambda: data.batch_at(DATASET, 2, seed=0, position=0),
      "^split must be a data.Split, such as d",
    ),
    (lambda: data.eval_batches(DATASET, 2), "^split must be a data.Split, such as dataset.train"),
    (
      lambda: quantize.progressive(quantize.absmax(8), quantize.absmax(4), at=500),
      r"^at must be a tuple of steps, .* write \(500,\), got 500",
    ),
    (
      lambda: quantize.allocate_bits(Sensitivity("kl", (8, 4), (), 0, 32), "60KB"),
      "^budget_bytes must be a number of bytes, such as 60_000, got '60KB'",
    ),
    (lambda: quantize.allocate_bits({}, 60_000), "^sensitivity must be what quantize.sensitivity"),
    (
      lambda: init_state(
        recipe(teachers=(MODEL,)), KEY, batch_of(np.zeros(2, int)), teacher_variables=(None,)
      ),
      r"^teacher_variables\[0\] must be a dict with 'params', .*got None",
    ),
  ],
)
def test_what_is_of_another_kind_is_named_with_the_way_out(use, message):
  with pytest.raises(ValueError, match=message):
    use()


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_labels_beyond_the_students_classes_are_refused_at_the_start(array):
  for label, message in (
    ([3, 46], "^label: 46 is out of range; the student has 10 classes, .*give it 47 classes"),
    ([-1, 3], "^label: -1 is out of range; .* labels must be 0 to 9; number labels from 0"),
  ):
    with pytest.raises(ValueError, match=message):
      init_state(recipe(), KEY, batch_of(array(label)))
  first = Stage(distill.named_chain(labels=distill.cross_entropy()), ("student",), 1)
  unread = distill.named_chain(none=distill.stateless("none", lambda s, t, b: s.logits.sum()))
  with pytest.raises(ValueError, match=r"^label: 46"):
    init_state(recipe(stages=(first,), loss=unread), KEY, batch_of(array([3, 46])))


def test_labels_that_no_loss_reads_or_that_become_others_start_a_run():
  label = np.array([3, 46])
  unread = distill.stateless("none", lambda student, teachers, batch: student.logits.sum())
  init_state(recipe(loss=unread), KEY, batch_of(label))
  init_state(recipe(), KEY, batch_of(label, target=np.full((2, 10), 0.1, np.float32)))
  coarse = lambda rng, batch: {**batch, "label": batch["label"] // 5}  # noqa: E731
  init_state(recipe(augment=coarse), KEY, batch_of(label))
  same = lambda rng, batch: batch  # noqa: E731
  with pytest.raises(ValueError, match=r"^label: 46"):
    init_state(recipe(augment=same), KEY, batch_of(label))
  jax.eval_shape(lambda batch: init_state(recipe(), KEY, batch), batch_of(label))


@pytest.mark.slow
def test_a_state_prints_shortly_and_says_when_a_step_has_taken_it(state):
  assert repr(state) == (
    "CompressState(step=0, skipped=0, ResNetCifar of 78,042 parameters, 0 teachers, 8x8x3)"
  )
  assert "step=traced" in repr(jax.eval_shape(lambda state: state, state))
  batch = batch_of(np.zeros(2, np.int32))
  given = jax.tree.map(jnp.copy, state)
  after, _ = train_step(given, batch)
  assert "step=1" in repr(after)
  assert "step=donated" in repr(given)
  with pytest.raises(
    ValueError, match=r"^state: a step has taken this state's memory; use the stat"
  ):
    train_step(given, batch)


@pytest.mark.slow
def test_data_and_quantized_models_print_in_one_line():
  assert repr(DATASET) == (
    "Dataset('x', train 1,200, validation 1,200, test 1,200, 8x8x3, 2 classes)"
  )
  assert repr(PART) == "Split(1,200 images of 8x8x3)"
  images = np.random.default_rng(0).normal(size=(4, *SIZE)).astype(np.float32)
  variables = nn.init_variables(MODEL, KEY, SIZE)
  found = quantize.post_training(MODEL, variables, images, method="minmax", progress=False)
  assert repr(found) == (
    f"QuantizedModel(8x8x3, {len(found.graph.nodes)} nodes, 10 layers, 77,360 int8 weights, 8-bit"
    " activations, 80,128 bytes, kernels='xnnpack')"
  )
  shapes = ((1, 2, 2, 3),), ((1, 3),)
  pool = Node("pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), *shapes)
  grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
  assert "0 layers" in repr(
    quantize.QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})
  )
