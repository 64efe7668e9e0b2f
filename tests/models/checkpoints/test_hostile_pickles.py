"""Files made to run code, to lie about sizes or to fill the memory: each is a ValueError."""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from jaxcompress.models.checkpoints.pickles import read_pickle
from tests.models.checkpoints.torch_files import (
  FORMS,
  Built,
  Call,
  DottedGlobal,
  Global,
  Made,
  Raw,
  Strided,
  Writer,
  at_most,
  legacy_bytes,
  write,
  zip_bytes,
)

FLOAT64 = Built(
  Call(Global("numpy", "dtype"), ("f8", False, True)), (3, "<", None, None, None, -1, -1, 0)
)


def attacks(canary):
  touch = f"touch {canary}"
  text = (f"open({canary!r}, 'w')",)
  called = {
    Global("os", "system"): (touch,),
    Global("posix", "system"): (touch,),
    Global("nt", "system"): (touch,),
    Global("subprocess", "Popen"): (["touch", canary],),
    Global("builtins", "eval"): text,
    Global("builtins", "exec"): text,
    Global("__builtin__", "eval"): text,
    Global("builtins", "open"): (canary, "w"),
    Global("io", "open"): (canary, "w"),
    Global("_io", "FileIO"): (canary, "w"),
    Global("builtins", "getattr"): (Global("collections", "OrderedDict"), "build"),
    Global("builtins", "__import__"): ("os",),
    Global("operator", "attrgetter"): ("system",),
    Global("functools", "partial"): (Global("os", "system"), touch),
    Global("numpy", "load"): (canary,),
    Global("numpy", "memmap"): (canary, "u1", "w+", 0, (1,)),
    Global("numpy", "fromfile"): (canary,),
    Global("numpy", "ndarray"): ((2**40,), "f8"),
    Global("numpy.core.multiarray", "fromstring"): ("x",),
    Global("types", "FunctionType"): (None, {}),
    Global("types", "CodeType"): (0,),
    Global("torch.hub", "load"): ("x/y", "z"),
    Global("torch", "load"): (canary,),
    Global("torch.storage", "os.system"): (touch,),
    Global("torch.storage", "UntypedStorage.from_file"): (canary, True, 1),
    Global("collections", "OrderedDict.__init__"): (),
    Global("pickle", "loads"): (b"cos\nsystem\n.",),
    Global("copyreg", "_reconstructor"): (Global("collections", "OrderedDict"), None, None),
    Global("webbrowser", "open"): (canary,),
    Global("shutil", "rmtree"): (canary,),
    Global("ctypes", "CDLL"): (canary,),
    Global("jaxcompress.models.checkpoints.pickles", "read_pickle"): (canary,),
  }
  for function, arguments in called.items():
    yield Call(function, arguments), "not on the allow-list|no allowed function"
    if function != Global("numpy", "ndarray"):
      yield Call(DottedGlobal(*function), arguments), "not on the allow-list"
  encode = Global("_codecs", "encode")
  dtype = Global("numpy", "dtype")
  ordered = Global("collections", "OrderedDict")
  state = (3, "<", None, None, None, -1, -1, 0)
  yield Call(encode, ("x", "rot13")), "latin1 alone"
  yield Call(encode, ("x", "idna")), "latin1 alone"
  yield Call(encode, ("x", Call(encode, ("latin1", "latin1")))), "latin1 alone"
  yield Call(dtype, ("O8", False, True)), "not of numbers"
  yield Call(dtype, ([("a", "f4")],)), "not of numbers"
  yield Call(dtype, ("f4",) * 4), "do not fit"
  yield Built(Call(dtype, ("f8",)), (*state, {"a": 1})), "metadata"
  yield Built(Call(dtype, ("f8",)), (3, "<", None, ("a",), None, -1, -1, 0)), "fields"
  yield Built(Call(dtype, ("f8",)), (3, ">", *state[2:])), "byte order"
  yield Built(Global("torch._utils", "_rebuild_tensor_v2"), {"build": 1}), "sets the state of a"
  yield Built(np.zeros(3), (1, (2,), FLOAT64, False, b"")), "sets the state of a ndarray"
  yield Built([1], {"append": 1}), "sets the state of a list"
  yield Made(Global("torch", "FloatStorage")), "another class than argparse.Namespace"
  yield Call(Call(ordered), ()), "calls a OrderedDict"
  yield Call(Global("torch._utils", "_rebuild_parameter"), ([1], True, None)), "without a tensor"
  yield Raw(b"\x82\x01"), "EXT1"
  yield Raw(b"(ios\nsystem\n"), "INST"
  yield Raw(b"(cos\nsystem\no"), "os.system"
  yield Raw(b"\x92"), "NEWOBJ_EX"
  yield Raw(b"P0\n"), "PERSID"


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_a_pickle_names_is_run_or_opened(tmp_path, form):
  canary = tmp_path / "canary"
  for attack, reason in attacks(str(canary)):
    path = write(tmp_path / "w.pth", FORMS[form]({"w": np.ones(2), "x": attack}))
    with pytest.raises(ValueError, match=reason) as caught:
      read_pickle(path)
    assert not canary.exists(), attack
    assert str(caught.value).startswith(f"path: {str(path)!r}") and "\n" not in str(caught.value)
    if isinstance(attack, Call) and "allow-list" in str(caught.value):
      assert f"{attack.function[0]}.{attack.function[1]}" in str(caught.value)


def test_the_attacks_would_succeed_against_pickle_itself(tmp_path):
  canary = tmp_path / "canary"
  attack, _ = next(attacks(str(canary)))
  pickle.loads(Writer().dump(attack))
  assert canary.exists()


def lies():
  four = np.arange(4, dtype=np.float32)
  array = Call(
    Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b")
  )
  scalar = Global("numpy.core.multiarray", "scalar")
  yield Strided(four, (5,), (1,)), "outside of its storage of 4 elements"
  yield Strided(four, (2,), (1,), 3), "outside"
  yield Strided(four, (2,), (4,)), "outside"
  yield Strided(four, (1,), (1,), 4), "outside"
  yield Strided(four, (1,), (1,), -1), "no integer of 0"
  yield Strided(four, (2,), (-1,), 3), "no integer of 0"
  yield Strided(four, (-2,), (1,)), "no integer of 0"
  yield Strided(four, (2.0,), (1,)), "no integer of 0"
  yield Strided(four, (2**62, 2**62), (0, 0)), "expands its storage"
  yield Strided(four, (2**60,), (0,)), "expands its storage"
  yield Strided(four, (2**16 + 1,), (0,)), "expands its storage"
  yield Strided(four, (2**80,), (0,)), "no integer of 0"
  yield Strided(four, (2, 2), (1,)), "do not fit together"
  yield Strided(four, (0, 2**62, 2**62), (1, 1, 1)), "cannot be read"
  yield Strided(four, (1,) * 100, (1,) * 100), "cannot be read"
  yield Strided(four, (4,), (1,), 0, 2**61), "storage '0'"
  yield Strided(four, (4,), (1,), 0, 5), "storage '0'"
  yield [Strided(four, (3,), (1,), 0, 3, "k"), Strided(four, (4,), (1,), 0, 4, "k")], "storage 'k'"
  yield Built(array, (1, (2**40,), FLOAT64, False, b"")), "does not fit together"
  yield Built(array, (1, (1,), FLOAT64, False, [1])), "does not fit together"
  yield Call(scalar, (FLOAT64, b"1234")), "not made of its type"
  yield {(1, 2): 3}, "a key of a dict or set is a tuple"
  yield {2**61: 3}, "a key of a dict or set is a int"


@pytest.mark.parametrize("form", FORMS)
def test_sizes_that_lie_are_refused(tmp_path, form):
  for lie, reason in lies():
    with pytest.raises(ValueError, match=reason):
      read_pickle(write(tmp_path / "w.pth", FORMS[form](lie)))


def bombs():
  row = np.zeros(2**16, np.float32)
  million = b"(" + b"K\x01" * 100_000
  yield "long string", zip_bytes(Raw(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x."))
  yield "long bytes", legacy_bytes(Raw(b"\x80\x04\x8e" + struct.pack("<Q", 2**33) + b"x."))
  yield "frame", zip_bytes(Raw(b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"."))
  yield "nested lists", zip_bytes(Raw(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"b."))
  yield "hash of a doubling tuple", zip_bytes(Raw(b"\x80\x02})" + b"2\x86" * 100 + b"Ns."))
  yield (
    "copies of a list",
    zip_bytes(
      Raw(
        b"\x80\x02]" + million + b"eq\x000"
        b"ccollections\nOrderedDict\nq\x010c__builtin__\nset\nq\x020("
        + b"h\x02h\x00\x85R" * 10_000
        + b"t."
      )
    ),
  )
  yield "rows of one storage", zip_bytes([Strided(row, (2**16,), (1,), 0, None, "k")] * 1000)
  yield "deflated zeros", zip_bytes(np.zeros(2**22, np.float32), compression=zipfile.ZIP_DEFLATED)
  yield "deflated text", zip_bytes("a" * 2**26, compression=zipfile.ZIP_DEFLATED)
  raw = bytearray(zip_bytes(np.zeros(2**16, np.float32), compression=zipfile.ZIP_DEFLATED))
  sizes = struct.pack("<I", 2**18)
  yield "size that lies", bytes(raw).replace(sizes, struct.pack("<I", 2**31 - 1))


@pytest.mark.parametrize("bomb", list(bombs()), ids=lambda bomb: bomb[0])
def test_a_small_file_does_not_unfold_to_a_large_one(tmp_path, bomb):
  raw = bomb[1]
  path = write(tmp_path / "w.pth", raw)
  with pytest.raises(ValueError, match="cannot be read"), at_most(20 * len(raw) + 2**25):
    read_pickle(path)


def test_a_memo_of_one_value_takes_the_room_of_one_whatever_its_index(tmp_path):
  path = write(tmp_path / "w.pth", zip_bytes(Raw(b"\x80\x02K\x01r\xff\xff\xff\x7f.")))
  with at_most(2**20):
    assert read_pickle(path) == 1
