"""cifar:PATH: the sets' own files, as Python 2 pickled them and binary, unpacked and as downloaded."""

import functools
import gzip
import os
import pickle
import shutil
import struct
import tarfile

import numpy as np
import pytest

from jaxcompress import data as datasets
from jaxcompress.data import cifar, plain_pickle

COUNT = 10  # images of a batch, of 10,000


def dumped(value):
  """Pickles as Python 2's cPickle did at protocol 2: text is bytes, arrays are made by old NumPy."""
  return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value):
  if isinstance(value, np.ndarray):
    dtype = b"cnumpy\ndtype\n" + opcodes(b"u1") + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    shape = opcodes(value.shape[0]) + opcodes(value.shape[1]) + b"\x86"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return made + b"(K\x01" + shape + dtype + b"\x89" + opcodes(value.tobytes()) + b"tb"
  if isinstance(value, bytes):
    short = len(value) < 256
    return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value
  if isinstance(value, list):
    return b"](" + b"".join(map(opcodes, value)) + b"e"
  if isinstance(value, dict):
    return b"}(" + b"".join(opcodes(one) for pair in value.items() for one in pair) + b"u"
  return b"J" + struct.pack("<i", value)


def images(name):
  seed = sum(name.encode())
  return np.random.default_rng(seed).integers(0, 256, (COUNT, 3072), np.uint8)


def joined(form, name, pixels, labels):
  """The content of a file of images."""
  if form.labels is None:
    before = np.zeros((len(labels), form.before), np.uint8)
    before[:, -1] = labels
    return np.concatenate([before, pixels], 1).tobytes()
  key = form.labels[0].encode()
  return dumped({b"batch_label": name.encode(), key: list(labels), b"data": pixels})


def contents(form):
  """All files of a small set; CIFAR-100's have five batches in one."""
  names = [f"class_{i}" for i in range(5)]
  files = {form.meta: "\n".join([*names, ""]).encode()}
  if form.labels is not None:
    listed = "".join(f"S'{name}'\np{i}\na" for i, name in enumerate(names, 4))
    text = f"(dp1\nS'num_vis'\np2\nI3072\nsS'{form.labels[1]}'\np3\n(lp3\n{listed}s."
    files[form.meta] = text.encode()  # as Python 2 wrote it at protocol 0
  for name in (*form.train, form.test):
    pixels, labels = images(name), [i % 5 for i in range(COUNT)]
    if len(form.train) == 1 and name != form.test:
      pixels, labels = np.concatenate([images(f"{name}{i}") for i in range(5)]), labels * 5
    files[name] = joined(form, name, pixels, labels)
  return files


def write(folder, files):
  folder.mkdir(exist_ok=True, parents=True)
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return folder


@pytest.mark.parametrize("form", cifar.FORMS, ids=lambda form: form.folder)
@pytest.mark.parametrize("way", ["folder", "above", "archive", "beside", "lazily"])
def test_the_set_is_whole_and_upright_in_every_form(tmp_path, form, way):
  folder = write(tmp_path / form.folder, contents(form))
  place = {"folder": folder, "archive": tmp_path / form.archive}.get(way, tmp_path)
  if way in ("archive", "beside"):
    with tarfile.open(tmp_path / form.archive, "w:gz") as archive:
      archive.add(folder, form.folder)
    shutil.rmtree(folder)
  data = datasets.load(f"cifar:{place}", in_memory=way != "lazily")
  assert data.classes == tuple(f"class_{i}" for i in range(5)) and data.flip is True
  assert (len(data.train), len(data.validation), len(data.test)) == (45, 5, 10)
  assert data.image_shape == (32, 32, 3) and data.notes == ()
  order = [int(name.removeprefix("test/")) for name in data.test.names]
  theirs = images(form.test)[order].reshape(-1, 3, 32, 32)
  for channel in range(3):
    np.testing.assert_array_equal(data.test.images[:][..., channel], theirs[:, channel])
  np.testing.assert_array_equal(data.test.labels, np.array(order) % 5)
  batches = form.train if len(form.train) == 5 else [f"{form.train[0]}{i}" for i in range(5)]
  whole = np.concatenate([images(name) for name in batches])
  for part in (data.train, data.validation):
    order = [int(name.removeprefix("train/")) for name in part.names]
    np.testing.assert_array_equal(part.images[:][..., 1].reshape(-1, 1024), whole[order, 1024:2048])
    np.testing.assert_array_equal(part.labels, np.array(order) % 5)


@pytest.mark.parametrize("protocol", range(5))
def test_batches_that_a_later_python_pickled_again_are_read(tmp_path, protocol):
  form = cifar.FORMS[0]
  files = contents(form)
  for name in (*form.train, form.test):
    batch = {"labels": [i % 5 for i in range(COUNT)], "data": images(name)}
    files[name] = pickle.dumps(batch, protocol)
  data = datasets.load(f"cifar:{write(tmp_path, files)}")
  assert len(data.test) == COUNT
  order = [int(name.removeprefix("test/")) for name in data.test.names]
  np.testing.assert_array_equal(
    data.test.images[..., 0].reshape(COUNT, -1), images(form.test)[order][:, :1024]
  )


class Hostile:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


def global_of(module, name):
  return f"c{module}\n{name}\n".encode()


HOSTILE = {
  "mkdir": lambda path: pickle.dumps(Hostile(path)),
  "in data": lambda path: pickle.dumps({"labels": [0], "data": Hostile(path)}, 2),
  "by instance": lambda path: f"(S'{path}'\niposix\nmkdir\n.".encode(),
  "numpy's loader": lambda path: b"\x80\x02" + global_of("numpy", "load") + b"U\x01a\x85R.",
  "deep name": lambda path: pickle.dumps(Hostile(path), 4).replace(b"posix", b"numpy"),
  "extension": lambda path: b"\x80\x02\x82\x01.",
  "outside": lambda path: b"\x80\x02U\x01aQ.",
  "changed kinds": lambda path: b"\x80\x02cnumpy\nndarray\n}U\x01a K\x01sb.",
  "encoding": lambda path: b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_pickles_that_name_anything_else_are_refused_and_nothing_is_called(tmp_path, kind):
  form, made = cifar.FORMS[0], tmp_path / "made"
  content = HOSTILE[kind](made)
  if kind == "mkdir":  # it does what it says where it may
    pickle.loads(HOSTILE[kind](tmp_path / "really"))
    assert (tmp_path / "really").exists()
  for name in (form.meta, form.train[2], form.test):
    folder = write(tmp_path / "set", contents(form) | {name: content})
    with pytest.raises(ValueError) as caught:
      datasets.load(f"cifar:{folder}")
    text = str(caught.value)
    assert f"data: {name} in" in text and "cannot be used" in text and "\n" not in text
  assert not made.exists()


@pytest.mark.parametrize("form", cifar.FORMS, ids=lambda form: form.folder)
def test_files_that_are_cut_off_or_changed_are_refused_by_name(tmp_path, form):
  whole = contents(form)
  size = form.before + cifar.PIXELS
  name = form.train[-1]
  for content in (b"", whole[name][:-1], whole[name][:-size], whole[name][: size // 2], b"hello"):
    with pytest.raises(ValueError) as caught:
      datasets.load(f"cifar:{write(tmp_path, whole | {name: content})}")
    assert name in str(caught.value) and "\n" not in str(caught.value)
  labels = [9] * COUNT
  write(tmp_path, whole | {form.test: joined(form, form.test, images("a"), labels)})
  with pytest.raises(ValueError, match=f"{form.test} in .* labels are 9 to 9, for 5 classes"):
    datasets.load(f"cifar:{tmp_path}")
  write(tmp_path, whole)
  (tmp_path / form.test).unlink()
  with pytest.raises(ValueError, match=f"has no {form.test}, which is of {form.folder}"):
    datasets.load(f"cifar:{tmp_path}")


@pytest.mark.parametrize(
  ("batch", "says"),
  [
    ([1, 2], "it has no data"),
    ({b"labels": [0] * COUNT}, "it has no data"),
    ({b"data": [1], b"labels": [0]}, "it has no array of unsigned bytes"),
    ({b"data": images("a")}, "it has no labels"),
    ({b"data": images("a"), b"labels": [b"x"] * COUNT}, "its labels are no whole numbers"),
    ({b"data": images("a"), b"labels": [0] * 9}, r"pixels of shape \(10, 3072\) and 9 labels"),
    ({b"data": images("a")[:, :9], b"labels": [0] * COUNT}, r"pixels of shape \(10, 9\)"),
    ({b"data": images("a")[:0], b"labels": []}, "it has no images"),
  ],
)
def test_batches_of_something_else_are_refused(tmp_path, batch, says):
  form = cifar.FORMS[0]
  write(tmp_path, contents(form) | {form.test: dumped(batch)})
  with pytest.raises(ValueError, match=f"{form.test} in .* cannot be used .*{says}"):
    datasets.load(f"cifar:{tmp_path}")


def test_arrays_that_are_not_what_their_file_says_are_refused():
  read = lambda content: plain_pickle.bytes_of(plain_pickle.read_plain(content))  # noqa: E731
  whole = dumped(images("a"))
  np.testing.assert_array_equal(read(whole), images("a"))
  for old, new in (
    (b"U\x02u1", b"U\x02O8"),
    (b"U\x02u1", b"U\x02f8"),
    (b"\x89T", b"\x88T"),
    (b"J\x0a", b"J\x0b"),
  ):
    assert whole.count(old) == 1
    with pytest.raises(ValueError, match="no array of unsigned bytes"):
      read(whole.replace(old, new))
  rng = np.random.default_rng(0)
  for _ in range(300):  # a few bytes of the head changed: an array of bytes or one clear line
    content = bytearray(whole)
    content[rng.integers(len(whole) - 30720)] = rng.integers(256)
    try:
      found = read(bytes(content))
    except ValueError as error:
      assert "\n" not in str(error)
    else:
      assert found.dtype == np.uint8 and found.size <= 30720


def test_places_without_the_set_or_with_both_and_damaged_archives_are_refused(tmp_path):
  load = functools.partial(datasets.load, f"cifar:{tmp_path}")
  with pytest.raises(ValueError, match=r"has no CIFAR in it; give cifar-10-python\.tar\.gz"):
    load()
  with pytest.raises(ValueError, match=r"does not exist; give cifar-10-python\.tar\.gz"):
    datasets.load(f"cifar:{tmp_path / 'none'}")
  for form in (cifar.FORMS[0], cifar.FORMS[3]):
    write(tmp_path / form.folder, contents(form))
  with pytest.raises(ValueError, match="has CIFAR-10 and CIFAR-100; name the folder of one"):
    load()
  archive = tmp_path / "cifar-10-python.tar.gz"
  with tarfile.open(archive, "w:gz") as opened:
    opened.add(tmp_path / cifar.FORMS[0].folder, "a")
  whole = archive.read_bytes()
  for content in (b"", b"hello", whole[: len(whole) // 2], gzip.compress(b"hello" * 300)):
    archive.write_bytes(content)
    with pytest.raises(ValueError) as caught:
      datasets.load(f"cifar:{archive}")
    text = str(caught.value)
    assert "cifar-10-python.tar.gz' cannot be read" in text and "\n" not in text


def test_copies_are_kept_and_told_and_refused_when_strict(tmp_path):
  form = cifar.FORMS[0]
  pixels = images("a")
  pixels[3] = images(form.test)[3]
  labels = [i % 5 for i in range(COUNT)]
  files = contents(form) | {form.train[0]: joined(form, form.train[0], pixels, labels)}
  spec = f"cifar:{write(tmp_path, files)}"
  told = "1 image is in several splits and kept, as published (train/3: it is test/3 too)"
  assert datasets.load(spec).notes == (told,) and len(datasets.load(spec).test) == COUNT
  with pytest.raises(ValueError, match="strict: 1 image is in several splits"):
    datasets.load(spec, strict=True)


def test_archives_that_hold_more_than_one_set_are_refused(tmp_path):
  for form in (cifar.FORMS[0], cifar.FORMS[2]):
    write(tmp_path / form.folder, contents(form))
  both, twice = tmp_path / "both.tar", tmp_path / "twice.tar"
  with tarfile.open(both, "w") as opened:
    for form in (cifar.FORMS[0], cifar.FORMS[2]):
      opened.add(tmp_path / form.folder, form.folder)
  with pytest.raises(
    ValueError, match=r"both\.tar' has CIFAR-10 and CIFAR-100; give an archive of"
  ):
    datasets.load(f"cifar:{both}")
  with tarfile.open(twice, "w") as opened:
    for name in ("new", "old"):
      opened.add(tmp_path / cifar.FORMS[0].folder, name)
  with pytest.raises(ValueError, match=r"twice\.tar' has \S+ twice; leave only one"):
    datasets.load(f"cifar:{twice}")
