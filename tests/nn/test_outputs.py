"""Models of several outputs: names, tracing, evaluation, and as data."""

from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcompress import models, nn
from jaxcompress.nn.execute import execute_outputs, folded_layers
from jaxcompress.nn.outputs import as_endpoints
from jaxcompress.nn.replay import replay
from jaxcompress.nn.tracing import trace_endpoints


class Parts(NamedTuple):
  box: Any
  area: Any


class Tensors(NamedTuple):
  image: Any
  body: Any
  halves: Any
  boxes: Any
  logits: Any


class Net(linen.Module):
  """Returns what ``pick`` chooses among its tensors."""

  pick: Any
  image_size: int = 8

  @linen.compact
  def __call__(self, x, *, train):
    stem = nn.ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    body = nn.ConvNorm(8, kernel=3, name="body")(stem, train=train)
    active = nn.Activation("relu", name="relu")(body)
    halves = nn.Split((3, 5), name="split")(active)
    boxes = nn.ConvNorm(4, norm=None, name="boxes")(active, train=train)
    pooled = nn.GlobalAvgPool(name="pool")(active)
    logits = nn.Dense(3, name="classifier")(pooled)
    return self.pick(Tensors(x, body, halves, boxes, logits))


SHAPE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
PICKS = {
  "logits": (lambda t: t.logits, {"logits": "classifier"}),
  "map": (lambda t: t.boxes, {"logits": "boxes"}),
  "tuple": (lambda t: (t.boxes, t.logits), {"1": "classifier", "0": "boxes"}),
  "tuple of one": (lambda t: (t.boxes,), {"0": "boxes"}),
  "dict": (
    lambda t: {"scores": t.logits, "map": t.boxes},
    {"scores": "classifier", "map": "boxes"},
  ),
  "nested": (
    lambda t: {"head": {"boxes": [t.boxes, t.body]}, "logits": t.logits, "none": None},
    {"logits": "classifier", "head/boxes/0": "boxes", "head/boxes/1": "body"},
  ),
  "named tuple": (lambda t: Parts(t.boxes, t.body), {"box": "boxes", "area": "body"}),
  "part of a split": (lambda t: t.halves, {"0": "split", "1": "split:1"}),
  "twice": (lambda t: {"a": t.boxes, "b": t.boxes}, {"a": "boxes", "b": "boxes"}),
  "endpoints": (
    lambda t: nn.Endpoints(t.logits, outputs={"map": t.boxes}),
    {"logits": "classifier", "map": "boxes"},
  ),
  "endpoints with its logits named": (
    lambda t: nn.Endpoints(t.boxes, outputs={"pre": t.body, "seg": t.boxes}),
    {"seg": "boxes", "pre": "body"},
  ),
}


@pytest.mark.parametrize("case", PICKS)
def test_outputs_have_the_names_of_their_places_and_the_logits_come_first(case):
  pick, expected = PICKS[case]
  graph = models.summarize(Net(pick)).graph
  assert graph.outputs == tuple(expected.items())
  assert graph.output == next(iter(expected.values()))
  assert hash(graph) == hash(models.summarize(Net(pick)).graph)


@pytest.mark.parametrize("case", PICKS)
def test_a_replay_computes_the_same_outputs_and_is_saved_with_their_names(case, tmp_path):
  pick, expected = PICKS[case]
  model = Net(pick)
  summary = models.summarize(model)
  module = replay(*trace_endpoints(model, summary.variables, SHAPE))
  assert models.summarize(module).graph == summary.graph
  variables = nn.init_variables(model, jax.random.key(0), (8, 8, 3))
  wanted, given = (flatten_dict(tree) for tree in (models.summarize(module).variables, variables))
  needed = unflatten_dict({path: given[path] for path in wanted})  # of the layers that are read
  same, read = models.load(models.save(tmp_path / "net.safetensors", module, needed))
  assert same == module and hash(same) == hash(module)
  assert models.summarize(same).graph == summary.graph
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  found = same.apply(read, x, train=False)
  theirs = as_endpoints(model.apply(variables, x, train=False))
  np.testing.assert_array_equal(found.logits, theirs.logits)
  for name, array in theirs.outputs.items():
    np.testing.assert_array_equal(found.outputs[name], array)
  assert set(found.outputs) == (set() if tuple(expected) == ("logits",) else set(expected))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", PICKS)
def test_execution_gives_every_output_whatever_else_reads_it(case, fused):
  pick, expected = PICKS[case]
  model = Net(pick)
  variables = nn.init_variables(model, jax.random.key(0), (8, 8, 3))
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  graph = nn.trace(model, variables, x)
  graph = nn.fuse_activations(graph) if fused else graph
  found = execute_outputs(graph, folded_layers(nn.fold(graph, variables)), x)
  ends = as_endpoints(model.apply(variables, x, train=False))
  assert tuple(found) == tuple(expected)
  for name, array in found.items():
    theirs = ends.outputs.get(name, ends.logits)
    np.testing.assert_allclose(array, theirs, atol=1e-5)


def test_an_activation_is_not_fused_into_what_is_an_output_before_it():
  graph = nn.fuse_activations(models.summarize(Net(lambda t: (t.body, t.logits))).graph)
  assert graph.producer("body").attrs["act"] is None
  graph = nn.fuse_activations(models.summarize(Net(lambda t: t.logits)).graph)
  assert graph.producer("relu").name == "body"


REFUSED = {
  "the input": (lambda t: {"image": t.image, "logits": t.logits}, "'image' is the input itself"),
  "made outside": (lambda t: (t.logits, t.boxes + 1), "the output '1' is an array that no leaf op"),
  "one name": (lambda t: {"a": {"b": t.boxes}, "a/b": t.body}, "two outputs called 'a/b'"),
  "nothing": (lambda t: {}, "without an array"),
  "other logits": (
    lambda t: nn.Endpoints(t.logits, outputs={"logits": t.boxes}),
    "'logits' is another array than Endpoints.logits",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_outputs_that_mean_nothing_are_refused(case):
  pick, message = REFUSED[case]
  with pytest.raises(ValueError, match=message):
    models.summarize(Net(pick))
