"""Faults on the way from pictures to codes are located in the input, and explained; dumps are read or refused."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxcompress import cli, export
from jaxcompress.data import ImageReader, Preprocess
from jaxcompress.export.faults.dump import flat
from tests.export.faults.simulated import SHAPE, Inverted

pytestmark = pytest.mark.usefixtures("optimized")
READER = ImageReader(SHAPE[:2], preprocess=Preprocess(127.5, 64.0, per_image=False))

SCALE = 4.3 / 255


def picture(seed):
  """The bytes of a file whose sides and colors all differ."""
  rng = np.random.default_rng(seed)
  coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
  file = io.BytesIO()
  coarse.resize((37, 25), Image.Resampling.BICUBIC).save(file, "PNG")
  return file.getvalue()


@pytest.fixture(scope="module")
def quantized(networks):
  """A network that reads pixels from -2 to 2."""
  made = networks.random_quantized(Inverted(), SHAPE)
  grids = {
    **made.grids,
    "input": made.grids["input"]._replace(scale=np.float32(SCALE), zero_point=3),
  }
  return dataclasses.replace(made, grids=grids, preprocess=READER.preprocess)


@pytest.fixture(scope="module")
def pictures():
  return [picture(seed) for seed in range(2)]


def coded(values, scale=SCALE, zero=3):
  return np.clip(np.rint(np.float32(values) / np.float32(scale)) + zero, -128, 127).astype(np.int8)


def normalized(pixels):
  return (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(64)


def read_with(**changes):
  return lambda files: np.stack([dataclasses.replace(READER, **changes)(file) for file in files])


read = read_with()
INPUTS = {  # fault: (codes of pictures, rule)
  "BGR": (
    lambda files: coded(normalized(read(files)[..., ::-1])),
    "channels in reverse order",
  ),
  "flipped": (lambda files: coded(normalized(read(files)[:, :, ::-1])), "images flipped"),
  "transposed": (
    lambda files: coded(normalized(read(files).transpose(0, 2, 1, 3))),
    "images transposed",
  ),
  "shifted": (
    lambda files: coded(normalized(np.roll(read(files), 1, axis=2))),
    "images shifted",
  ),
  "channels first": (
    lambda files: coded(normalized(read(files))).transpose(0, 3, 1, 2).reshape(-1, *SHAPE),
    "images in another order of memory",
  ),
  "uint8 for int8": (
    lambda files: (coded(normalized(read(files))).astype(int) + 128).astype(np.uint8).view(np.int8),
    "zero point off by 128",
  ),
  "no zero point": (
    lambda files: coded(normalized(read(files)), zero=0),
    "zero point ignored",
  ),
  "divided by 255": (lambda files: coded(np.float32(read(files)) / 255), "another normalization"),
  "-1 to 1": (
    lambda files: coded((np.float32(read(files)) - 127.5) / 127.5),
    "another normalization",
  ),
  "no normalization": (lambda files: coded(np.float32(read(files))), "normalization missing"),
  "truncated": (
    lambda files: np.clip(
      np.trunc(normalized(read(files)) / np.float32(SCALE)) + 3, -128, 127
    ).astype(np.int8),
    "input codes by truncation",
  ),
  "bilinear": (
    lambda files: coded(normalized(read_with(filter="bilinear")(files))),
    "pictures resized in another way",
  ),
  "squashed": (
    lambda files: coded(normalized(read_with(resize="squash")(files))),
    "pictures resized in another way",
  ),
  "order of the batch": (
    lambda files: coded(normalized(read(files[::-1]))),
    "images in another order",
  ),
  "two at once": (
    lambda files: coded(normalized(read_with(resize="squash")(files)[..., ::-1])),
    "pictures resized in another way and channels in reverse order",
  ),
}


@pytest.mark.parametrize("fault", INPUTS)
def test_a_fault_of_the_input_is_located_and_explained(fault, quantized, pictures):
  of, rule = INPUTS[fault]
  found = export.locate(quantized, {"input": of(pictures)}, pictures, reader=READER)
  assert found.layer == "input" and rule in {one.rule for one in found.explanation}, str(found)
  assert found.where and found.also == ()


def test_what_two_rules_give_lists_both(quantized):
  """Of grey pixels BGR is RGB, so only the order of rows tells; of symmetric ones both do."""
  row = np.arange(0, 240, 20, dtype=np.uint8)
  pixels = np.broadcast_to(row[:, None, None] // 2 + row[None, :, None] // 3, SHAPE).astype(
    np.uint8
  )
  images = pixels[None]
  codes = coded(normalized(images[:, ::-1, ::-1]))
  found = export.locate(quantized, {"input": codes}, images)
  assert {(one.rule, one.detail) for one in found.explanation} == {
    ("images turned", "by 180 degrees")
  }
  codes = coded(normalized(np.swapaxes(images, 1, 2)))
  square = pixels + pixels.transpose(1, 0, 2)
  same = export.locate(quantized, {"input": coded(normalized(square[None]))}, square[None])
  assert same.is_equal
  found = export.locate(quantized, {"input": codes}, images)
  assert "images transposed" in {one.rule for one in found.explanation}


def test_a_sound_input_is_equal_and_one_that_nothing_explains_is_said_so(quantized, pictures):
  codes = coded(normalized(read(pictures)))
  assert export.locate(quantized, {"input": codes}, pictures, reader=READER).is_equal
  noise = np.random.default_rng(0).integers(-128, 128, codes.shape).astype(np.int8)
  found = export.locate(quantized, {"input": noise}, read(pictures))
  assert found.layer == "input" and not found.explanation
  assert "no rule that is known" in str(found)


WRONG = {  # what is printed: the words of the error
  "shape": (
    {"stem": np.zeros((1, 5, 5, 8), np.int8)},
    r"'stem' has shape \(1, 5, 5, 8\); it must be",
  ),
  "type": ({"stem": np.zeros((1, 6, 6, 8), np.float32)}, "'stem' is float32; it must be int8"),
  "unsigned": ({"stem": np.zeros((1, 6, 6, 8), np.uint8)}, "'stem' is uint8; it must be int8"),
  "range": ({"stem": np.full((1, 6, 6, 8), 200)}, "'stem' is int64; it must be int8"),
  "images": (
    {"stem": np.zeros((1, 6, 6, 8), np.int8), "input": np.zeros((2, *SHAPE), np.int8)},
    "different numbers of images",
  ),
  "names": ({"other": np.zeros(3)}, "holds no tensor of the model"),
  "ragged": ({"stem": [[1, 2], [3]]}, "'stem' is no array"),
  "number": (3, "dump: int must be a mapping of arrays, or the path"),
  "bytes": (b"stem", "dump: bytes must be a mapping"),
  "no input": ({"stem": np.zeros((1, 6, 6, 8), np.int8)}, "the dump has no 'input'"),
  "input alone": ({"input": np.zeros((1, *SHAPE), np.int8)}, "it has 'input' alone"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_dump_that_does_not_fit_is_refused(what, quantized):
  printed, words = WRONG[what]
  with pytest.raises(ValueError, match=words):
    export.locate(quantized, printed)


@pytest.mark.parametrize("what", ["empty", "archive", "short"])
def test_a_file_that_holds_no_array_is_refused(what, quantized, tmp_path):
  path = tmp_path / "stem.npy"
  with path.open("wb") as file:
    if what == "archive":
      np.savez(file, stem=np.zeros((1, 6, 6, 8), np.int8))
    elif what == "short":
      file.write(b"\x93NUMPY")
  with pytest.raises(ValueError, match=r"dump: .*stem\.npy cannot be read"):
    export.locate(quantized, tmp_path)


def test_images_must_be_as_many_as_were_printed(quantized, pictures):
  printed = {"stem": np.zeros((1, 6, 6, 8), np.int8)}
  with pytest.raises(ValueError, match="images: 2 must be as many as in the dump, 1"):
    export.locate(quantized, printed, read(pictures))


@pytest.fixture(scope="module")
def files(quantized, pictures, tmp_path_factory):
  """A packed file, and what LiteRT computes of its .tflite file, by kernels."""
  folder = tmp_path_factory.mktemp("files")
  packed = export.packed(quantized, folder / "net.jcz", metadata=READER.to_metadata())
  path = export.tflite(quantized, folder / "net.tflite")
  codes = quantized.quantize_input(read(pictures))
  for kernels in ("xnnpack", "reference"):
    export.dump(path, codes, folder / f"{kernels}.npz", kernels=kernels)
    export.dump(path, codes, folder / kernels, kernels=kernels)
  for number, file in enumerate(pictures):
    (folder / f"{number}.png").write_bytes(file)
  return folder, packed, path


@pytest.mark.slow
@pytest.mark.parametrize("form", ["npz", "folder"])
def test_a_dump_of_litert_is_equal_to_evaluation_by_its_kernels(form, files, quantized, pictures):
  folder, packed, _ = files
  for kernels in ("xnnpack", "reference"):
    dump = folder / (f"{kernels}.npz" if form == "npz" else kernels)
    found = export.locate(quantized.with_kernels(kernels), dump, read(pictures))
    assert found.is_equal and not found.missing and len(found.checked) == 9
  assert export.locate(packed, folder / "xnnpack.npz").is_equal


@pytest.mark.slow
def test_the_reference_kernels_are_told_from_xnnpack(files, quantized):
  folder, _, _ = files
  found = export.locate(quantized, folder / "reference.npz")
  assert "kernels of reference" in {one.rule for one in found.explanation}
  assert "reference" in found.kernels and found.most_steps == 1


def test_litert_s_kernels_without_xnnpack_are_told_by_all_that_they_round(
  files, quantized, pictures
):
  """They round twice, both times halves up, which is the reference kernels' rule where nothing is negative."""
  interpreter_of = pytest.importorskip("ai_edge_litert.interpreter")
  _, _, path = files
  interpreter = interpreter_of.Interpreter(
    model_path=str(path),
    experimental_op_resolver_type=interpreter_of.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    experimental_preserve_all_tensors=True,
  )
  interpreter.allocate_tensors()
  printed = {}
  for codes in quantized.quantize_input(read(pictures)):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], codes[None])
    interpreter.invoke()
    for tensor in interpreter.get_tensor_details():
      if tensor["name"] in quantized.grids:
        printed.setdefault(tensor["name"], []).append(interpreter.get_tensor(tensor["index"]))
  printed = {name: np.concatenate(arrays) for name, arrays in printed.items()}
  found = export.locate(quantized, printed)
  best = [one for one in found.explanation if one.also == found.tried]
  assert found.tried > 0 and "double rounding" in {one.rule for one in best}
  assert any(one.detail.endswith("then half up") for one in best)


def test_a_file_of_others_is_located_by_its_own_names(files, quantized, tmp_path):
  folder, _, path = files
  with np.load(folder / "xnnpack.npz") as arrays:
    printed = {name: array for name, array in arrays.items() if name in quantized.grids}
  assert export.locate(path, printed).is_equal
  content = path.read_bytes()
  assert content.count(b"\x05\0\0\0input\0") == 1
  other = tmp_path / "other.tflite"
  other.write_bytes(
    content.replace(b"\x05\0\0\0input\0", b"\x05\0\0\0photo\0").replace(b"sha256", b"xxx256")
  )
  printed["photo"] = printed.pop("input")
  assert export.locate(other, printed).is_equal
  with pytest.raises(ValueError, match="the dump has no 'input'"):
    export.locate(path, printed)


def test_names_of_files_are_flat_and_others_are_skipped(files, quantized, tmp_path):
  folder, _, _ = files
  with np.load(folder / "xnnpack.npz") as arrays:
    for name, array in arrays.items():
      np.save(tmp_path / f"{flat(name)}.npy", array)
  (tmp_path / "notes.txt").write_text("of a device")
  found = export.locate(quantized, tmp_path)
  assert found.is_equal and "notes.txt" in found.skipped
  (tmp_path / "stem.bin").write_bytes(b"\0" * 288)
  with pytest.raises(ValueError, match="'stem' is there twice"):
    export.locate(quantized, tmp_path)


def test_a_dump_is_not_written_over(files):
  folder, _, path = files
  codes = np.zeros((1, *SHAPE), np.int8)
  with pytest.raises(ValueError, match=r"out: .* exists"):
    export.dump(path, codes, folder / "xnnpack.npz")
  with pytest.raises(ValueError, match="kernels: 'tflm' keeps no tensors"):
    export.dump(path, codes, folder / "new.npz", kernels="tflm")
  with pytest.raises(ValueError, match="images: float32 of shape"):
    export.dump(path, np.zeros((1, *SHAPE), np.float32), folder / "new.npz")


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs the command line; returns exit code, output, errors."""

  def call(*arguments):
    monkeypatch.setattr("sys.argv", ["jaxcompress", "locate", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
      cli.main()
    return end.value.code, *capsys.readouterr()

  return call


def test_the_command_prints_what_is_located_and_ends_by_it(files, run, tmp_path):
  folder, packed, _ = files
  pictures = [word for number in (0, 1) for word in ("--images", folder / f"{number}.png")]
  code, printed, _ = run(packed, folder / "xnnpack.npz", *pictures)
  assert code == 0 and "all 9 tensors" in printed
  code, printed, _ = run(packed, folder / "reference", "--json")
  found = json.loads(printed)
  assert code == 1 and found["op"] == "ConvNorm" and found["layer"] in found["among"]
  assert "kernels of reference" in [one["rule"] for one in found["explanation"]]
  code, printed, _ = run(packed, folder / "reference", "--kernels", "reference")
  assert code == 0
  code, printed, errors = run(packed, tmp_path)
  assert code == 2 and not printed and errors.startswith("jaxcompress: dump: ")
  code, _, errors = run(folder / "net.png", folder / "xnnpack.npz")
  assert code == 2 and errors.startswith("jaxcompress: model: ")
