"""Networks in C on emulated Cortex-M processors, against exact evaluation; skipped where none is emulated."""

import shutil
import sys

import flax.linen as linen
import jax
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress import export, nn
from jaxcompress.export.c99.compiling import CORES, CROSS_COMPILER, find_emulator
from jaxcompress.export.c99.running import CRuntime
from jaxcompress.files.extras import MissingExtraError


class Mixed(linen.Module):
  """Layers of several kinds: strided, depthwise, a sum, a pool, a sigmoid and a dense one."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, kernel=3, stride=2, act="relu6", name="stem")(x, train=train)
    y = nn.ConvNorm(8, kernel=3, groups="depthwise", act="relu6", name="depth")(x, train=train)
    y = nn.Activation("sigmoid", name="gate")(
      nn.ConvNorm(8, kernel=1, name="point")(y, train=train)
    )
    x = nn.Add(name="add")(x, y)
    x = nn.MaxPool(kernel=2, stride=2, name="max")(x)
    x = nn.GlobalAvgPool(keepdims=False, name="pool")(x)
    return nn.Dense(5, name="head")(x)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """A quantized network, images for it, and its folder."""
  if shutil.which(CROSS_COMPILER) is None:
    pytest.skip(f"{CROSS_COMPILER} is not installed")
  try:
    find_emulator("cortex-m4")
  except MissingExtraError as error:
    pytest.skip(str(error))
  model, rng = Mixed(), np.random.default_rng(0)
  variables = jc.init_variables(model, jax.random.key(0), (12, 10, 3))
  images = rng.integers(0, 256, (32, 12, 10, 3)).astype(np.uint8)
  quantized = jc.quantize.post_training(
    model, variables, images, preprocess=jc.data.Preprocess(), method="minmax", progress=False
  )
  folder = export.c(quantized, tmp_path_factory.mktemp("c") / "small", name="small")
  return quantized, images, folder


@pytest.mark.parametrize("processor", CORES)
def test_a_cortex_m_gives_the_integers_of_exact_evaluation(processor, small):
  quantized, images, folder = small
  found = export.verify(folder, quantized, images, processor=processor)
  assert (found.bit_equal, found.images) == (1.0, 32)


def test_an_unknown_processor_is_refused(small):
  _, _, folder = small
  with pytest.raises(ValueError, match="processor: 'cortex-m1' is unknown"):
    export.Runtime(folder, processor="cortex-m1")


def test_an_old_emulator_is_named(small, monkeypatch, tmp_path):
  _, _, folder = small
  old = tmp_path / "qemu-arm"
  old.write_text("#!/bin/sh\necho page_set_flags: Assertion failed >&2\nexit 134\n")
  old.chmod(0o755)
  monkeypatch.setattr(sys.modules[CRuntime.__module__], "find_emulator", lambda _: str(old))
  runtime = CRuntime(folder, "cortex-m4")
  runtime.feed(np.zeros((1, 12, 10, 3), np.int8))
  with pytest.raises(ValueError, match="is too old for programs of cortex-m4"):
    runtime.invoke()
