"""Searching for a student within a budget: what is planned, kept over a kill, and refused."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxcompress import data as datasets
from jaxcompress import export, models, nn, prune, quantize
from jaxcompress.pipeline import budgets, networks, phases, search
from jaxcompress.pipeline.budgets import Budget, Candidate
from jaxcompress.pipeline.context import Context, PhaseSteps
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.presets import PRESETS
from jaxcompress.prune.removal import plan_removal

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def ladder():
  return {
    width: models.summarize(models.mobilenet_v2(3, width), 32).graph for width in (0.5, 0.35, 0.25)
  }


@pytest.mark.slow
def test_a_sketch_costs_what_a_quantized_network_does(ladder, tmp_path):
  rng = np.random.default_rng(0)
  shapes = models.summarize(models.mobilenet_v2(3, 0.25), 32).variables
  draw = lambda leaf: 1e-3 + np.abs(rng.normal(size=leaf.shape))  # noqa: E731
  folded = nn.fold(nn.fuse_activations(ladder[0.25]), jax.tree.map(draw, shapes))
  scales = {
    name: layer.kernel.max(tuple(range(layer.kernel.ndim - 1))) / np.float32(127)
    for name, layer in folded.items()
  }
  sketch, half = (budgets.sketch(ladder[0.25], bits) for bits in (8, 4))
  real = quantize.assemble(sketch.graph, folded, scales, sketch.grids)
  sizes = [export.tflite(m, tmp_path / "model.tflite").stat().st_size for m in (real, sketch)]
  assert sizes[0] == sizes[1]
  packed = [budgets.packed_size(model) for model in (real, sketch, half)]
  assert packed[0] <= packed[1] < 1.3 * packed[0]
  fewer = quantize.model_bytes(sketch) - quantize.model_bytes(half)
  assert abs(packed[1] - packed[2] - fewer) < 0.05 * fewer


@pytest.mark.slow
def test_the_widest_that_fits_is_tried_and_what_is_wider_is_pruned(ladder):
  macs = {width: nn.count_macs(graph) for width, graph in ladder.items()}
  assert budgets.plan(Budget(macs=macs[0.35]), ladder) == (
    Candidate("x0.35", 0.35),
    Candidate("x0.5 pruned", 0.5, prunes=True),
  )
  assert budgets.plan(Budget(macs=macs[0.5]), ladder) == (Candidate("x0.5", 0.5),)
  assert budgets.plan(Budget(macs=macs[0.25] - 1), ladder) == (
    Candidate("x0.25 pruned", 0.25, prunes=True),
    Candidate("x0.25 pruned, from scratch", 0.25, prunes=True, fresh=True),
  )
  size = budgets.packed_size(budgets.sketch(ladder[0.25]))
  assert [candidate.name for candidate in budgets.plan(Budget(size=size), ladder)] == [
    "x0.25",
    "x0.35 pruned",
    "x0.35 mixed bits",
    "x0.5 pruned, mixed bits",
  ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["size", "macs", "latency_ms"])
def test_an_impossible_budget_is_refused_with_the_least_that_can_be_reached(ladder, name):
  few = {0.25: ladder[0.25]}
  with pytest.raises(ValueError, match=rf"max_{name}: 1.* cannot be met; the least .* is") as error:
    budgets.plan(Budget(**{name: 1e-6 if name == "latency_ms" else 1}), few)
  if name == "latency_ms":
    return
  least = int(str(error.value).split(" reaches is ")[1].split(", with")[0].replace(",", ""))
  candidate, *rival = budgets.plan(Budget(**{name: least}), few)
  assert candidate.prunes and [one.fresh for one in rival] == [True] * (name == "macs")
  with pytest.raises(ValueError, match="cannot be met"):
    budgets.plan(Budget(**{name: least - 1}), few)


def test_as_many_channels_stay_as_fit(ladder):
  graph = ladder[0.25]
  variables = models.summarize(models.mobilenet_v2(3, 0.25), 32).variables
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), variables)
  importance = prune.channel_importance(
    models.mobilenet_v2(3, 0.25), variables, jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  )
  most = nn.count_macs(graph) // 2
  keep = prune.fit_channels(importance, lambda graph: nn.count_macs(graph) <= most)
  kept = nn.count_macs(plan_removal(importance.graph, keep.masks).graph)
  assert 0.85 * most < kept <= most


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"max_size": "much"}, "max_size: 'much' is no size"),
    ({"max_macs": "-3"}, "max_macs: '-3' is no number"),
    ({"max_latency_ms": 0.0}, r"max_latency_ms: 0\.0 must be positive"),
  ],
)
def test_a_budget_that_is_none_is_refused(given, message):
  with pytest.raises(ValueError, match=message):
    CompressOptions(**given)


@pytest.fixture
def run(tmp_path):
  """A run on 16 px images whose networks are not trained."""
  rng = np.random.default_rng(0)
  part = datasets.Split(
    rng.integers(0, 256, (48, 16, 16, 3)).astype(np.uint8), np.arange(48, dtype=np.int32) % 3
  )
  data = datasets.Dataset(name="x", classes=CLASSES, train=part, validation=part, test=part)
  return Context(
    folder=tmp_path,
    options=CompressOptions(student="resnet8", max_size="40KB"),
    data=data,
    preset=PRESETS["default"],
    steps=PhaseSteps(4, 2),
    metrics=None,
    console=Console(quiet=True),
  )


@pytest.fixture
def trained(monkeypatch):
  """In place of training: the phases that were asked for; the one named in ``stop`` is killed."""
  asked = SimpleNamespace(phases=[], steps={}, stop=None)

  def distill_student(run, network, teacher, on_float=None, **options):
    phase, start, steps = (options.get(key) for key in ("phase", "start", "steps"))
    asked.phases.append(phase)
    shape = run.data.image_shape
    variables = start or nn.init_variables(network.module, jax.random.key(0), shape)
    if on_float is not None:
      on_float(variables)
    if phase == asked.stop:
      raise KeyboardInterrupt

    def quantized():
      return quantize.post_training(
        network.module,
        variables,
        run.data.train.images[:8],
        method="minmax",
        rules=options.get("rules", ()),
        preprocess=run.preprocess,
        progress=False,
      )

    asked.steps[phase] = steps
    return SimpleNamespace(averaged=SimpleNamespace(variables=variables), quantized=quantized)

  monkeypatch.setattr(phases, "distill_student", distill_student)
  return asked


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_in_a_file_that_fits(run, trained, monkeypatch):
  monkeypatch.setattr(budgets, "latency", lambda model: 1.0)
  student = networks.build("resnet8", 3, run.data.image_shape, None, None, {})
  whole = networks.build("resnet14", 3, run.data.image_shape, None, None, {})
  variables = nn.init_variables(whole.module, jax.random.key(1), run.data.image_shape)
  teacher = networks.TrainedNetwork(whole, variables)
  trained.stop = "whole-width-pruned-mixed-bits"
  with pytest.raises(KeyboardInterrupt):
    search.find_student(run, student, teacher)
  pruned, fresh = "whole-width-pruned", "whole-width-pruned-from-scratch"
  assert trained.phases == ["float-resnet8", f"{pruned}-1", pruned, fresh, trained.stop]
  assert trained.steps[f"{pruned}-1"] == (1, 0) and trained.steps[pruned] == (1, 2)
  assert trained.steps[fresh] == (6, 2)  # as many as those of the other in all
  first, second = search.read_trials(run.folder)
  assert first.parameters == second.parameters and first.steps == second.steps == 8
  with (run.folder / search.TRIALS_FILE).open("a") as file:
    file.write('{"name": "whole wid')  # a line that a kill cut off
  trained.phases.clear()
  last, trained.stop = trained.stop, None
  found = search.find_student(run, student, teacher)
  assert trained.phases == [last]
  results = search.read_trials(run.folder)
  assert results[:2] == (first, second) and len(results) == 3
  for line in (run.folder / search.TRIALS_FILE).read_text().splitlines():
    assert json.loads(line)["bytes"] <= 40_000
  assert len(set(results[2].bits.values())) > 1 and results[0].bits == {}
  assert bool(found.note) == (found.measured == second)
  assert found.measured == search.choose(results)
  again = export.packed(
    found.quantized, run.folder / "student.jcz", metadata=run.metadata(found.trained.network.title)
  )
  assert again.stat().st_size == found.measured.bytes
  assert found.trained.network.title == f"resnet8 {found.measured.name}"
  assert [one.chosen for one in found.search.candidates].count(True) == 1
  images = run.data.test.images[:8]
  score = np.mean(
    found.quantized.integers(run.data.validation.images).argmax(-1) == run.data.validation.labels
  )
  assert score == found.measured.top1
  logits = found.trained.network.module.apply(
    found.trained.variables, run.preprocess(images), train=False
  ).logits
  assert logits.shape == (8, 3)
