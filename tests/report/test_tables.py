"""Tables in the terminal, and the rows that they are made of."""

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from jaxcompress import models, nn
from jaxcompress.quantize.integer.grid import Grid
from jaxcompress.report.layers import estimated_bytes, layer_rows, range_rows
from jaxcompress.report.results import Entry
from jaxcompress.report.tables import layer_table, model_table, result_table


def draw(table, width=80):
  console = Console(width=width, color_system=None, file=io.StringIO())
  console.print(table)
  return console.file.getvalue()


@pytest.fixture(scope="module")
def summary():
  return models.summarize(models.mobilenet_v2(10, 0.25, layout="short"))


def test_the_results_fit_a_terminal_of_80_characters(full):
  drawn = draw(result_table(full))
  for part in ("93.67 %", "608,000", "128 kB", "0.41 ms", "100 %", "2 min 0 s"):
    assert part in drawn
  assert "…" not in drawn


def test_rows_that_no_network_has_are_left_out(full):
  entries = {
    key: Entry(e.model, e.top1, e.parameters, e.macs, e.bytes) for key, e in full.entries.items()
  }
  drawn = draw(result_table(dataclasses.replace(full, entries=entries)), 120)
  assert "thread" not in drawn and "steps" not in drawn and "bit-equal" not in drawn


def test_markup_in_names_is_text(full):
  entry = dataclasses.replace(full.entries["teacher"], model="[red]x[/red]")
  drawn = draw(result_table(dataclasses.replace(full, entries={**full.entries, "teacher": entry})))
  assert "[red]x[/red]" in drawn


def test_the_layer_table_adds_up_to_the_model(summary):
  drawn = draw(layer_table(summary.graph, summary.variables["params"], "a model"), 120)
  assert f"{summary.parameters:,}" in drawn
  assert f"{summary.macs:,}" in drawn
  assert "depthwise 3x3, stride 2, relu6" in drawn


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v4_conv_large", "ghostnet"])
def test_in_80_characters_names_of_layers_are_broken_behind_slashes_alone(name):
  found = models.summarize(models.create(name, 1000))
  rows = layer_rows(found.graph, found.variables["params"])
  lines = draw(layer_table(found.graph, found.variables["params"])).splitlines()
  head = next(i for i, line in enumerate(lines) if line.split()[:2] == ["layer", "op"])
  cells = [line[: lines[head].index(" op")].strip() for line in lines[head + 2 :]]
  cells = [cell for cell in cells if cell]
  assert "".join(cells) == "".join(row.name for row in rows) + f"{len(rows)} layers"
  whole = "/" + "/".join(row.name for row in rows) + "/"
  assert all(f"/{cell.rstrip('/')}/" in whole for cell in cells[:-1])


@pytest.mark.parametrize(
  "name", ["mobilenet_v2", "mobilenet_v4_conv_large", "ghostnet", "resnet50"]
)
def test_in_80_characters_no_word_is_broken(name):
  found = models.summarize(models.create(name, 1000))
  drawn = draw(layer_table(found.graph, found.variables["params"]))
  assert drawn.split()[:2] == ["multiply-", "layer"]  # a table, not row by row
  rows = layer_rows(found.graph, found.variables["params"])
  wanted = {word for row in rows for word in row.op.split()}
  assert wanted <= set(drawn.split()) and "GlobalAvgPool" in wanted


def test_the_model_table_has_sizes_at_three_widths(summary):
  drawn = draw(model_table({"small": summary}, "Models"))
  assert "32 bit" in drawn and "4 bit" in drawn and " 32 " in drawn


def test_integers_and_fewer_bits_take_less_room(summary):
  sizes = [estimated_bytes(summary.graph, bits) for bits in (32, 8, 4, 2)]
  assert sizes == sorted(sizes, reverse=True)
  weights = sum(np.prod(nn.kernel_shape(n)) for n in summary.graph.nodes if nn.kernel_shape(n))
  assert sizes[0] - sizes[1] == 3 * weights - 4 * channels(summary.graph)


def channels(graph):
  return sum(nn.kernel_shape(n)[-1] for n in graph.nodes if nn.kernel_shape(n))


def test_rows_of_a_quantized_model_describe_its_integers(summary):
  graph = nn.fuse_activations(summary.graph)
  layers = {
    node.name: SimpleNamespace(
      weights=np.full(nn.kernel_shape(node), -100, np.int8),
      scales=np.linspace(0.01, 0.04, nn.kernel_shape(node)[-1], dtype=np.float32),
    )
    for node in graph.nodes
    if nn.kernel_shape(node)
  }
  rows = layer_rows(graph, summary.variables["params"], 8, SimpleNamespace(layers=layers))
  assert [row.name for row in rows] == [node.name for node in graph.nodes]
  for row in rows:
    assert (row.weights is None) == (row.name not in layers)
    if row.weights:
      assert row.weights.high == pytest.approx(4.0)
      assert row.weights.ratio == pytest.approx(4.0)
      size, count = layers[row.name].weights.size, layers[row.name].weights.shape[-1]
      assert row.weight_bytes == -(-size // 8) + 1 + 8 * count  # one value, and an index of a bit


def test_ranges_are_those_that_the_grid_represents():
  grid = Grid(np.float32(0.5), -28)
  (row,) = range_rows({"a": grid})
  assert (row.low, row.high) == (-50.0, 77.5)
