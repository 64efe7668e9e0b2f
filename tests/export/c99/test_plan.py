"""A plan never has a row written over one that is still needed, and takes little memory."""

import itertools
from functools import partial

import hypothesis
import numpy as np
import pytest

from jaxcompress.export.c99.emitted import Network, Tensor, Whole, Window
from jaxcompress.export.c99.plan import plan
from jaxcompress.export.c99.schedule import flow_of, targets
from jaxcompress.export.c99.storage import fewest_rows, merge
from tests.export.c99.networks import INT8, Machine, networks, row_operation


def walked(network):
  """The plan of a network, after a machine has checked every row that it reads."""
  found = plan(network)
  machine = Machine(network, found)
  machine.run(partial(targets, flow_of(network)))
  return found, machine.calls


@pytest.mark.slow
@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(networks())
def test_every_row_is_there_when_it_is_read(network):
  walked(network)


def test_a_plan_is_the_same_every_time():
  network = inverted_residual(24, 4, 8, kernel=3)
  assert plan(network) == plan(network)


def network_of(operations, tensors, output):
  return Network(
    tuple(operations), {tensor.name: tensor for tensor in tensors}, "input", (("logits", output),)
  )


def inverted_residual(size, channels, expansion, kernel, *, residual=True):
  wide = channels * expansion
  tensors = [
    Tensor("input", (size, size, channels), INT8),
    Tensor("expanded", (size, size, wide), INT8),
    Tensor("filtered", (size, size, wide), INT8),
    Tensor("projected", (size, size, channels), INT8),
  ]
  window = Window(kernel, 1, kernel // 2)
  operations = [
    row_operation("expand", ["input"], [Window()], ["expanded"]),
    row_operation("depthwise", ["expanded"], [window], ["filtered"]),
    row_operation("project", ["filtered"], [Window()], ["projected"]),
  ]
  if not residual:
    return network_of(operations, tensors, "projected")
  tensors.append(Tensor("sum", (size, size, channels), INT8))
  reads = [Window(), Window()]
  operations.append(row_operation("add", ["input", "projected"], reads, ["sum"], overwrites=(0, 1)))
  return network_of(operations, tensors, "sum")


@pytest.mark.parametrize("kernel", [3, 5])
def test_an_inverted_residual_keeps_as_many_expanded_rows_as_the_kernel_has(kernel):
  size, channels, expansion = 24, 8, 6
  found, calls = walked(inverted_residual(size, channels, expansion, kernel))
  rows = {name: kept.rows for name, kept in found.kept.items()}
  assert rows == {"input": size, "sum": size, "expanded": kernel, "filtered": 1, "projected": 1}
  assert found.kept["sum"] == found.kept["input"]  # written upon the rows that nobody needs
  row = size * channels
  assert found.arena == row * (size + (kernel + 1) * expansion + 1)
  assert calls == 4 * size  # nothing is computed twice


def test_an_output_trails_the_input_that_it_is_computed_from():
  size, channels = 24, 8
  network = inverted_residual(size, channels, 2, 3, residual=False)
  found, _ = walked(network)
  row = size * channels
  apart = row * (2 * size + 4 * 2)
  assert found.arena < apart - (size - 4) * row


def test_squeeze_and_excitation_keeps_the_map_that_it_scales_and_writes_upon_it():
  size, channels = 12, 16
  shape = (size, size, channels)
  tensors = [
    Tensor("input", (size, size, 2), INT8),
    *(Tensor(name, shape, INT8) for name in ("map", "filtered", "scaled")),
    *(Tensor(name, (1, 1, channels), INT8) for name in ("mean", "gate")),
    Tensor("projected", (size, size, 2), INT8),
  ]
  operations = [
    row_operation("expand", ["input"], [Window()], ["map"]),
    row_operation("depthwise", ["map"], [Window(3, 1, 1)], ["filtered"]),
    row_operation("pool", ["filtered"], [Window()], ["mean"], kind="fold", scratch=4 * channels),
    row_operation("gate", ["mean"], [Window()], ["gate"]),
    row_operation("scale", ["filtered", "gate"], [Window(), Whole()], ["scaled"], overwrites=(0,)),
    row_operation("project", ["scaled"], [Window()], ["projected"]),
  ]
  found, calls = walked(network_of(operations, tensors, "projected"))
  assert found.arena < size * size * channels + 4 * size * channels + size * size * 2
  assert found.kept["scaled"] == found.kept["filtered"]
  assert calls == 5 * size + 1


def test_a_chain_of_large_maps_is_cut_where_rings_would_take_more():
  """Maps get small by strides; a fused chain would keep rows of the large ones beside the small."""
  tensors = [Tensor("input", (32, 32, 3), INT8)]
  operations = []
  for i in range(1, 6):
    side = 32 >> i
    tensors.append(Tensor(f"t{i}", (side, side, 3 << i), INT8))
    reads = [Window(3, 2, 1)]
    operations.append(row_operation(f"o{i}", [tensors[-2].name], reads, [tensors[-1].name]))
  found, _ = walked(network_of(operations, tensors, "t5"))
  assert found.arena < 32 * 32 * 3 * 1.6


def test_reshaping_copies_nothing():
  tensors = [
    Tensor("input", (4, 4, 3), INT8),
    Tensor("flat", (48,), INT8),
    Tensor("end", (5,), INT8),
  ]
  operations = [
    row_operation(
      "flatten", ["input"], [Whole()], ["flat"], kind="whole", overwrites=(0,), is_view=True
    ),
    row_operation("dense", ["flat"], [Whole()], ["end"]),
  ]
  found, _ = walked(network_of(operations, tensors, "end"))
  assert found.left_out == (True, False)
  assert found.arena == 48 + 5


def test_what_nobody_reads_takes_no_more_than_a_row():
  tensors = [
    Tensor("input", (8, 8, 2), INT8),
    Tensor("left", (8, 8, 1), INT8),
    Tensor("right", (8, 8, 1), INT8),
    Tensor("end", (8, 8, 1), INT8),
  ]
  operations = [
    row_operation("split", ["input"], [Window()], ["left", "right"]),
    row_operation("act", ["left"], [Window()], ["end"], overwrites=(0,)),
  ]
  found, _ = walked(network_of(operations, tensors, "end"))
  assert found.kept["right"].rows == 1


def test_rows_that_nobody_reads_are_not_computed():
  tensors = [
    Tensor("input", (9, 4, 2), INT8),
    Tensor("made", (9, 4, 2), INT8),
    Tensor("end", (4, 4, 2), INT8),
  ]
  operations = [
    row_operation("act", ["input"], [Window()], ["made"]),
    row_operation("pool", ["made"], [Window(2, 2, 0)], ["end"]),
  ]
  _, calls = walked(network_of(operations, tensors, "end"))
  assert calls in (8 + 4, 9 + 4)


def test_an_operation_that_reads_what_nobody_makes_is_refused():
  tensors = [Tensor("input", (2, 2, 1), INT8), Tensor("end", (2, 2, 1), INT8)]
  operations = [row_operation("act", ["other"], [Window()], ["end"])]
  with pytest.raises(ValueError, match="'act' reads 'other'"):
    plan(network_of(operations, tensors, "end"))


@hypothesis.given(
  hypothesis.strategies.lists(
    hypothesis.strategies.tuples(
      hypothesis.strategies.integers(-9, 9), hypothesis.strategies.integers(1, 5)
    ),
    max_size=8,
  )
)
def test_merged_intervals_hold_the_same_points(pairs):
  low = np.array([start for start, _ in pairs], int)
  high = np.array([start + length for start, length in pairs], int)
  found = merge(low, high)
  for point in np.arange(-10, 16, 0.5):
    assert ((low < point) & (point < high)).any() == any(a < point < b for a, b in found)
  assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))


def test_a_ring_has_as_many_rows_as_live_at_once():
  born, dies = np.array([0, 1, 2, 3, 4]), np.array([2, 3, 4, 4, 4])
  assert fewest_rows(born, dies) == 3
  assert fewest_rows(born, np.full(5, 9)) == 5
