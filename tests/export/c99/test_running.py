"""Folders of C, compiled and run here and on emulated processors, against exact evaluation."""

import pathlib

import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.export.c99.folder import write_folder
from jaxcompress.export.c99.manifest import Calls, Sizes, read_manifest
from jaxcompress.export.c99.running import CRuntime, Program
from jaxcompress.files.extras import MissingExtraError
from jaxcompress.nn import Graph, Node
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.integer.grid import Grid

HEADER = """
#include <stdint.h>
int8_t *tiny_input(void);
const int8_t *tiny_output(void);
void tiny_run(void);
"""
SOURCE = """
#include "tiny.h"
static int8_t input[12], output[3];
int8_t *tiny_input(void) { return input; }
const int8_t *tiny_output(void) { return output; }
void tiny_run(void) {
  for (int c = 0; c < 3; c++) {
    output[c] = -128;
    for (int i = 0; i < 4; i++) if (input[3 * i + c] > output[c]) output[c] = input[3 * i + c];
  }
}
"""


def quantized_of_maximum():
  """A network that takes the largest of 2 x 2 pixels."""
  shapes = ((1, 2, 2, 3),), ((1, 1, 1, 3),)
  attrs = {"kernel": 2, "stride": 2, "padding": "VALID"}
  pool = Node("pool", "MaxPool", attrs, ("input",), ("pool",), *shapes)
  grids = dict.fromkeys(("input", "pool"), Grid(np.float32(0.1), 3))
  return QuantizedModel(Graph((pool,), (1, 2, 2, 3), "pool"), grids, {})


def write(folder, source=SOURCE):
  calls = Calls("tiny.h", "tiny_input()", "tiny_run()", ("tiny_output()",))
  sources = {"tiny.h": HEADER, "tiny.c": source}
  quantized = quantized_of_maximum()
  return quantized, write_folder(
    folder, quantized, sources, name="tiny", calls=calls, sizes=Sizes(0, 15, 0)
  )


def images_of(count):
  return np.random.default_rng(0).normal(0, 5, (count, 2, 2, 3)).astype(np.float32)


def test_a_folder_is_compiled_and_gives_the_integers_of_exact_evaluation(tmp_path):
  quantized, folder = write(tmp_path / "tiny")
  images = images_of(7)
  found = export.verify(folder, quantized, images)
  assert (found.bit_equal, found.max_steps, found.images) == (1.0, 0, 7)


def test_the_runtime_of_a_folder_is_c_and_takes_any_number_of_images(tmp_path):
  quantized, folder = write(tmp_path / "tiny")
  runtime = export.Runtime(folder)
  codes = quantized.quantize_input(images_of(5))
  assert (runtime.kernels, runtime.input_shape, runtime.takes_any) == ("c", (1, 2, 2, 3), True)
  np.testing.assert_array_equal(runtime(codes), codes.max((1, 2), keepdims=True))
  assert runtime.output_ends["logits"].zero_point == 3


def test_other_kernels_are_refused(tmp_path):
  _, folder = write(tmp_path / "tiny")
  with pytest.raises(ValueError, match="for a folder of C it must be 'c'"):
    export.Runtime(folder, kernels="xnnpack")


def test_another_integer_is_seen(tmp_path):
  quantized, folder = write(tmp_path / "tiny", SOURCE.replace("c < 3", "c < 2"))
  found = export.verify(folder, quantized, np.full((1, 2, 2, 3), 0.5, np.float32))
  assert found.bit_equal == pytest.approx(2 / 3)


def test_a_changed_file_and_a_missing_one_are_refused(tmp_path):
  _, folder = write(tmp_path / "tiny")
  path = folder / "src" / "tiny.c"
  path.write_text(path.read_text() + " ")
  with pytest.raises(ValueError, match=r"the checksum of src/tiny.c is another one"):
    export.Runtime(folder)
  path.unlink()
  with pytest.raises(ValueError, match=r"lacks src/tiny.c"):
    export.Runtime(folder)


def test_a_changed_manifest_is_refused(tmp_path):
  _, folder = write(tmp_path / "tiny")
  path = folder / "manifest.json"
  path.write_text(path.read_text().replace('"zero_point":3', '"zero_point":4'))
  with pytest.raises(ValueError, match="is damaged or was changed"):
    export.Runtime(folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"has no manifest\.json"):
    export.Runtime(tmp_path)


def test_a_missing_compiler_is_named(tmp_path, monkeypatch):
  _, folder = write(tmp_path / "tiny")
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.delenv("CC", raising=False)
  with pytest.raises(MissingExtraError, match="apt-get install gcc"):
    export.Runtime(folder)
  with pytest.raises(MissingExtraError, match=r"apt-get\s+install (qemu-user|gcc-arm-none-eabi)"):
    Program(folder, "cortex-m4")


def test_a_warning_is_an_error_and_shown(tmp_path):
  _, folder = write(
    tmp_path / "tiny", SOURCE.replace("void tiny_run", "static int x;\nvoid tiny_run")
  )
  with pytest.raises(ValueError, match=r"does not compile with .*unused"):
    export.Runtime(folder)


def test_an_access_beyond_an_array_is_found_by_the_sanitizer(tmp_path):
  _, folder = write(tmp_path / "tiny", SOURCE.replace("i < 4", "i <= input[0]"))
  runtime = CRuntime(folder, sanitize=True)
  runtime.feed(np.full((1, 2, 2, 3), 3, np.int8))
  runtime.invoke()
  runtime.feed(np.full((1, 2, 2, 3), 100, np.int8))
  with pytest.raises(ValueError, match="out of bounds"):
    runtime.invoke()


def test_repeats_compute_the_same(tmp_path):
  quantized, folder = write(tmp_path / "tiny")
  program = Program(folder)
  codes = quantized.quantize_input(images_of(3))
  np.testing.assert_array_equal(program.run(codes, 4)[0], program.run(codes)[0])


def test_no_temporary_files_are_left(tmp_path, monkeypatch):
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
  pathlib.Path(tmp_path / "temporary").mkdir()
  _, folder = write(tmp_path / "tiny")
  program = Program(folder)
  program.run(np.zeros((1, 2, 2, 3), np.int8))
  assert list((tmp_path / "temporary").iterdir())
  del program
  assert not list((tmp_path / "temporary").iterdir())


def test_the_manifest_says_what_a_file_says(tmp_path):
  _, folder = write(tmp_path / "tiny")
  found = read_manifest(folder)
  assert (found.name, found.sizes.arena, found.entry["kernels"]) == ("tiny", 15, "tflm")
  assert found.entry["input"] == {"scale": float(np.float32(0.1)), "zero_point": 3}
