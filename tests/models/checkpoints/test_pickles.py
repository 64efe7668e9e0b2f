"""Reading torch's files: what torch wrote comes back, and nothing that a file names is run."""

import os
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxcompress.models.checkpoints.pickles import read_pickle
from tests.models.checkpoints.torch_files import (
  FORMS,
  STORAGES,
  Call,
  Global,
  Persistent,
  Raw,
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


def example():
  values = np.arange(12, dtype=np.float32)
  return OrderedDict(
    {"weight": values.reshape(3, 4), "view": Strided(values, (4, 2), (1, 4), 2), "epoch": 3}
  )


@pytest.mark.parametrize("form", FORMS)
def test_every_type_and_layout_that_torch_wrote_comes_back_as_torch_has_it(form, golden):
  read = read_pickle(os.path.join(FOLDER, f"tensors_{form}.pth"))
  expected = golden("checkpoints/tensors")
  assert read.keys() == expected.keys()
  for name, values in expected.items():
    assert read[name].dtype == values.dtype, name
    np.testing.assert_array_equal(read[name], values, err_msg=name, strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_training_checkpoint_of_torch_comes_back(form, golden):
  read = read_pickle(os.path.join(FOLDER, f"training_{form}.pth"))
  for name, values in golden("checkpoints/training").items():
    np.testing.assert_array_equal(read["model"][name], values, strict=True)
  assert read["epoch"] == 3 and read["best_acc"] == 0.75 and type(read["best_acc"]) is np.float64
  assert read["opt"] == {"lr": 0.1, "model": "small", "milestones": [1, 2], "resume": None}
  np.testing.assert_array_equal(read["accuracies"], [0.0, 1.0, 2.0])
  assert read["accuracies"].dtype == np.float64
  np.testing.assert_array_equal(read["optimizer"]["state"][1]["momentum_buffer"], np.ones(3))
  assert read["schedule"]["milestones"] == {1: 1, 2: 1}
  assert (read["dtype"], read["device"], read["size"]) == (np.float32, "cpu", (1, 2))
  assert read["names"] == {"conv", "norm"}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_that_share_a_storage_share_their_memory(form):
  read = read_pickle(os.path.join(FOLDER, f"tensors_{form}.pth"))
  assert np.shares_memory(read["base"], read["transposed"])
  assert not np.shares_memory(read["base"], read["float32"])


def test_a_whole_module_is_refused_by_the_name_of_its_class():
  with pytest.raises(ValueError, match=r"'torch\.nn\.modules.*Sequential'.*not on the allow-list"):
    read_pickle(os.path.join(FOLDER, "module_zip.pth"))


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
@pytest.mark.parametrize("big_endian", [False, True])
def test_either_byte_order_gives_the_same_values(tmp_path, dtype, big_endian):
  values = np.array([0, 1, 0, 1, 100]).astype(dtype)
  read = read_pickle(write(tmp_path / "w.pth", zip_bytes([values], big_endian=big_endian)))[0]
  shown = np.float32 if dtype == ml_dtypes.bfloat16 else dtype
  np.testing.assert_array_equal(read, values.astype(shown), strict=True)


@pytest.mark.parametrize("folder", ["archive/", "model best/", "ünï/", ""])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_name_of_the_folder_and_deflated_entries_are_read(tmp_path, folder, compression):
  raw = zip_bytes({"w": np.eye(3)}, folder=folder, compression=compression)
  np.testing.assert_array_equal(read_pickle(write(tmp_path / "w.pth", raw))["w"], np.eye(3))


def test_a_legacy_view_of_a_storage_starts_at_its_offset(tmp_path):
  values = np.arange(6, dtype=np.float32)
  kind = Global("torch", "FloatStorage")
  rebuild = Global("torch._utils", "_rebuild_tensor")
  view = Persistent(("storage", kind, "0", "cpu", 6, ("9", 2, 3)))
  raw = legacy_bytes([values, Call(rebuild, (view, 1, (2,), (1,)))])
  np.testing.assert_array_equal(read_pickle(write(tmp_path / "w.pth", raw))[1], [3.0, 4.0])
  outside = Persistent(("storage", kind, "0", "cpu", 6, ("9", 4, 3)))
  raw = legacy_bytes([values, Call(rebuild, (outside, 0, (1,), (1,)))])
  with pytest.raises(ValueError, match="view reaches outside of its storage of 6 elements"):
    read_pickle(write(tmp_path / "w.pth", raw))


def test_an_archive_is_refused_with_the_reason(tmp_path):
  program = zip_bytes([1], extra={"archive/constants.pkl": b"", "archive/code/x.py": b""})
  cases = {
    r"TorchScript program.*torch\.save\(model\.state_dict\(\), path\)": program,
    "has 0 entries data.pkl": zip_bytes([1], folder="a/b/"),
    "has 2 entries data.pkl": zip_bytes([1], extra={"b/data.pkl": b""}),
    "compressed by method 14": zip_bytes([1], compression=zipfile.ZIP_LZMA),
    "storage '0' is missing": zip_bytes(np.ones(3)).replace(b"data/0", b"data/7"),
    "Bad CRC": zip_bytes(np.ones(3)).replace(np.ones(3).tobytes(), np.zeros(3).tobytes()),
    "it is empty": b"",
    "does not start as a file of torch.save": b"<!DOCTYPE html>",
    "is a pickle, but not of torch.save": b"\x80\x02}." * 4,
    "its protocol is not 1001": legacy_bytes([1]).replace(b"\x8a\x02\xe9\x03", b"\x8a\x02\xea\x03"),
    "pickle protocol: 6": zip_bytes(Raw(b"\x80\x06N.")),
  }
  for reason, raw in cases.items():
    with pytest.raises(ValueError, match=reason):
      read_pickle(write(tmp_path / "w.pth", raw))


def test_a_path_without_a_file_is_refused_by_the_name_of_the_argument(tmp_path):
  with pytest.raises(ValueError, match=r"path: there is no file '.*none\.pth'"):
    read_pickle(tmp_path / "none.pth")
  with pytest.raises(ValueError, match=r"here: .* is a folder"):
    read_pickle(tmp_path, argument="here")
  with pytest.raises(ValueError, match="path: a int is no path"):
    read_pickle(3)


@pytest.mark.parametrize("form", FORMS)
def test_no_part_of_a_file_passes_for_the_whole(tmp_path, form):
  raw = FORMS[form](example())
  assert outcome(read_pickle, tmp_path / "w.pth", raw)["epoch"] == 3
  for length in range(len(raw)):
    assert outcome(read_pickle, tmp_path / "w.pth", raw[:length]) is None


def flips(size):
  return st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 255)), min_size=1, max_size=6)


def flipped(raw, changes):
  raw = bytearray(raw)
  for place, bits in changes:
    raw[place] ^= bits
  return bytes(raw)


@pytest.mark.parametrize(
  "name", ["tensors_zip", "training_zip", "tensors_legacy", "training_legacy"]
)
@FUZZ
@given(data=st.data())
def test_flipped_bytes_of_a_real_file_give_data_or_a_value_error(tmp_path, name, data):
  with open(os.path.join(FOLDER, f"{name}.pth"), "rb") as file:
    raw = file.read()
  outcome(read_pickle, tmp_path / "w.pth", flipped(raw, data.draw(flips(len(raw)))))


@FUZZ
@given(data=st.data())
def test_flipped_bytes_of_the_pickle_in_an_archive_give_data_or_a_value_error(tmp_path, data):
  with zipfile.ZipFile(os.path.join(FOLDER, "training_zip.pth")) as archive:
    raw = archive.read("training_zip/data.pkl")
  damaged = flipped(raw, data.draw(flips(len(raw))))
  outcome(read_pickle, tmp_path / "w.pth", zip_bytes(Raw(damaged), extra={"archive/data/0": b""}))


SHORT = (
  "N 88 K02 Jffffffff ( ) ] } 8f 85 86 87 t l d a e s u 90 91 0 1 2 R b 81 Q 93 94 q00 h00 h01"
)
GLOBALS = [
  "collections OrderedDict",
  "builtins set",
  "argparse Namespace",
  "_codecs encode",
  "numpy dtype",
  "numpy ndarray",
  "numpy.core.multiarray _reconstruct",
  "numpy.core.multiarray scalar",
  "torch FloatStorage",
  "torch Size",
  "torch device",
  "torch._utils _rebuild_tensor_v2",
]
PIECES = st.sampled_from(
  [
    *(piece[:1].encode() + bytes.fromhex(piece[1:]) for piece in SHORT.split() if len(piece) % 2),
    *(bytes.fromhex(piece) for piece in SHORT.split() if len(piece) % 2 == 0),
    *(b"X" + struct.pack("<I", len(text)) + text for text in (b"x", b"latin1", b"f8", b"storage")),
    *(f"c{names.replace(' ', chr(10))}\n".encode() for names in GLOBALS),
    b"C\x01x",
  ]
)


@settings(FUZZ, max_examples=500)
@given(pieces=st.lists(PIECES, max_size=40))
def test_any_run_of_allowed_opcodes_gives_data_or_a_value_error(tmp_path, pieces):
  outcome(read_pickle, tmp_path / "w.pth", zip_bytes(Raw(b"\x80\x02" + b"".join(pieces) + b".")))


@FUZZ
@given(start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02"]), rest=st.binary(max_size=300))
def test_random_bytes_give_data_or_a_value_error(tmp_path, start, rest):
  assert outcome(read_pickle, tmp_path / "w.pth", start + rest) is None
