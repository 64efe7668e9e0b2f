"""The files around a network's C: programs, build files, the check, and the reader of pictures."""

import hashlib
import shutil
import subprocess

import flax.linen as linen
import jax
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import export, nn
from jaxcompress.data import ImageReader, Preprocess
from jaxcompress.export.c99.compiling import STANDARD, find_compiler
from jaxcompress.export.c99.manifest import MANIFEST, read_manifest
from jaxcompress.files.values import SEAL, parse_json, sealed_json
from jaxcompress.quantize.integer.grid import Grid

CLASSES = ["cat", 'a "big" dog??', "Kühe"]
GREY = Preprocess(center=128.0, scale=64.0, per_image=False)
RGB = Preprocess((124.0, 116.0, 104.0), (58.0, 57.0, 57.0), per_image=False)
OPTIONS = [
  *STANDARD,
  "-Wshadow",
  "-O1",
  "-g",
  "-fsanitize=address,undefined",
  "-fno-sanitize-recover=all",
]


class Small(linen.Module):
  """A classifier of three classes."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    x = nn.GlobalAvgPool(keepdims=False, name="pool")(x)
    return nn.Dense(3, name="head")(x)


def quantized_of(preprocess, channels=3, **options):
  model = Small()
  rng = np.random.default_rng(0)
  variables = jc.init_variables(model, jax.random.key(0), (6, 8, channels))
  images = rng.integers(0, 256, (32, 6, 8, channels)).astype(np.uint8)
  return jc.quantize.post_training(
    model, variables, images, preprocess=preprocess, method="minmax", progress=False, **options
  )


def write(tmp_path, preprocess=GREY, channels=3, **options):
  quantized = quantized_of(preprocess, channels, **options)
  reader = ImageReader((6, 8), channels=channels, preprocess=preprocess)
  metadata = {"classes": CLASSES, **reader.to_metadata()}
  return quantized, export.c(quantized, tmp_path / "small", name="small", metadata=metadata)


def build(folder, main=None):
  """The program of a folder, with all warnings as errors, watched by sanitizers."""
  sources = [main or folder / "main.c", *sorted((folder / "src").glob("*.c"))]
  out = folder.parent / "program"
  command = [find_compiler(), *OPTIONS, f"-I{folder / 'src'}", *sources, "-o", out, "-lm"]
  subprocess.run(list(map(str, command)), check=True)
  return out


def run(*command):
  return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def picture(path, pixels):
  kind = "P6" if pixels.shape[-1] == 3 else "P5"
  head = f"{kind}\n# of a test\n{pixels.shape[1]} {pixels.shape[0]}\n255\n"
  path.write_bytes(head.encode() + pixels.tobytes())
  return path


def integers_of(line):
  return int(line.split("(integer ")[1].rstrip(")"))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
  "preprocess", [Preprocess(), GREY, Preprocess(100.0, 51.0, per_image=False)]
)
def test_the_program_reads_a_picture_and_prints_classes_by_their_scores(
  preprocess, channels, tmp_path
):
  quantized, folder = write(tmp_path, preprocess, channels)
  program = build(folder)
  pixels = np.random.default_rng(1).integers(0, 256, (6, 8, channels)).astype(np.uint8)
  found = run(program, picture(tmp_path / "a.ppm", pixels))
  _, *lines = found.stdout.splitlines()
  (expected,) = quantized.with_kernels("tflm").integers(pixels[None])
  order = np.argsort(-expected.astype(int), kind="stable")
  assert [integers_of(line) for line in lines] == expected[order].tolist()
  assert [line.split("  ")[2] for line in lines] == [CLASSES[i] for i in order]
  logits = quantized.with_kernels("tflm")(pixels[None])[0]
  scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
  assert [float(line.split()[0]) for line in lines] == pytest.approx(scores[order], abs=1e-4)


def test_a_table_for_each_channel_reads_pixels_as_exact_evaluation(tmp_path):
  quantized, folder = write(tmp_path, RGB)
  program = build(folder, dump_of_inputs(tmp_path))
  check_inputs(program, quantized, tmp_path, 40)


def test_pictures_are_normalized_each_by_itself_as_in_exact_evaluation(tmp_path):
  quantized, folder = write(tmp_path, Preprocess())
  program = build(folder, dump_of_inputs(tmp_path))
  check_inputs(program, quantized, tmp_path, 400)


@pytest.mark.slow
def test_an_input_of_16_bits_reads_pixels_as_exact_evaluation(tmp_path):
  for preprocess in (Preprocess(), RGB):
    place = tmp_path / f"per_image_{preprocess.per_image}"
    place.mkdir()
    quantized, folder = write(place, preprocess, activation_bits=16)
    assert run(build(folder), "--check").returncode == 0
    program = build(folder, dump_of_inputs(place))
    check_inputs(program, quantized, place, 50)


def dump_of_inputs(tmp_path):
  """A program that reads pictures' pixels and writes the integers of the input."""
  path = tmp_path / "dump.c"
  path.write_text(
    """
#include <stdio.h>
#include "small.h"
#include "small_picture.h"
static uint8_t pixels[SMALL_ROWS * SMALL_COLUMNS * SMALL_CHANNELS];
int main(void) {
  while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
    small_read_pixels(pixels);
    fwrite(small_input(), sizeof *small_input(), sizeof pixels, stdout);
  }
  return 0;
}
"""
  )
  return path


def check_inputs(program, quantized, tmp_path, count):
  rng = np.random.default_rng(2)
  shape = quantized.graph.input_shape[1:]
  spread = rng.uniform(0, 130, (count, 1, 1, 1))
  pixels = np.clip(rng.normal(128, 1, (count, *shape)) * spread / 64 + rng.uniform(-60, 60), 0, 255)
  pixels = pixels.astype(np.uint8)
  pixels[0], pixels[1] = 0, 255
  done = subprocess.run([str(program)], input=pixels.tobytes(), capture_output=True, check=True)
  expected = quantized.with_kernels("tflm").quantize_input(pixels)
  found = np.frombuffer(done.stdout, expected.dtype).reshape(expected.shape)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_the_check_tells_equal_from_different(tmp_path):
  _, folder = write(tmp_path)
  found = run(build(folder), "--check")
  assert (found.returncode, found.stdout.split(":")[0]) == (0, "equal")
  path = folder / "src" / "small.c"
  text = path.read_text()
  at = text.index("_params params_0")
  path.write_text(text[:at] + text[at:].replace(".out_zero = ", ".out_zero = 1 + ", 1))
  found = run(build(folder), "--check")
  assert (found.returncode, found.stdout.split(":")[0]) == (1, "different")


def test_integers_are_read_as_they_are(tmp_path):
  quantized, folder = write(tmp_path)
  codes = np.random.default_rng(3).integers(-128, 128, (1, 6, 8, 3)).astype(np.int8)
  (tmp_path / "codes").write_bytes(codes.tobytes())
  lines = run(build(folder), "--integers", tmp_path / "codes").stdout.splitlines()[1:]
  (expected,) = quantized.with_kernels("tflm").run(codes)
  assert sorted(map(integers_of, lines)) == sorted(expected.tolist())


def test_pictures_of_another_size_or_kind_are_refused(tmp_path):
  _, folder = write(tmp_path)
  program = build(folder)
  wrong = {
    "wide.ppm": picture(tmp_path / "wide.ppm", np.zeros((6, 9, 3), np.uint8)),
    "grey.ppm": picture(tmp_path / "grey.ppm", np.zeros((6, 8, 1), np.uint8)),
  }
  cut = picture(tmp_path / "cut.ppm", np.zeros((6, 8, 3), np.uint8))
  cut.write_bytes(cut.read_bytes()[:-1])
  for path in (*wrong.values(), cut):
    found = run(program, path)
    assert found.returncode == 1
    assert "must be a binary PPM (P6) of 8 x 6 pixels" in found.stderr
  assert "cannot be opened" in run(program, tmp_path / "none.ppm").stderr
  assert "must have 144 bytes" in run(program, "--integers", cut).stderr
  assert run(program).returncode == 1


def test_make_builds_and_checks(tmp_path):
  if shutil.which("make") is None:
    pytest.skip("make is not installed")
  _, folder = write(tmp_path)
  found = run("make", "-C", folder, "check", "CFLAGS=-O1 -Werror")
  assert found.returncode == 0, found.stderr
  assert "equal" in found.stdout
  assert export.Runtime(folder).kernels == "c"  # what make adds does not count as a change


@pytest.mark.slow
def test_cmake_builds_and_checks_alone_and_as_a_part(tmp_path):
  if shutil.which("cmake") is None or shutil.which("make") is None:
    pytest.skip("cmake or make is not installed")
  _, folder = write(tmp_path)
  for command in (
    ("cmake", "-S", folder, "-B", tmp_path / "b"),
    ("cmake", "--build", tmp_path / "b"),
    ("cmake", "--build", tmp_path / "b", "--target", "test"),
  ):
    found = run(*command)
    assert found.returncode == 0, found.stderr + found.stdout
  other = tmp_path / "other"
  other.mkdir()
  (other / "CMakeLists.txt").write_text(
    "cmake_minimum_required(VERSION 3.13)\nproject(other C)\nadd_subdirectory(../small small)\n"
    "add_executable(other other.c)\ntarget_link_libraries(other small)\n"
  )
  (other / "other.c").write_text(
    '#include "small_check.h"\nint main(void) { return !small_check(); }\n'
  )
  assert run("cmake", "-S", other, "-B", other / "b").returncode == 0
  assert run("cmake", "--build", other / "b").returncode == 0
  assert run(other / "b" / "other").returncode == 0


def test_the_arduino_sketch_compiles_as_cpp_and_runs(tmp_path):
  compiler = shutil.which("c++") or shutil.which("g++")
  if compiler is None:
    pytest.skip("no C++ compiler is installed")
  _, folder = write(tmp_path)
  board = tmp_path / "board"
  board.mkdir()
  (board / "Arduino.h").write_text(
    """
#include <iostream>
#include <stdint.h>
struct {
  void begin(long) {}
  template <class T> void print(T value) { std::cout << value; }
  template <class T> void println(T value) { std::cout << value << std::endl; }
} Serial;
void delay(long) {}
"""
  )
  sketch = folder / "examples" / "small" / "small.ino"
  (board / "main.cpp").write_text(
    f'#include "Arduino.h"\n#include "{sketch}"\nint main() {{ setup(); loop(); }}\n'
  )
  for path in (folder / "src").glob("*.c"):
    options = [*STANDARD, "-c", "-o", board / f"{path.stem}.o"]
    assert run(find_compiler(), *options, path).returncode == 0
  options = ["-Wall", "-Wextra", "-Werror", f"-I{folder / 'src'}", "-o", board / "sketch"]
  found = run(compiler, *options, board / "main.cpp", *board.glob("*.o"), "-lm")
  assert found.returncode == 0, found.stderr
  lines = run(board / "sketch").stdout.splitlines()
  assert lines[0] == "check: equal"
  assert lines[1].split(" 0.")[0] in CLASSES
  properties = dict(
    line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines()
  )
  assert (properties["name"], properties["architectures"]) == ("small", "*")


def test_the_readme_has_the_sizes_and_code_that_compiles(tmp_path):
  _, folder = write(tmp_path)
  text, sizes = (folder / "README.md").read_text(), read_manifest(folder).sizes
  assert f"{sizes.ram:,} bytes" in text and f"{sizes.weights:,} bytes" in text
  assert f"{sizes.macs:,} multiply-adds" in text
  assert "@" not in text
  code = text.split("```c\n")[1].split("```")[0].splitlines()
  includes = [line for line in code if line.startswith("#")]
  body = "\n".join(line for line in code if not line.startswith("#"))
  main = tmp_path / "use.c"
  pixels = "static uint8_t pixels[SMALL_ROWS * SMALL_COLUMNS * SMALL_CHANNELS];"
  used = "return input == 0 || out_logits == 0 || scores[0] > 1;"
  main.write_text("\n".join([*includes, pixels, "int main(void) {", body, used, "}"]))
  assert run(build(folder, main)).returncode == 0


@pytest.mark.slow
def test_a_network_without_preprocessing_reads_integers(tmp_path):
  rng = np.random.default_rng(0)
  model, shape = Small(), (6, 8, 3)
  images = rng.normal(size=(16, *shape)).astype(np.float32)
  variables = jc.init_variables(model, jax.random.key(0), shape)
  quantized = jc.quantize.post_training(model, variables, images, method="minmax", progress=False)
  folder = export.c(quantized, tmp_path / "small", name="small")
  program = build(folder)
  assert run(program, "--check").returncode == 0
  found = run(program, picture(tmp_path / "a.ppm", np.zeros((6, 8, 3), np.uint8)))
  assert "use --integers" in found.stderr
  assert "is not known here" in (folder / "README.md").read_text()


def test_a_folder_of_others_is_left_alone(tmp_path):
  (tmp_path / "small").mkdir()
  (tmp_path / "small" / "thesis.txt").write_text("years of work")
  with pytest.raises(ValueError, match="has other files"):
    write(tmp_path)
  assert (tmp_path / "small" / "thesis.txt").read_text() == "years of work"


def test_a_folder_is_written_again_unless_it_was_changed(tmp_path):
  quantized, folder = write(tmp_path)
  (folder / "notes.txt").write_text("mine")
  export.c(quantized, folder, name="other")
  assert not (folder / "src" / "small.c").exists() and (folder / "notes.txt").exists()
  path = folder / "main.c"
  path.write_text(path.read_text() + "/* mine */\n")
  with pytest.raises(ValueError, match=r"was changed: the checksum of main\.c"):
    export.c(quantized, folder, name="other")
  export.c(quantized, folder, name="other", force=True)
  assert read_manifest(folder).name == "other"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
  quantized = quantized_of(GREY)
  with pytest.raises(ValueError, match="does not exist"):
    export.c(quantized, tmp_path / "a" / "b")
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="is a file"):
    export.c(quantized, tmp_path / "file")


@pytest.mark.parametrize(
  "name", ["math", "stdio", "Arduino", "check", "src", "test", "a" * 64, None, "a-b"]
)
def test_names_that_mean_something_else_are_refused(name, tmp_path):
  with pytest.raises(ValueError, match=r"name: .*(must be a name in C|cannot be used)"):
    export.c(quantized_of(GREY), tmp_path / "small", name=name)
  assert not (tmp_path / "small").exists()


def test_a_file_that_the_user_put_there_is_not_replaced_without_a_word(tmp_path):
  quantized, folder = write(tmp_path)
  mine = folder / "src" / "other.c"
  mine.write_text("mine")
  with pytest.raises(
    ValueError, match=r"src/other\.c is not one of the files that it was written with"
  ):
    export.c(quantized, folder, name="other")
  assert mine.read_text() == "mine" and read_manifest(folder).name == "small"
  export.c(quantized, folder, name="other", force=True)
  assert read_manifest(folder).name == "other"


@pytest.mark.parametrize("path", ["src", "main.c/x", "manifest.json/x"])
def test_what_cannot_be_replaced_is_found_before_anything_is_written(path, tmp_path):
  mine = tmp_path / "small" / path
  mine.parent.mkdir(parents=True)
  mine.write_text("mine")
  readme = tmp_path / "small" / "README.md"
  readme.write_text("mine")
  with pytest.raises(ValueError, match=r"folder: .* move it"):
    export.c(quantized_of(GREY), tmp_path / "small", name="small", force=True)
  assert mine.read_text() == readme.read_text() == "mine"


def test_the_folder_in_which_one_is_can_be_named_by_a_dot(tmp_path, monkeypatch):
  (tmp_path / "small").mkdir()
  monkeypatch.chdir(tmp_path / "small")
  export.c(quantized_of(GREY), ".", name="small")
  assert read_manifest(tmp_path / "small").name == "small"


def test_a_manifest_names_files_of_its_folder_alone(tmp_path):
  _, folder = write(tmp_path)
  mine = tmp_path / "mine.txt"
  mine.write_text("mine")
  entry = parse_json((folder / MANIFEST).read_bytes())
  entry.pop(SEAL)
  entry["c"]["files"]["../mine.txt"] = hashlib.sha256(b"mine").hexdigest()
  (folder / MANIFEST).write_text(sealed_json(entry))
  with pytest.raises(ValueError, match="is not in it"):
    read_manifest(folder)


@pytest.mark.parametrize("output", ["/* logits", "a */ b", "a\n*\n/", "??/", "%s\\"])
def test_any_name_of_an_output_compiles(output, tmp_path):
  pool = nn.Node(
    "pool", "GlobalAvgPool", {"keepdims": False}, ("input",), ("pool",), ((1, 2, 2, 3),), ((1, 3),)
  )
  grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 0))
  graph = nn.Graph((pool,), (1, 2, 2, 3), ((output, "pool"),))
  quantized = jc.quantize.QuantizedModel(graph, grids, {}, None, "tflm")
  folder = export.c(quantized, tmp_path / "small")
  assert run(build(folder), "--check").returncode == 0
  images = np.linspace(-9, 9, 24, dtype=np.float32).reshape(2, 2, 2, 3)
  assert export.verify(folder, quantized, images).bit_equal == 1.0


@pytest.mark.parametrize("compiler", ["true", "false"])
def test_a_compiler_that_makes_no_program_is_named(compiler, tmp_path, monkeypatch):
  _, folder = write(tmp_path)
  monkeypatch.setenv("CC", compiler)
  with pytest.raises(ValueError, match=rf"does not compile with .*{compiler} \(exit code \d\)"):
    export.Runtime(folder)
