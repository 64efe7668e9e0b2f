"""State dicts from mappings and files: found wherever they lie, in two types and without torch."""

import json
import os
import struct
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from jaxcompress.models.checkpoints.weights import read_weights
from tests.models.checkpoints.torch_files import (
  FORMS,
  Call,
  Global,
  Strided,
  legacy_bytes,
  outcome,
  write,
  zip_bytes,
)

FOLDER = os.path.join(os.path.dirname(__file__), "..", "..", "golden", "checkpoints")
FUZZ = settings(
  max_examples=150,
  deadline=5000,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)
ONE = np.ones(2, np.float32)
OTHER = np.zeros(2, np.float32)


class Tensor:
  """The part of a torch tensor that is read; its numpy() refuses as torch's does."""

  def __init__(self, values, dtype="torch.float32", requires_grad=True):
    self.values, self.dtype, self.requires_grad = values, dtype, requires_grad

  def detach(self):
    return Tensor(self.values, self.dtype, requires_grad=False)

  def cpu(self):
    return self

  def float(self):
    return Tensor(self.values.astype(np.float32), requires_grad=self.requires_grad)

  def numpy(self):
    if self.requires_grad or self.dtype not in ("torch.float32", "torch.int64"):
      raise TypeError(f"no numpy of {self.dtype}")
    return self.values


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tensors", "training", "state_dict"])
def test_weights_of_a_file_of_torch_are_torchs_as_float32_int64_and_bool(form, name, golden):
  read = read_weights(os.path.join(FOLDER, f"{name}_{form}.pth"))
  expected = golden(f"checkpoints/{name}")
  assert list(read) == [key.removeprefix("module.") for key in expected]
  for values, (key, torchs) in zip(read.values(), expected.items(), strict=True):
    kind = {"f": np.float32, "b": np.bool_}.get(torchs.dtype.kind, np.int64)
    np.testing.assert_array_equal(values, torchs.astype(kind), err_msg=key, strict=True)


@pytest.mark.parametrize("dtype", [*FLOATS, np.int8, np.uint8, np.int32, np.uint64, np.bool_])
def test_a_mapping_gives_float32_int64_and_bool(dtype):
  values = np.array([0, 1, 100]).astype(dtype)
  (read,) = read_weights({"w": values}).values()
  kind = np.bool_ if dtype is np.bool_ else np.float32 if dtype in FLOATS else np.int64
  np.testing.assert_array_equal(read, values.astype(kind), strict=True)


def test_arrays_of_jax_and_torch_are_read_bfloat16_too():
  values = np.float32([1.5, -2.0])
  read = read_weights(
    {
      "jax": jnp.asarray(values, jnp.bfloat16),
      "torch": Tensor(values),
      "half": Tensor(values.astype(ml_dtypes.bfloat16), "torch.bfloat16"),
      "scalar": np.float64(2.5),
      "number": 3,
    }
  )
  for name in ("jax", "torch", "half"):
    np.testing.assert_array_equal(read[name], values, strict=True)
  assert read["scalar"] == 2.5 and read["number"].dtype == np.int64


def test_arrays_of_a_mapping_are_copied_and_one_array_under_two_names_once():
  values = ONE.copy()
  read = read_weights({"a": values, "b": values})
  values[:] = 7
  np.testing.assert_array_equal(read["a"], ONE)
  assert read["a"] is read["b"]


@pytest.mark.parametrize(
  ("kept", "dtype"),
  [("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_a_safetensors_file_is_read_whatever_its_name(tmp_path, kept, dtype, name):
  arrays = {"w": np.arange(6).astype(dtype).reshape(2, 3), "n": np.int64([4])}
  read = read_weights(str(write(tmp_path / name, save(arrays, {"format": kept}))))
  np.testing.assert_array_equal(read["w"], arrays["w"].astype(np.float32), strict=True)
  np.testing.assert_array_equal(read["n"], arrays["n"], strict=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.pth.tar", "w.safetensors", "w"])
def test_a_file_of_torch_is_read_whatever_its_name(tmp_path, form, name):
  path = write(tmp_path / name, FORMS[form]({"state_dict": {"w": ONE}}))
  np.testing.assert_array_equal(read_weights(path)["w"], ONE)


@pytest.mark.parametrize(
  "nested",
  [
    {"w": ONE},
    {"state_dict": {"w": ONE}, "epoch": 3},
    {"model": {"w": ONE}, "best": np.float64(0.5), "accuracy": OTHER},
    {"net": {"w": ONE}, "acc": 1.0},
    {"params": {"w": ONE}},
    {"model": {"state_dict": {"w": ONE}}},
    {"model": {"w": ONE}, "model_ema": {"w": OTHER}},
    {"state_dict_ema": {"w": ONE}},
    {"model": {"depth": 8}, "state_dict": {"w": ONE}},
    {"model": "resnet8", "net": {"w": ONE}},
    {"module.w": ONE},
    {"state_dict": {"module._orig_mod.w": ONE}},
    {"_orig_mod.module.w": ONE},
  ],
)
def test_the_state_dict_is_found_in_its_nest_and_stripped_of_its_prefix(nested):
  read = read_weights(nested)
  assert list(read) == ["w"]
  np.testing.assert_array_equal(read["w"], ONE)


def test_a_prefix_that_some_names_lack_is_kept():
  assert list(read_weights({"module.w": ONE, "w": ONE})) == ["module.w", "w"]


@pytest.mark.parametrize(
  ("weights", "reason"),
  [
    ({"model": {"w": ONE}, "net": {"w": ONE}, "epoch": 1}, "'model', 'net' all hold weights"),
    ({"model_ema": {"w": ONE}, "net_ema": {"w": ONE}}, "'model_ema', 'net_ema' all hold weights"),
    ({"generator": {"w": ONE}, "epoch": 3}, "top-level keys are 'generator', 'epoch'"),
    ({"epoch": 3, "lr": 0.1}, "top-level keys are 'epoch', 'lr'"),
    ({}, "top-level keys are none"),
    ({"model": {}}, "top-level keys are 'model'"),
    ({str(i): i for i in range(20)}, "'7' and 12 more"),
    ({"w": ONE, "a": "text", "b": None}, "'a', 'b' of the state dict are no real numbers"),
    ({"w": ONE, "c": np.complex64([1])}, "'c' of the state dict are no real numbers"),
    ({"w": ONE, "o": np.array([None])}, "'o' of the state dict are no real numbers"),
    ({"w": ONE, "s": np.array(["x"])}, "'s' of the state dict are no real numbers"),
    ({"w": ONE, "l": [1.0]}, "'l' of the state dict are no real numbers"),
    ({"w": ONE, "d": {"w": ONE}}, "'d' of the state dict are no real numbers"),
    ({"w": ONE, "i": 2**70}, "'i' of the state dict are no real numbers"),
    ({"w": ONE, "t": Tensor(ONE, "torch.qint8")}, "'t' of the state dict are no real numbers"),
    ({"w": ONE, "k": jax.random.key(0)}, "'k' of the state dict are no real numbers"),
    ({"w": ONE, 3: ONE}, "names of a state dict are text, but int"),
    ({"w": np.array([1e300])}, "'w' holds a value that float32 cannot"),
    ({"w": np.array([2**63], np.uint64)}, "'w' holds a value that int64 cannot"),
    (3, "int is neither a mapping nor a path; give a state dict"),
    (None, "NoneType is neither"),
    (b"w.pth", "bytes is neither"),
    (SimpleNamespace(state_dict=dict), r"give its state_dict\(\)"),
  ],
)
def test_what_is_no_state_dict_is_refused_with_what_was_found(weights, reason):
  with pytest.raises(ValueError, match=f"^weights: .*{reason}") as caught:
    read_weights(weights)
  assert "\n" not in str(caught.value)


def test_a_mapping_that_holds_itself_is_refused():
  weights = {"epoch": 3}
  weights["model"] = weights["net"] = weights
  with pytest.raises(ValueError, match="no state dict was found"):
    read_weights(weights)


def test_values_that_are_not_finite_stay_as_they_are():
  values = np.array([np.nan, np.inf, -np.inf, 1e-300])
  np.testing.assert_array_equal(read_weights({"w": values})["w"], [np.nan, np.inf, -np.inf, 0.0])


def test_a_file_that_cannot_be_read_is_refused_by_the_name_weights(tmp_path):
  header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
  cases = {
    "neither a safetensors file nor one of torch.save": (b"hello world", "w.pth"),
    "neither a safetensors file nor one": (b"", "w.pth"),
    "cannot be read .*header": (b"", "w.safetensors"),
    "cannot be read .*float8": (struct.pack("<Q", len(header)) + header + b"x", "w.safetensors"),
    "os.system.*not on the allow-list": (
      zip_bytes({"w": ONE, "x": Call(Global("os", "system"), ("true",))}),
      "w.pth",
    ),
    "holds a list, not a dict": (legacy_bytes([1]), "w.pth"),
  }
  for reason, (raw, name) in cases.items():
    with pytest.raises(ValueError, match=f"^weights: .*{reason}"):
      read_weights(write(tmp_path / name, raw))
  with pytest.raises(ValueError, match=r"^weights: there is no file"):
    read_weights(tmp_path / "none.pth")
  with pytest.raises(ValueError, match=r"^weights: .* is a folder"):
    read_weights(str(tmp_path))


def test_many_names_of_one_small_storage_do_not_fill_the_memory(tmp_path):
  row = np.zeros(2**16, np.float16)
  shared = {f"w{i}": Strided(row, (2**16 - i,), (1,), i, None, "k") for i in range(1000)}
  assert outcome(read_weights, tmp_path / "w.pth", zip_bytes(shared)) is None


SAFE = save({"w": np.arange(6, dtype=np.float32), "half": ONE.astype(ml_dtypes.bfloat16)})


def check(path, raw):
  read = outcome(read_weights, path, raw)
  assert read is None or all(value.dtype in (np.float32, np.int64, bool) for value in read.values())
  return read


def test_no_part_of_a_safetensors_file_passes_for_the_whole(tmp_path):
  assert len(check(tmp_path / "w.safetensors", SAFE)) == 2
  for length in range(len(SAFE)):
    assert check(tmp_path / "w.safetensors", SAFE[:length]) is None


@pytest.mark.parametrize("name", ["safetensors", "training_zip", "training_legacy"])
@FUZZ
@given(data=st.data())
def test_flipped_bytes_give_arrays_or_a_value_error(tmp_path, name, data):
  raw = SAFE
  if name != "safetensors":
    with open(os.path.join(FOLDER, f"{name}.pth"), "rb") as file:
      raw = file.read()
  raw = bytearray(raw)
  for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
    raw[place] ^= data.draw(st.integers(1, 255))
  check(tmp_path / f"w.{name}", bytes(raw))


@FUZZ
@given(raw=st.binary(max_size=200), suffix=st.sampled_from([".pth", ".safetensors"]))
def test_random_bytes_give_a_value_error(tmp_path, raw, suffix):
  assert check(tmp_path / f"w{suffix}", raw) is None
