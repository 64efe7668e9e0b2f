"""JSON in files: strict, and within bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcompress.files.values import check_depth, check_format, parse_json, read_json, sealed_json

VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
  max_leaves=9,
)  # fmt: skip


@pytest.mark.slow
@given(VALUES)
def test_what_was_written_is_read(value):
  assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('{"a": Infinity}', "the number Infinity"),
    ('{"a": [-Infinity]}', "the number -Infinity"),
    ("NaN", "the number NaN"),
    ("[1e999]", "the number 1e999"),
    ("[-1.5e99999]", "the number -1.5e99999"),
    ("[" * 66 + "]" * 66, "nested more than 64 deep"),
    ('{"a":' * 900 + "1" + "}" * 900, "nested more than 64 deep"),
    ("[" * 10**6, "nested more than 64 deep"),
    ("[" * 10**7 + " " * 10**7, "more than 16,777,216"),
    ("", "Expecting value"),
    ("{", "Expecting property name"),
    ("9" * 5000, "integer string conversion"),
    (b"\xff", "codec can't decode"),
  ],
)
def test_what_is_no_json_or_beyond_bounds_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    parse_json(text)


@given(st.integers(0, 70))
def test_depth_is_counted_alike_in_writing_and_reading(depth):
  value = 1
  for _ in range(depth):
    value = [value]
  text = json.dumps(value)
  if depth <= 64:
    assert parse_json(text) == value
    check_depth(value)
    return
  for act in (lambda: parse_json(text), lambda: check_depth(value)):
    with pytest.raises(ValueError, match="64 deep"):
      act()


@given(st.dictionaries(st.text().filter(lambda name: name != "seal"), VALUES, max_size=4))
def test_a_sealed_file_gives_back_its_values(tmp_path_factory, values):
  path = tmp_path_factory.getbasetemp() / "values.json"
  path.write_text(sealed_json(values), encoding="utf-8")
  assert read_json(path, "a: b") == values
  assert json.loads(path.read_text()).keys() == values.keys() | {"seal"}


@pytest.mark.parametrize("found", [0, -1, 2.0, True, None, "1", [1]])
def test_formats_are_whole_numbers(found):
  with pytest.raises(ValueError, match="formats are counted from 1"):
    check_format(found, 2, "path: a")


def test_a_newer_format_is_called_newer():
  for found in (3, 10**30):
    with pytest.raises(ValueError, match=f"path: a has format {found} .* 1 to 2; update"):
      check_format(found, 2, "path: a")
  check_format(2, 2, "path: a")
