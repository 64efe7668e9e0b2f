"""Model files that end the process of their runtime are one line in ours, whatever opens them."""

import json
import subprocess
import sys

import flax.linen as nn
import numpy as np
import pytest

from jaxcompress import export
from jaxcompress.export import interpreters, trial
from jaxcompress.export.contents import read_operators
from jaxcompress.files.checksums import MARK
from jaxcompress.nn import Add, ConvNorm, Dense, GlobalAvgPool, MaxPool

SHAPE = (8, 8, 2)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    x = Add(name="add")(x, ConvNorm(4, kernel=3, groups="depthwise", name="side")(x, train=train))
    return Dense(3, name="head")(GlobalAvgPool(name="mean")(MaxPool(2, stride=2, name="pool")(x)))


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory):
  """Sound files by suffix, as of others: without a checksum."""
  folder, found = tmp_path_factory.mktemp("sound"), {}
  quantized = networks.random_quantized(Net(), SHAPE)
  for write, suffix in ((export.tflite, ".tflite"), (export.onnx, ".onnx")):
    content = write(quantized, folder / f"net{suffix}").read_bytes()
    found[suffix] = content.replace(MARK.encode(), b"x" * len(MARK))
  return quantized, found


def zeroed(content, place, count=4):
  return content[:place] + bytes(count) + content[place + count :]


def run_once(path):
  runtime = export.Runtime(path)
  return runtime(np.zeros(runtime.input_shape, runtime.input_dtype))


OPENERS = {
  "lint": lambda path: export.lint(path, "tensorrt" if path.suffix == ".onnx" else "ethos-u"),
  "runtime": run_once,
  "benchmark": lambda path: export.benchmark(path, repeats=1),
  "metadata": export.read_metadata,
}


def is_refused(opener, path):
  """Whether it is, in one line that names the file; this process survives in any case."""
  try:
    OPENERS[opener](path)
  except ValueError as error:
    assert "\n" not in str(error) and str(path) in str(error)
    return True
  return False


@pytest.mark.slow
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_files_with_a_zeroed_field_are_opened_or_one_line(opener, suffix, files, tmp_path):
  content, path = files[1][suffix], tmp_path / f"net{suffix}"
  fields = [at for at in range(0, len(content) - 4, 4) if any(content[at : at + 4])]
  offset = list(OPENERS).index(opener)
  refused = 0
  for at in fields[offset :: len(fields) // 12]:
    path.write_bytes(zeroed(content, at))
    refused += is_refused(opener, path)
  assert refused > 0


def crashing(files, path):
  """A file with which LiteRT ends the process that opens it, or None if none is found."""
  content = files[1][".tflite"]
  for at in range(8, 64, 4):
    path.write_bytes(zeroed(content, at))
    options = json.dumps({"kernels": "xnnpack"})
    script = [sys.executable, "-P", interpreters.__file__, "look_at", options]
    done = subprocess.run(script, input=path.read_bytes(), capture_output=True, check=False)
    if done.returncode < 0:
      return path
  return None


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "tflm"])
def test_a_file_that_ends_its_runtime_by_a_signal_is_one_line(kernels, files, tmp_path):
  quantized, _ = files
  path = crashing(files, tmp_path / "crash.tflite")
  if path is None:
    pytest.skip("this LiteRT survives all of them")
  images = np.zeros((1, *SHAPE), np.float32)
  for call in (
    lambda: export.lint(path, "xnnpack"),
    lambda: read_operators(path),
    lambda: export.read_metadata(path),
    lambda: export.benchmark(path),
    lambda: export.arena(path),
    lambda: export.Runtime(path, kernels=kernels),
    lambda: export.verify(path, quantized.with_kernels(kernels), images),
  ):
    with pytest.raises(ValueError, match=r"crash\.tflite does not run in .*SIG[A-Z]+") as error:
      call()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_stablehlo_file_of_before_that_ends_its_compiler_is_one_line(files, tmp_path):
  path = export.stablehlo(files[0], tmp_path / "net.stablehlo")
  content = path.read_bytes()
  content, rng, refused = content[: content.index(MARK.encode())], np.random.default_rng(0), 0
  for at in rng.integers(600, len(content), 6):
    path.write_bytes(zeroed(content, int(at)))
    try:
      export.load_stablehlo(path)
    except ValueError as error:
      refused += 1
      assert "\n" not in str(error) and str(path) in str(error)
  assert refused > 0
  path.write_bytes(content)
  export.load_stablehlo(path)


def test_a_file_is_tried_once_and_one_of_this_process_not_at_all(files, tmp_path, monkeypatch):
  tries = []
  real = trial.run_apart
  monkeypatch.setattr(
    trial, "run_apart", lambda *given, **more: tries.append(given[1:3]) or real(*given, **more)
  )
  path = tmp_path / "net.tflite"
  path.write_bytes(files[1][".tflite"] + bytes(8))
  for _ in range(2):
    run_once(path)
    export.lint(path, "xnnpack")
  assert tries == [("run_once", "xnnpack"), ("look_at", "xnnpack")]
  run_once(export.tflite(files[0], tmp_path / "own.tflite", metadata={"a": "b"}))
  assert len(tries) == 2


def test_a_runtime_that_never_ends_is_given_up(files, tmp_path, monkeypatch):
  path = tmp_path / "slow.tflite"
  path.write_bytes(files[1][".tflite"] + bytes(12))
  monkeypatch.setattr(trial, "LONGEST_TRIAL", 0.001)
  with pytest.raises(ValueError, match=r"slow\.tflite does not run in LiteRT \(it takes more than"):
    run_once(path)
