"""A file with one bit flipped, an end cut off or bytes added is refused in one line, or read as it was."""

import json
import shutil

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxcompress import data, export, models
from jaxcompress.data import storage
from jaxcompress.files.checksums import MARK, UNSEALED, check_seal, seal
from jaxcompress.nn import Dense, Graph, Node, init_variables
from jaxcompress.pipeline import networks
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid, Integers
from jaxcompress.training.variables import load_variables, save_variables

CLASSES = ("bolt", "nut", "screw")
FACTS = {"classes": list(CLASSES), "preprocess": {"scale": 64.0}}


@pytest.fixture(scope="module")
def quantized():
  """A dense layer on 2 x 2 pixels."""
  rng = np.random.default_rng(0)
  attrs = {"features": 3, "use_bias": True, "kernel_init": None, "bias_init": None}
  fields = Dense(3)
  attrs = {key: getattr(fields, key) for key in fields.__dataclass_fields__ if key in attrs}
  node = Node("head", "Dense", attrs, ("input",), ("head",), ((1, 2, 2, 3),), ((1, 3),))
  weights = rng.integers(-127, 128, (12, 3)).astype(np.int8)
  layer = Integers(weights, np.full(3, 0.01, np.float32), rng.integers(-99, 99, 3).astype(np.int32))
  grids = {"input": Grid(np.float32(0.05), 3), "head": Grid(np.float32(0.2), -7)}
  return QuantizedModel(Graph((node,), (1, 2, 2, 3), "head"), grids, {"head": layer})


IMAGES = np.random.default_rng(1).normal(size=(4, 2, 2, 3)).astype(np.float32)


def network():
  return networks.build("resnet8", 3, (8, 8, 3), None, None, {})


def variables():
  return init_variables(network().module, jax.random.key(5), (8, 8, 3))


def read_file(path):
  model, stored = models.load(path)
  return model, models.read_header(path), jax.device_get(stored)


def read_folder(path):
  saved = networks.read_network(path)
  return saved._replace(variables=jax.device_get(saved.variables))


def read_packed(path):
  found = export.load_packed(path)
  return found.integers(IMAGES), export.read_metadata(path)


def read_on_device(path):
  runtime = export.Runtime(path)
  images = IMAGES[:1] if runtime.input_dtype == np.float32 else IMAGES[:1].astype(np.int8)
  return runtime(images), export.read_metadata(path)


def read_program(path):
  return np.asarray(export.load_stablehlo(path)(IMAGES.astype(np.int8)))


KINDS = {  # name: (writes a file or folder, reads it into something that can be compared)
  "net.safetensors": (
    lambda path, _: models.save(path, network().module, variables(), metadata=FACTS),
    read_file,
  ),
  "student": (
    lambda path, _: networks.save_network(
      path, networks.TrainedNetwork(network(), variables()), CLASSES, data.ImageReader(32)
    ),
    read_folder,
  ),
  "variables": (
    lambda path, _: save_variables(path, variables()),
    lambda path: load_variables(path, variables()),
  ),
  "net.jcz": (lambda path, model: export.packed(model, path, metadata=FACTS), read_packed),
  "net.tflite": (lambda path, model: export.tflite(model, path, metadata=FACTS), read_on_device),
  "net.onnx": (lambda path, model: export.onnx(model, path, metadata=FACTS), read_on_device),
  "net.stablehlo": (lambda path, model: export.stablehlo(model, path), read_program),
}
SLOW = {
  "student": 12,
  "variables": 12,
  "net.tflite": 12,
  "net.onnx": 12,
}  # examples; these start processes


@pytest.fixture(scope="module", params=KINDS)
def kind(request, quantized, tmp_path_factory):
  """Path of a sound file or folder, a place for a damaged one, how it is read, and what that gives."""
  folder = tmp_path_factory.mktemp("sound")
  write, read = KINDS[request.param]
  write(folder / request.param, quantized)
  place = tmp_path_factory.mktemp("damaged") / request.param
  return folder / request.param, place, read, read(folder / request.param)


def files_in(path):
  return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def same(one, other):
  if isinstance(one, np.ndarray):
    return one.dtype == other.dtype and np.array_equal(one, other)
  leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
  return jax.tree.structure(one) == jax.tree.structure(other) and all(
    np.array_equal(a, b) for a, b in zip(leaves, others, strict=True)
  )


def is_refused(kind, which, damage):
  """Whether a copy with one damaged file is refused; it must be, or be read as the sound one is."""
  sound, place, read, expected = kind
  if sound.is_dir():
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
  file = files_in(sound)[which % len(files_in(sound))]
  target = place / file.relative_to(sound) if sound.is_dir() else place
  target.write_bytes(damage(file.read_bytes()))
  try:
    found = read(place)
  except ValueError as error:
    message = str(error)
    assert "\n" not in message
    assert str(place) in message
    return True
  assert same(found, expected)
  return False


def flipped(content, where, bit):
  if not content:
    return content
  at = int(where * (len(content) - 1))
  return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def examples(kind):
  return settings(
    max_examples=SLOW.get(kind[0].name, 60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
  )


@pytest.mark.slow
def test_one_flipped_bit_is_refused_or_changes_nothing(kind):
  refused = []

  @examples(kind)
  @given(st.integers(0, 99), st.floats(0, 1), st.integers(0, 7))
  def flip(which, where, bit):
    refused.append(is_refused(kind, which, lambda content: flipped(content, where, bit)))

  flip()
  assert sum(refused) >= 0.5 * len(refused)


@pytest.mark.slow
def test_a_cut_off_end_is_refused_or_changes_nothing(kind):
  refused = []

  @examples(kind)
  @given(st.integers(0, 99), st.floats(0, 0.999))
  def cut(which, share):
    refused.append(is_refused(kind, which, lambda content: content[: int(share * len(content))]))

  cut()
  assert sum(refused) >= 0.5 * len(refused)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 2, 7, 20, 63, 64, 65, 90, 100, 130, 400])
def test_the_last_bytes_are_missed_or_change_nothing(kind, cut):
  for which in range(len(files_in(kind[0])) if kind[0].is_file() else 3):
    is_refused(kind, which, lambda content: content[:-cut])


@pytest.mark.parametrize("more", [b"\0", b"\n", b"{}", bytes(100), b"\x0a\x00" * 9])
def test_bytes_after_the_end_are_refused(kind, more):
  assert is_refused(kind, 0, lambda content: content + more)


def test_files_of_before_have_no_checksum_and_are_read(kind):
  """As earlier versions wrote them: the same text in a place that nobody looks at."""
  sound, place, read, expected = kind
  if sound.name == "net.jcz":
    pytest.skip("had a checksum from the beginning")
  if sound.is_dir():
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound, place)
    for file in place.rglob("checksums.json"):
      file.unlink()
    if (place / "model.json").exists():
      facts = json.loads((place / "model.json").read_text())
      del facts["seal"]
      (place / "model.json").write_text(json.dumps(facts))
  else:
    content = sound.read_bytes()
    assert content.count(MARK.encode()) == 1
    name = b'\\"seal\\"' if sound.suffix == ".safetensors" else b'"seal"'
    content = content.replace(name, name.replace(b"seal", b"Seal"))
    place.write_bytes(content.replace(MARK.encode(), b"x" * len(MARK)))
  if sound.suffix in (".tflite", ".onnx"):
    assert np.array_equal(read(place)[0], expected[0])
  else:
    assert same(read(place), expected)


@given(st.binary(max_size=99), st.binary(max_size=99), st.data())
def test_any_change_of_sealed_bytes_is_seen(front, back, drawn):
  content = seal(front + UNSEALED.encode() + back)
  assert check_seal(content, "path: a")
  at = drawn.draw(st.integers(0, len(content) - 1))
  changed = flipped(content, at / max(1, len(content) - 1), drawn.draw(st.integers(0, 7)))
  for other in (changed, content[:at], content + b"x"):
    for rewritable in (False, True):
      try:
        seen = not check_seal(other, "path: a", rewritable=rewritable)
      except ValueError as error:
        assert str(error).startswith("path: a is damaged or was changed")
        seen = True
      assert seen or other == content


def test_a_file_that_another_tool_wrote_anew_is_its_own():
  content = seal(b"weights " + UNSEALED.encode())
  assert not check_seal(b"other " + content, "path: a", rewritable=True)
  with pytest.raises(ValueError, match="is damaged"):
    check_seal(b"other " + content, "path: a")
  with pytest.raises(ValueError, match="is damaged"):
    check_seal(content + b"more", "path: a", rewritable=True)


def test_metadata_that_looks_like_a_checksum_is_refused(quantized, tmp_path):
  for write, name in ((export.tflite, "a.tflite"), (export.onnx, "a.onnx")):
    with pytest.raises(ValueError, match=r"^metadata: a text in it has"):
      write(quantized, tmp_path / name, metadata={"note": UNSEALED})
    with pytest.raises(ValueError, match=r"^metadata: 'seal' is the name"):
      write(quantized, tmp_path / name, metadata={"seal": 1})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_cache_is_none(compressed, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  array = np.arange(300, dtype=np.uint8)
  assert storage.write_cached("a.npz", array)
  path, rng = tmp_path / "jaxcompress" / "a.npz", np.random.default_rng(0)
  if compressed:  # of a version without checksums
    np.savez_compressed(path, array)
  content, none = path.read_bytes(), 0
  for at in range(0, len(content), 3):
    path.write_bytes(flipped(content, at / (len(content) - 1), int(rng.integers(8))))
    found = storage.read_cached("a.npz")
    none += found is None
    if not compressed:
      assert found is None or np.array_equal(found, array)
  assert none > 0.3 * len(range(0, len(content), 3))
  path.write_bytes(content)
  np.testing.assert_array_equal(storage.read_cached("a.npz"), array)
