"""The table of a data set: what it counts, and that it fits a terminal."""

import hypothesis
import numpy as np
from hypothesis import strategies as st
from rich.cells import cell_len

from jaxcompress import data


def dataset(classes, counts):
  """Of so many images of each class in each part."""

  def part(of_classes):
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), of_classes)
    return data.Split(np.zeros((len(labels), 4, 4, 3), np.uint8), labels)

  train, validation, test = map(part, counts)
  return data.Dataset(
    name="x",
    classes=tuple(classes),
    train=train,
    validation=validation,
    test=test,
    sizes=((3, 4), (30, 40), (3000, 4000)),
    notes=("left out: a",),
  )


def test_a_table_has_a_row_for_each_class_and_the_sums():
  found = data.summary(dataset(["cat", "dog"], [(1200, 3), (1, 2), (0, 4)]))
  assert str(found).splitlines() == [
    "class      train  validation  test    all",
    "cat        1,200           1     0  1,201",
    "dog            3           2     4      9",
    "2 classes  1,203           3     4  1,210",
    "images of 4 x 4 px, from pictures (high x wide): smallest 3 x 4, median 30 x 40, largest 3,000 x 4,000",
    "left out: a",
  ]


def test_of_many_classes_the_first_and_last_are_shown_and_all_are_counted():
  names = [f"class {i:03}" for i in range(200)]
  found = data.summary(dataset(names, [range(1, 201), [1] * 200, [1] * 200]))
  lines = found.table()
  assert len(lines) == 11 and lines[5] == "... 192 more of 7 to 198 each"
  assert lines[4].split() == ["class", "003", "4", "1", "1", "6"]
  assert lines[-2].split()[-1] == "202" and lines[-1].split()[-1] == "20,500"
  assert found.counts["train"] == tuple(range(1, 201))


NAMES = st.text(
  st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=90
).filter(str.strip)


@hypothesis.given(
  names=st.lists(NAMES, min_size=2, max_size=30, unique=True), count=st.integers(0, 10**9)
)
def test_every_line_fits_a_terminal_and_figures_are_under_one_another(names, count):
  counts = {part: (count,) * len(names) for part in ("train", "validation", "test")}
  lines = data.Summary(tuple(names), counts, (32, 32, 3)).table()
  assert all(cell_len(line) <= 76 for line in lines)
  assert len({cell_len(line) for line in lines if " more of " not in line}) == 1
  assert all(f"{3 * count:,}" in line for line in lines[1:-1] if " more of " not in line)
