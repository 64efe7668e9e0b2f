"""A certificate holds hashes that anybody can compute again, and its check finds what was changed."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.data import Preprocess
from jaxcompress.export.certificate import HOW, first_difference, read_certificate
from jaxcompress.export.certifying import integers_of, to_integers
from jaxcompress.export.check_program import program_of
from jaxcompress.export.emulation import emulator_folder
from jaxcompress.export.verification import Both
from jaxcompress.files.checksums import MARK
from jaxcompress.files.values import SEAL, sealed_json
from jaxcompress.nn import Add, ConvNorm, Dense, GlobalAvgPool
from jaxcompress.quantize import QuantizedModel
from jaxcompress.report import certified

SHAPE, COUNT = (6, 6, 3), 12


class Net(nn.Module):
  classes: int = 6

  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="stem")(x, train=train)
    x = Add(name="add")(x, ConvNorm(8, name="conv")(x, train=train))
    return Dense(self.classes, name="classifier")(GlobalAvgPool(name="pool")(x))


class Made:
  """A model's files in a folder, with a certificate of them."""

  def __init__(self, quantized, images, folder):
    self.quantized, self.folder = quantized, folder
    self.codes = to_integers(quantized, images)
    self.paths = [
      export.tflite(quantized, folder / "net.tflite"),
      export.onnx(quantized.with_kernels("onnxruntime"), folder / "net.onnx"),
      export.stablehlo(quantized, folder / "net.stablehlo"),
      export.packed(quantized, folder / "net.jcz"),
    ]
    self.certificate = export.certify(self.paths, quantized, images, processors=())
    self.path, *_ = self.write(self.certificate)

  def write(self, certificate):
    program = program_of(certificate, self.paths, self.quantized)
    return export.write_certificate(
      certificate, self.codes, self.folder / "certificate.json", program
    )

  def check(self, **more):
    found = export.check(self.path, self.paths, self.quantized, **more)
    return found, {line.what: line for line in found.lines}


@pytest.fixture(scope="module")
def quantized(networks):
  return networks.random_quantized(Net(), SHAPE)


@pytest.fixture(scope="module")
def made(networks, quantized, tmp_path_factory):
  images = networks.images_for(quantized, COUNT)
  return Made(quantized, images, tmp_path_factory.mktemp("certified"))


@pytest.fixture
def copied(made, tmp_path):
  """The same in a folder of its own, to be changed."""
  for path in made.folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  found = object.__new__(Made)
  found.quantized, found.codes, found.certificate = made.quantized, made.codes, made.certificate
  found.folder, found.path = tmp_path, tmp_path / made.path.name
  found.paths = [tmp_path / path.name for path in made.paths]
  return found


def sha256(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()


def test_every_runtime_is_equal_and_hashes_are_those_of_the_bytes(made):
  certificate = made.certificate
  assert certificate.verdict == "equal"
  ran = [(row.file, row.kernels, row.rule) for row in certificate.rows]
  assert ran == [
    *(("net.tflite", name, name) for name in ("xnnpack", "reference", "tflm")),
    ("net.onnx", "onnxruntime", "onnxruntime"),
    ("net.stablehlo", "stablehlo", "xnnpack"),
  ]
  for row in certificate.rows:
    logits = made.quantized.with_kernels(row.rule).run(made.codes)
    assert row.sha256 == {"logits": sha256(logits.tobytes())}
    assert (row.equal, row.total, row.first, row.reason) == (COUNT * 6, COUNT * 6, None, "")
    assert row.versions
  assert certificate.images.sha256 == sha256(made.codes.tobytes())
  assert certificate.model == {path.name: sha256(path.read_bytes()) for path in made.paths}
  assert certificate.exact["xnnpack"].sha256 != certificate.exact["tflm"].sha256


def test_the_file_is_plain_json_that_says_how_it_is_made_and_is_read_back(made):
  values = json.loads(made.path.read_text())
  assert values["verdict"] == "equal" and values["format"] == 1
  assert tuple(values["how"]) == HOW
  assert values["images"]["scale"] == float(made.quantized.grids["input"].scale)
  assert len(values["exact"]["xnnpack"]["each"].split()) == COUNT
  assert read_certificate(made.path) == (made.certificate, None)
  np.testing.assert_array_equal(np.load(made.folder / "inputs.npy"), made.codes)


def test_images_and_their_integers_give_one_certificate(made, quantized, networks):
  images = networks.images_for(quantized, COUNT)
  for given in (images, to_integers(quantized, images)):
    found = export.certify(made.paths[0], quantized, given, processors=())
    assert found.rows == made.certificate.rows[:3]


def test_a_check_repeats_all_of_it_and_writes_nothing(made):
  before = {path: path.stat().st_mtime_ns for path in made.folder.iterdir()}
  found, lines = made.check()
  assert found.equal and {line.verdict for line in found.lines} == {"equal"}
  rules = made.certificate.exact
  assert {"xnnpack-arm64", "onnxruntime-arm64"} < set(rules)  # for those who check it there
  assert len(lines) == 1 + len(made.paths) + 1 + len(rules) + len(made.certificate.rows)
  assert before == {path: path.stat().st_mtime_ns for path in made.folder.iterdir()}


def test_what_is_not_installed_is_listed_with_the_reason(made, monkeypatch):
  monkeypatch.setitem(sys.modules, "tflite_micro", None)
  monkeypatch.setenv("JAXCOMPRESS_ARM64", "/nowhere")
  certificate = export.certify(
    made.paths[0], made.quantized, made.codes, processors=("cortex-a53", "cortex-m4")
  )
  rows = {(row.kernels, row.processor): row for row in certificate.rows}
  micro = next(row for row in certificate.rows if row.kernels == "tflm")
  assert micro.verdict == "not run" and 'pip install "jaxcompress[targets]"' in micro.reason
  arm = rows["xnnpack", "cortex-a53"]
  assert arm.verdict == "not run" and arm.emulated and "emulator" in arm.reason
  assert certificate.verdict == "equal" and "2 not run here" in certificate.sentence
  found, lines = made.check()
  line = next(line for what, line in lines.items() if "Microcontrollers" in what)
  assert line.verdict == "not run here" and "jaxcompress[targets]" in line.words
  assert found.equal


def test_a_check_of_this_machine_alone_counts_what_it_leaves_out(copied, monkeypatch):
  first = copied.certificate.rows[0]
  emulated = [
    dataclasses.replace(first, processor=name, emulated=True)
    for name in ("cortex-a53", "cortex-a53", "cortex-a76")
  ]
  rows = (*emulated, *copied.certificate.rows[:3])
  copied.write(dataclasses.replace(copied.certificate, verdict="equal", rows=rows))
  monkeypatch.setenv("JAXCOMPRESS_ARM64", "/nowhere")
  found, lines = copied.check(processors=())
  assert found.equal and sum(line.is_row for line in found.lines) == 3
  assert lines["3 emulated rows"].words == "left out as asked: 2 on cortex-a53, 1 on cortex-a76"
  found, lines = copied.check(processors=("cortex-a76",))
  assert sum(line.is_row for line in found.lines) == 4
  assert lines["2 emulated rows"].words == "left out as asked: 2 on cortex-a53"
  with pytest.raises(ValueError, match=r"processors: 'cortex-m4' is not .* it has cortex-a53, cor"):
    copied.check(processors=("cortex-m4",))


def test_one_weight_that_was_changed_is_found_and_named(copied):
  layer = copied.quantized.layers["classifier"]
  weights = layer.weights.copy()
  weights.flat[np.abs(weights).argmax()] //= 2
  layers = {**copied.quantized.layers, "classifier": layer._replace(weights=weights)}
  other = QuantizedModel(copied.quantized.graph, copied.quantized.grids, layers)
  export.tflite(other, copied.paths[0])
  found, lines = copied.check()
  assert not found.equal
  assert "its SHA-256 is" in lines["net.tflite"].words
  line = next(line for what, line in lines.items() if what.startswith("net.tflite in LiteRT on"))
  wrong = other.run(copied.codes) != copied.quantized.run(copied.codes)
  first = np.flatnonzero(wrong.any(1))[0]
  assert line.verdict == "differs"
  assert line.words.startswith(f"{wrong.sum()} of {wrong.size} integers differ, by up to ")
  assert line.words.endswith(f"the first in image {first}")
  assert lines["net.onnx"].verdict == lines["exact evaluation, xnnpack"].verdict == "equal"


def test_a_byte_that_was_changed_in_a_file_is_found_and_named(copied):
  content = bytearray(copied.paths[0].read_bytes())
  at = content.find(copied.quantized.layers["classifier"].weights.T.tobytes())
  content[at] ^= 0x40
  copied.paths[0].write_bytes(content)
  found, lines = copied.check()
  assert not found.equal and lines["net.tflite"].verdict == "differs"
  line = next(line for what, line in lines.items() if what.startswith("net.tflite in LiteRT on"))
  assert line.verdict == "differs" and "damaged or was changed" in line.words
  copied.paths[0].write_bytes(content.replace(MARK.encode(), b"without a checksum!"))
  _, lines = copied.check()
  line = next(line for what, line in lines.items() if what.startswith("net.tflite in LiteRT on"))
  assert line.verdict == "differs" and "integers differ, by up to" in line.words


def test_an_image_that_was_changed_is_found_and_named(copied):
  codes = copied.codes.copy()
  codes[4, 0, 0, 0] ^= 1
  np.save(copied.folder / "inputs.npy", codes)
  found, lines = copied.check()
  assert not found.equal
  assert lines["images"].words == f"1 of {COUNT} are others; the first is image 4"
  assert {line.verdict for line in found.lines[-5:]} == {"not run here"}
  found, lines = copied.check(images=copied.codes[:5])
  assert lines["images"].words == f"(5, 6, 6, 3) in place of ({COUNT}, 6, 6, 3)"


def test_picture_files_that_were_changed_are_named(copied):
  names = {f"{i}.png": sha256(bytes([i])) for i in range(COUNT)}
  images = dataclasses.replace(copied.certificate.images, files=names)
  copied.write(dataclasses.replace(copied.certificate, images=images))
  _, lines = copied.check(images=copied.codes, pictures=names)
  assert lines["picture files"].verdict == "equal"
  other = {**names, "3.png": sha256(b"?"), "new.png": sha256(b"!")}
  found, lines = copied.check(images=copied.codes, pictures=other)
  assert not found.equal
  assert lines["picture files"].words == (
    f"1 of {COUNT} are missing or others (3.png); 1 were added (new.png)"
  )
  codes = copied.codes.copy()
  codes[4, 0, 0, 0] ^= 1
  _, lines = copied.check(images=codes)
  assert lines["images"].words.endswith("the first is image 4 (4.png)")


@pytest.mark.parametrize("part", ["row", "exact", "images", "model", "each", "verdict"])
def test_a_certificate_that_was_edited_is_found_also_with_its_checksum_made_anew(part, copied):
  values = json.loads(copied.path.read_text())
  wrong = sha256(b"something else")
  if part == "row":
    values["rows"][1]["sha256"]["logits"] = wrong
    what = next(line.what for line in copied.check()[0].lines if "reference" in line.what[20:])
  elif part == "exact":
    values["exact"]["tflm"]["sha256"]["logits"] = wrong
    what = "exact evaluation, tflm"
  elif part == "each":
    values["exact"]["tflm"]["each"] = values["exact"]["xnnpack"]["each"]
    what = "exact evaluation, tflm"
  elif part == "images":
    values["images"]["sha256"] = wrong
    what = "images"
  elif part == "verdict":
    values["rows"][0]["verdict"] = "differs"
    what = "certificate.json"
  else:
    values["model"]["net.onnx"] = wrong
    what = "net.onnx"
  copied.path.write_text(json.dumps(values, indent=2))
  found, lines = copied.check()
  assert not found.equal
  assert lines["certificate.json"].words == "its checksum is not that of its contents"
  assert lines[what].verdict == "differs" and lines[what].words
  values.pop(SEAL)
  copied.path.write_text(sealed_json(values))
  found, lines = copied.check()
  assert not found.equal
  contradicts = ["certificate.json"] if part in ("row", "exact") else []
  assert [line.what for line in found.lines if line.verdict == "differs"] == [*contradicts, what]
  if part in ("row", "exact", "verdict"):
    assert lines["certificate.json"].words.startswith(
      ("its verdict is equal, and", "net.tflite on ")
    )


@pytest.mark.parametrize("part", ["scale", "zero_point", "outputs", "count"])
def test_what_integers_stand_for_is_checked_too(part, copied):
  values = json.loads(copied.path.read_text())
  values.pop(SEAL)
  if part == "outputs":
    values["outputs"]["logits"]["scale"] *= 2
  else:
    values["images"][part] += 1
  copied.path.write_text(sealed_json(values))
  found, lines = copied.check()
  what = {"outputs": "outputs", "count": "images"}.get(part, "scale, zero point")
  assert not found.equal
  assert [line.what for line in found.lines if line.verdict == "differs"] == [what]
  assert lines[what].words


def test_a_runtime_that_this_version_does_not_know_is_not_run(copied):
  values = json.loads(copied.path.read_text())
  values.pop(SEAL)
  values["rows"][1]["kernels"] = "photonic"
  copied.path.write_text(sealed_json(values))
  found, _ = copied.check()
  line = next(line for line in found.lines if "in photonic on" in line.what)
  assert (line.verdict, line.words) == ("not run here", "this version knows no such runtime")
  assert certified.runtime(found.certificate.rows[1]) == "photonic"


@pytest.mark.parametrize("kind", ["number", "archive"])
def test_inputs_that_are_no_images_are_refused(kind, copied):
  with (copied.folder / "inputs.npy").open("wb") as file:
    if kind == "number":
      np.save(file, np.int8(3))
    else:
      np.savez(file, images=copied.codes)
  with pytest.raises(ValueError, match=r"inputs\.npy cannot be read \(it must be one array"):
    copied.check()


def test_a_file_of_another_name_is_known_by_its_hash_and_others_are_named(copied):
  renamed = copied.paths[0].rename(copied.folder / "other.tflite")
  copied.paths[0] = renamed
  assert copied.check()[0].equal
  renamed.write_bytes(renamed.read_bytes() + b"!")
  found, lines = copied.check()
  assert not found.equal
  assert lines["other.tflite"].words.startswith(
    "it is not one of the certificate's files (net.tflite,"
  )
  assert lines["net.tflite"].words == "it was not given"


def test_what_was_run_on_another_kind_of_machine_is_compared_by_the_rules_of_this_one(copied):
  rows = tuple(
    dataclasses.replace(
      row, processor="riscv64", verdict="differs", sha256={"logits": sha256(b"of that machine")}
    )
    for row in copied.certificate.rows
  )
  copied.write(dataclasses.replace(copied.certificate, rows=rows, verdict="differs"))
  found, _ = copied.check()
  assert found.equal
  assert all(", here " in line.what for line in found.lines[-5:])


def test_a_model_that_differs_is_certified_as_such_and_repeated(copied, networks):
  other = networks.random_quantized(Net(), SHAPE, seed=0)
  layer = other.layers["stem"]
  layers = {**other.layers, "stem": layer._replace(bias=layer.bias + np.int32(3000))}
  other = QuantizedModel(other.graph, other.grids, layers)
  certificate = export.certify(copied.paths[:1], other, copied.codes, processors=())
  assert certificate.verdict == "differs"
  row = certificate.rows[0]
  wrong = other.run(copied.codes) != copied.quantized.run(copied.codes)
  assert (row.equal, row.first) == (wrong.size - wrong.sum(), np.flatnonzero(wrong.any(1))[0])
  export.write_certificate(certificate, copied.codes, copied.path)
  found = export.check(copied.path, copied.paths[:1], other)
  assert found.equal and found.lines[-1].words.startswith("as certified: ")


@pytest.mark.parametrize("kind", ["codes", "uint8", "float32"])
def test_a_third_person_computes_the_same_hash_without_jaxcompress(kind, networks, tmp_path):
  quantized = networks.random_quantized(Net(), SHAPE)
  if kind == "uint8":
    grid = quantized.grids["input"]._replace(scale=np.float32(1 / 64), zero_point=0)
    preprocess = Preprocess(center=128.0, scale=64.0, per_image=False)
    quantized = dataclasses.replace(
      quantized, grids={**quantized.grids, "input": grid}, preprocess=preprocess
    )
  output = "uint8" if kind == "uint8" else "codes"
  path = export.tflite(quantized, tmp_path / "net.tflite", input=kind, output=output)
  codes = np.random.default_rng(1).integers(-128, 128, (COUNT, *SHAPE)).astype(np.int8)
  certificate = export.certify(path, quantized, codes, processors=())
  assert certificate.verdict == "equal"
  program = program_of(certificate, path, quantized)
  export.write_certificate(certificate, codes, tmp_path / "certificate.json", program)

  away = tmp_path / "away"
  away.mkdir()
  for name in ("check.py", "inputs.npy", "net.tflite"):
    (tmp_path / name).rename(away / name)
  (away / "jaxcompress.py").write_text("raise ImportError('it is not there')")

  def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
      [sys.executable, "check.py", *arguments],
      cwd=away,
      env={**environment, "PYTHONPATH": ""},
      capture_output=True,
      text=True,
      check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr

  code, lines, errors = run()
  assert code == 1 and not lines and errors.strip().endswith(": python check.py net.tflite")
  code, lines, errors = run("net.tflite")
  assert code == 0, errors
  name, digest, *words = lines[-1].split(maxsplit=2)
  assert (name, digest) == ("logits", sha256(quantized.run(codes).tobytes()))
  assert words[0].startswith("equal, by the rules of xnnpack")  # and of those that give the same
  assert len([line for line in program.splitlines() if line]) <= 32
  assert "jaxcompress" not in program

  np.save(away / "inputs.npy", codes[::-1])
  code, lines, _ = run("net.tflite")
  assert code == 1
  assert [line.split(maxsplit=2)[2] for line in lines] == [
    "equal",
    *2 * ["DIFFERS from the certificate"],
  ]


def test_networks_of_several_outputs_and_of_16_bits_are_certified(networks, tmp_path):
  class Two(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      x = ConvNorm(4, kernel=3, act="relu", name="stem")(x, train=train)
      pooled = GlobalAvgPool(name="pool")(x)
      return {"logits": Dense(3, name="a")(pooled), "box": Dense(2, name="b")(pooled)}

  quantized = networks.random_quantized(Two(), SHAPE)
  codes = to_integers(quantized, networks.images_for(quantized, 3))
  path = export.tflite(quantized, tmp_path / "two.tflite")
  certificate = export.certify(path, quantized, codes, processors=())
  assert certificate.verdict == "equal"
  ours = quantized.outputs(codes)
  assert certificate.rows[0].sha256 == {name: sha256(a.tobytes()) for name, a in ours.items()}
  assert certificate.rows[0].total == 15
  program = program_of(certificate, path, quantized)
  export.write_certificate(certificate, codes, tmp_path / "certificate.json", program)
  done = subprocess.run(
    [sys.executable, tmp_path / "check.py", path], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert {line.split()[0] for line in done.stdout.splitlines()[2:]} == {"logits", "box"}


def test_a_folder_of_c_is_certified_by_what_its_manifest_lists(quantized, made, tmp_path):
  if shutil.which("cc") is None:
    pytest.skip("there is no C compiler")
  folder = export.c(quantized, tmp_path / "net_c")
  certificate = export.certify(folder, quantized, made.codes, processors=())
  (row,) = certificate.rows
  assert (row.kernels, row.rule, row.verdict) == ("c", "tflm", "equal")
  assert row.sha256 == made.certificate.exact["tflm"].sha256
  assert "net_c/manifest.json" in certificate.model
  path, *_ = export.write_certificate(certificate, made.codes, tmp_path / "certificate.json")
  (folder / "built").write_bytes(b"of a compiler")
  assert export.check(path, folder, quantized).equal
  source = next(folder.rglob("*.c"))
  source.write_text(source.read_text() + "\n")
  found = {line.what: line for line in export.check(path, folder, quantized).lines}
  assert found[source.relative_to(tmp_path).as_posix()].verdict == "differs"
  assert "was changed" in list(found.values())[-1].words


@pytest.mark.parametrize("processor", ["cortex-a53", "neoverse-v1"])
def test_emulated_processors_give_the_same_hash(processor, made):
  try:
    emulator_folder()
  except ValueError as error:
    pytest.skip(str(error))
  certificate = export.certify(made.paths[:1], made.quantized, made.codes, processors=(processor,))
  row = certificate.rows[-1]
  assert (row.processor, row.emulated, row.verdict) == (processor, True, "equal")
  assert row.sha256 == certificate.exact[row.rule].sha256
  assert "qemu-aarch64" in row.versions


def test_floats_that_stand_for_no_integer_are_differences(quantized, made):
  ours = quantized.outputs(made.codes)
  real = quantized.real("logits", ours["logits"])
  real[2, 1] = np.nextafter(real[2, 1], np.float32(np.inf))
  real[3, 1] = np.nan
  both = Both(quantized, made.codes, ours, {"logits": real}, ())
  integers, is_code = integers_of(both)
  assert np.argwhere(~is_code["logits"]).tolist() == [[2, 1], [3, 1]]
  assert integers["logits"][2, 1] == ours["logits"][2, 1]


def test_mistakes_are_named_in_one_line(made, networks, tmp_path):
  certify, codes = export.certify, made.codes
  with pytest.raises(ValueError, match=r"paths: .*nowhere\.tflite does not exist"):
    certify(tmp_path / "nowhere.tflite", made.quantized, codes)
  with pytest.raises(ValueError, match="images must not be empty"):
    certify(made.paths, made.quantized, codes[:0])
  with pytest.raises(ValueError, match=r"paths: no runtime runs .*net\.jcz; give a \.tflite"):
    certify(made.paths[-1], made.quantized, codes)
  more = networks.random_quantized(Net(classes=9), SHAPE)
  with pytest.raises(ValueError, match="has 6 logits and the model 9"):
    certify(made.paths[0], more, codes, processors=())
  with pytest.raises(ValueError, match=r"images: shape \(12, 6, 3, 3\) must be"):
    certify(made.paths, made.quantized, codes[:, :, :3])
  with pytest.raises(ValueError, match="images must not be empty"):
    certify(made.paths, made.quantized, np.int8(3))
  with pytest.raises(ValueError, match=r"processors: 'cortex-a5' is unknown; did you mean"):
    certify(made.paths, made.quantized, codes, processors=("cortex-m4", "cortex-a5"))
  with pytest.raises(ValueError, match=r"inputs\.npy must have another name"):
    export.write_certificate(made.certificate, codes, tmp_path / "inputs.npy")
  assert not any(tmp_path.iterdir())
  for content in (b"{}", b"[1]", b"no json", b'{"rows": 3}'):
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"certificate: .* is not a readable certificate"):
      export.check(path, made.paths, made.quantized)


def test_the_first_image_that_differs():
  assert first_difference("a b c", "a b c") is None
  assert first_difference("a b c", "a b") == 2
