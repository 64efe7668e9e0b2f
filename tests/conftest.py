"""Settings for the whole suite: strict broadcasting, quick compilation, programs kept between runs."""

import gc
import os
import pathlib
import signal
import subprocess
import zlib

os.environ |= {  # for the processes that tests start, too
  "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
  "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(__file__).parent.parent / ".cache" / "jax"),
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # even an addition takes 15 ms
  "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # most tests compile more than they compute
}

import hypothesis
import jax
import numpy as np
import pytest

if (
  signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # a shell starts programs so in the background
  signal.signal(signal.SIGINT, signal.default_int_handler)

USERS = "JAXCOMPRESS_TESTS_COMPILE_AS_USERS_DO" in os.environ
if USERS:
  del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
  jax.config.update("jax_disable_most_optimizations", False)

jax.config.update("jax_numpy_rank_promotion", "raise")
with pytest.MonkeyPatch.context() as patch:  # processes that tests start have what users have
  flags = os.environ.get("XLA_FLAGS", "")
  if not USERS:  # the older code generator, twice as quick
    patch.setenv("XLA_FLAGS", f"{flags} --xla_cpu_use_fusion_emitters=false")
  jax.devices()  # reads them
gc.set_threshold(100_000, 50, 100)  # its passes over all that was traced took a third of tracing

hypothesis.settings.register_profile(  # how fast a machine is, is no fault
  "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

GOLDEN = pathlib.Path(__file__).parent / "golden"
MAPS = pathlib.Path("/proc/self/maps")
MOST_MAPS = 25_000  # of 65,530: a program takes about three, and XLA crashes where it gets none


PARTS, PART = 16, "JAXCOMPRESS_PART_OF_TESTS"  # for the processes that share the tests


def pytest_addoption(parser):
  parser.addoption(
    "--slow", action="store_true", help="run all slow tests, not a sixteenth of them"
  )
  parser.addoption("--eighth", action="store_true", help="run an eighth of the files")


def pytest_configure(config):
  whole = config.args_source is config.ArgsSource.TESTPATHS and not config.option.slow
  if whole or config.option.eighth:
    asked = ["git", "-C", os.path.dirname(__file__), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    os.environ.setdefault(PART, str(int(commit[:8] or "0", 16) % PARTS))


def pytest_collection_modifyitems(config, items):
  """Of the slow tests each commit runs a sixteenth, unless files are named or all are asked for.

  A slow module, whose tests share what takes long, runs whole or not at all. With ``--eighth`` an
  eighth of the files runs.
  """
  if PART not in os.environ:
    return

  def here(text, parts=PARTS):
    return zlib.crc32(text.encode()) % parts == int(os.environ[PART]) % parts

  sides = ([], [])
  for item in items:
    file = item.nodeid.split("::")[0]
    slow = [node for node, _ in item.iter_markers_with_node("slow")]
    share = item.nodeid if slow == [item] else file
    left_out = (slow and not here(share)) or (config.option.eighth and not here(file, 8))
    sides[bool(left_out)].append(item)
  items[:], others = sides
  config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
  """Frees compiled programs between modules before the kernel refuses a process more of them."""
  yield
  if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
    jax.clear_caches()


@pytest.fixture(scope="module")
def programs_forgotten():
  """Frees the compiled programs of a module with many networks, which are gigabytes otherwise."""
  yield
  jax.clear_caches()


@pytest.fixture(scope="module")
def optimized():
  """Programs as users run them, for a module that tells integers apart by their last bit."""
  if USERS:
    yield
    return
  jax.clear_caches()
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)
  jax.clear_caches()


@pytest.fixture(scope="session")
def golden():
  """Reads a folder/file of tests/golden into a dict of arrays."""

  def read(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
      return dict(file)

  return read


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
  """Runs the command line in an empty folder; returns exit code, output, errors."""
  from jaxcompress import cli

  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("COLUMNS", "160")

  def call(*arguments):
    monkeypatch.setattr("sys.argv", ["jaxcompress", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
      cli.main()
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err

  return call
