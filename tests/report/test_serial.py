"""Results to JSON and back, and the mistakes that building them names."""

import dataclasses
import json

import numpy as np
import pytest

from jaxcompress.report.results import Entry, Sample, Spread, label, ordered
from jaxcompress.report.write import dumps, from_json, to_json


def test_the_four_networks_are_objects_at_the_top_level(full):
  data = to_json(full)
  for key in ("teacher", "alone", "distilled", "int8"):
    assert {"top1", "parameters", "macs", "bytes"} <= set(data[key])
  assert data["int8"]["bit_equal"] == 1.0
  assert data["int8"]["latency_ms"] == 0.41


def test_the_int8_object_says_so_where_the_device_was_not_measured(full):
  bare = dataclasses.replace(full.entries["int8"], bit_equal=None, latency_ms=None)
  data = to_json(dataclasses.replace(full, entries={**full.entries, "int8": bare}))
  assert data["int8"]["bit_equal"] is None
  assert data["int8"]["latency_ms"] is None


def test_results_come_back_equal_from_strict_json(full):
  data = json.loads(dumps(full), parse_constant=pytest.fail)
  back = from_json(data)
  assert to_json(back) == to_json(full)
  assert back.run == full.run
  assert back.entries == dict(full.entries)
  assert back.layers == full.layers
  assert back.ranges == full.ranges
  assert back.samples == full.samples
  assert back.search == full.search
  np.testing.assert_array_equal(back.confusion, full.confusion)


def test_further_networks_come_back_and_stand_before_the_integers(full):
  entries = {
    **full.entries,
    "alone_equal_time": full.entries["alone"],
    "mine": full.entries["alone"],
  }
  back = from_json(to_json(dataclasses.replace(full, entries=entries)))
  keys = [key for key, _ in ordered(back)]
  assert keys == ["teacher", "alone", "alone_equal_time", "distilled", "mine", "int8"]


def test_numbers_that_are_not_finite_become_null(full):
  curves = {"teacher": [{"step": 1, "loss": np.float32("nan"), "accuracy": np.float32(0.5)}]}
  data = to_json(dataclasses.replace(full, curves=curves))
  assert data["curves"] == {"teacher": [{"step": 1, "loss": None, "accuracy": 0.5}]}


def test_an_all_zero_channel_has_no_finite_spread_and_still_serialises(full):
  layer = dataclasses.replace(full.layers[0], weights=Spread(0.0, 1.0, 2.0))
  data = json.loads(dumps(dataclasses.replace(full, layers=(layer,))))
  assert data["layers"][0]["weights"] == {
    "low": 0.0, "median": 1.0, "high": 2.0, "absmax": 2.0, "spread": None,
  }  # fmt: skip
  assert from_json(data).layers == (layer,)


def test_fewer_bits_are_named_in_the_label(full):
  entry = dataclasses.replace(full.entries["int8"], weight_bits=2)
  assert label("int8", entry) == "distilled, 2-bit weights"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda r: {"entries": {"teacher": r.entries["teacher"]}}, "entries: alone, distilled, int8"),
    (lambda r: {"confusion": np.eye(3, dtype=int)}, r"confusion: shape \(3, 3\)"),
  ],
)
def test_results_name_what_is_missing_or_does_not_fit(full, change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(full, **change(full))


def test_a_percentage_is_no_share():
  with pytest.raises(ValueError, match=r"top1: 90\.3 must be a share"):
    Entry("m", 90.3, 1, 1, 1)


def test_a_sample_must_be_an_image():
  with pytest.raises(ValueError, match="image: float32 of shape"):
    Sample.of(np.zeros((8, 8, 3), np.float32), 0, 0)


def test_results_without_a_teacher_come_back(full):
  entries = {key: entry for key, entry in full.entries.items() if key != "teacher"}
  results = dataclasses.replace(full, entries=entries)
  assert from_json(to_json(results)).entries == entries


def test_other_json_and_later_formats_are_refused(full):
  with pytest.raises(ValueError, match="alone, distilled"):
    from_json({"int8": {}})
  with pytest.raises(ValueError, match="format 99"):
    from_json({**to_json(full), "format": 99})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"teacher": 3}, "entries"),
    ({"teacher": {"model": "m"}}, "missing required field"),
    ({"others": [1]}, "object"),
    ({"format": "one"}, "format 'one'"),
    ({"run": {"data": "x", "classes": [1]}}, r"run.classes\[0\]: Expected str"),
    ({"confusion": [[1, 2], [3]]}, "confusion: "),
    ({"confusion": [[1.5]]}, "Expected int"),
    ({"layers": [{}]}, r"layers\[0\]: "),
    ({"samples": [{"png": "?", "label": 0, "prediction": 0}]}, "base64"),
    ({"ranges": "none"}, "ranges: Expected array"),
    ({"curves": {"teacher": 1}}, "curves"),
  ],
)
def test_damaged_json_is_told_in_a_line(full, changes, message):
  with pytest.raises(ValueError, match=message) as error:
    from_json({**to_json(full), **changes})
  assert "\n" not in str(error.value)


def test_what_later_versions_add_is_left_out(full):
  data = to_json(full)
  data["teacher"]["new"] = data["run"]["new"] = data["layers"][0]["new"] = data["new"] = 1
  assert to_json(from_json(data)) == to_json(full)


def test_a_report_of_the_first_versions_is_read(full):
  data = json.loads(dumps(full))
  for key in ("teacher", "alone", "distilled", "int8"):  # they left out what was not measured
    data[key] = {name: value for name, value in data[key].items() if value is not None}
  del data["search"]
  assert from_json(data).entries == dict(full.entries)
