"""csv:FILE: tables of image files as people and programs write them."""

import codecs

import numpy as np
import pytest
from PIL import Image

from jaxcompress import data as datasets

ROWS = [(f"img/{name} {i}.png", name) for name in ("cat", "dog") for i in range(6)]


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / "img").mkdir()
  for name, _ in ROWS:
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name)
  return tmp_path


def load(folder, text, encoding="utf-8", **options):
  file = folder / "table.csv"
  file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
  return datasets.load(f"csv:{file}", **options)


def lines(delimiter=",", header="path,label", rows=ROWS):
  head = [header.replace(",", delimiter)] if header else []
  return "\n".join([*head, *(delimiter.join(row) for row in rows)])


def contents(data):
  return {
    (name, data.classes[label]): pixels.tobytes()
    for part in (data.train, data.validation, data.test)
    for name, label, pixels in zip(part.names, part.labels, part.images, strict=True)
  }


WAYS = {
  "no header": lines(header=""),
  "semicolons": lines(";"),
  "tabs": lines("\t", "filename,class"),
  "bars": lines("|", "image,category"),
  "capitals": lines(header="Path,Label"),
  "quoted": "path,label\n" + "\n".join(f'"{path}","{label}"' for path, label in ROWS),
  "spaces": "path, label\n" + "\n".join(f"{path} , {label}" for path, label in ROWS),
  "crlf and empty lines": lines().replace("\n", "\r\n") + "\r\n\r\n",
  "other columns": lines(header="n,label,path,by", rows=[("1", b, a, "me") for a, b in ROWS]),
  "class first": lines(header="", rows=[(b, a) for a, b in ROWS]),
  "backslashes": lines(rows=[(a.replace("/", "\\"), b) for a, b in ROWS]),
  "mark": codecs.BOM_UTF8 + lines().encode(),
  "utf-16": lines().encode("utf-16"),
}


@pytest.mark.parametrize("way", WAYS)
def test_tables_of_every_kind_give_the_pixels_of_the_files(folder, way):
  data = load(folder, WAYS[way])
  assert data.classes == ("cat", "dog") and data.flip is None
  wanted = {(path, label): np.asarray(Image.open(folder / path)).tobytes() for path, label in ROWS}
  assert contents(data) == wanted
  assert all(len(part) for part in (data.train, data.validation, data.test))
  for part in (data.train, data.validation, data.test):
    assert set(part.labels.tolist()) == {0, 1}


def test_splits_are_those_of_the_table_and_what_is_missing_is_split_off(folder):
  parts = ("train", "train", "Train", "val", "val", "test") * 2
  rows = [(*row, part) for row, part in zip(ROWS, parts, strict=True)]
  for header in ("path,label,split", ""):
    data = load(folder, lines(header=header, rows=rows))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [6, 4, 2]
    assert sorted(data.test.names) == [ROWS[5][0], ROWS[11][0]]
  rows = [
    (*row, "test" if part == "test" else "train") for row, part in zip(ROWS, parts, strict=True)
  ]
  data = load(folder, lines(header="path,label,split", rows=rows))
  assert sorted(data.test.names) == [ROWS[5][0], ROWS[11][0]] and len(data.validation) == 2


def test_whole_numbers_are_sorted_as_numbers_and_names_in_any_script_are_kept(folder):
  names = ["10", "9", "100"] * 4
  data = load(folder, lines(rows=[(a, n) for (a, _), n in zip(ROWS, names, strict=True)]))
  assert data.classes == ("9", "10", "100")
  names = ["Löwe", "猫, ja", 'a "b"'] * 4
  text = "path,label\n" + "\n".join(
    f'{a},"{n.replace(chr(34), chr(34) * 2)}"' for (a, _), n in zip(ROWS, names, strict=True)
  )
  assert load(folder, text).classes == ("Löwe", 'a "b"', "猫, ja")


def test_missing_and_damaged_files_are_left_out_counted_and_listed_or_refused(folder):
  (folder / ROWS[0][0]).write_bytes(b"")
  (folder / "img" / "text.png").write_text("hello")
  text = lines(rows=[*ROWS, ("img/none.png", "dog"), ("img/text.png", "dog"), ("img", "dog")])
  data = load(folder, text)
  assert len(contents(data)) == 11
  left = {one.name: one.reason for one in data.skipped}
  assert set(left) == {ROWS[0][0], "img/none.png", "img/text.png", "img"}
  assert "No such file" in left["img/none.png"] and left[ROWS[0][0]] == "it is empty"
  assert any("4 images are left out: damaged" in note for note in data.notes)
  with pytest.raises(datasets.DamagedError, match="4 images cannot be used") as caught:
    load(folder, text, strict=True)
  assert len(caught.value.files) == 4


def test_files_listed_twice_stay_in_one_part_and_with_two_labels_are_left_out(folder):
  again = load(folder, lines(rows=[*ROWS, ROWS[3], ROWS[3]]))
  places = [
    part for part in (again.train, again.validation, again.test) if ROWS[3][0] in part.names
  ]
  assert len(places) == 1 and list(places[0].names).count(ROWS[3][0]) == 3
  torn = load(folder, lines(rows=[*ROWS, (ROWS[3][0], "dog")]))
  assert [one.kind for one in torn.skipped] == ["in several classes"] * 2


def test_groups_and_limits_work_as_with_folders(folder):
  data = load(folder, lines(), group_by=r"(\d)\.png", limit=3)
  found = [{name[-5] for name in part.names} for part in (data.train, data.validation, data.test)]
  assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
  assert len(data.train) == 3


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("", "is empty; it must have lines such as"),
    ("\n\n", "is empty; it must have lines such as"),
    ("path\na.png\n", "has one column, as in 'path'"),
    ("path,label\n", "has no images; there must be images of two or more classes"),
    (lines(rows=ROWS[:6]), "has one class, 'cat'"),
    (lines(header="path,kind"), "none of them is called label; name one so"),
    (lines(header="where,label"), "none of them is called path; name one so"),
    ("where,kind\na.png,cat\n", "which neither names the columns path and label nor an image file"),
    (lines(rows=[*ROWS, ("img/x.png", "")]), "has no label in line 14"),
    (lines(rows=[*ROWS, ("", "cat")]), "has no path in line 14"),
    (lines(rows=[*ROWS, ("img/x.png",)]), "has no label in line 14"),
    (lines(rows=[*ROWS, ("img/x.png", "bird")]), "class 'bird' has 1 image"),
    (
      lines(rows=[*ROWS, *[("img/x.png", "cat ")] * 3]).replace("cat ", '"ca\tt"'),
      "control characters",
    ),
    (
      lines(header="path,label,split", rows=[(*row, "all") for row in ROWS]),
      "split 'all' in line 2",
    ),
    (
      lines(header="path,label,split", rows=[(*row, "test") for row in ROWS]),
      "splits need a train",
    ),
    ('path,label\n"a.png,cat\n', "has no cells in line"),
    ("path,label\n\udcff.png,cat".encode("utf-8", "surrogateescape"), "is no UTF-8 text"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is no UTF-8 text"),
    (lines(rows=[(f"no{i}.png", "ab"[i % 2]) for i in range(8)]), "left after 4 were left out"),
  ],
)
def test_what_is_no_table_of_images_is_refused_in_a_line(folder, text, says):
  with pytest.raises(ValueError) as caught:
    load(folder, text)
  assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_that_is_not_there_or_a_folder_is_refused(tmp_path):
  for path in (tmp_path / "no.csv", tmp_path):
    with pytest.raises(ValueError, match=r"data: the table .* cannot be read"):
      datasets.load(f"csv:{path}")


def test_unknown_kinds_are_told_all_and_what_is_nearest(folder):
  with pytest.raises(
    ValueError, match=r"it must be glyphs, digits, .*folder:PATH, csv:FILE,? .*or "
  ):
    datasets.load("emnist")
  (folder / "table.csv").write_text(lines())
  with pytest.raises(ValueError, match=r"did you mean csv:.*table\.csv\? "):
    datasets.load(str(folder / "table.csv"))
  with pytest.raises(ValueError, match="did you mean folder:"):
    datasets.load(str(folder))
  with pytest.raises(ValueError, match="csv is written csv:FILE; "):
    datasets.load("csv")
