"""The page on adding an operation quotes the library as it is."""

import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from jaxcompress.nn import Activation, ConvNorm, GlobalAvgPool
from jaxcompress.nn.activations import ACTIVATIONS, ActivationFunction
from jaxcompress.quantize.integer.functions import FUNCTIONS, stored
from jaxcompress.quantize.integer.runtimes import KERNELS

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-an-operation.md").read_text()


def test_the_page_shows_what_the_library_has():
  shown = re.findall(r"```py\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
  entries = {file for file, _ in shown} - {
    "jaxcompress/nn/arrangement.py",  # of the other example
    "jaxcompress/quantize/integer/logistic.py",  # what the entry names
    "jaxcompress/quantize/integer/stored.py",  # of a function whose table the file holds
  }
  assert len(entries) == 5
  for file, lines in shown:
    assert lines in (ROOT / file).read_text(), lines


class Waves(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = Activation("sine", name="wave")(ConvNorm(8, kernel=3, name="conv")(x, train=train))
    return GlobalAvgPool(name="mean")(x)


@pytest.mark.slow
def test_two_rows_are_a_function_on_every_runtime(monkeypatch, tmp_path):
  monkeypatch.setitem(ACTIVATIONS, "sine", ActivationFunction(jnp.sin, -1.0, 1.0, monotone=False))
  monkeypatch.setitem(FUNCTIONS, "sine", stored(np.sin))
  images = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)
  recipe = jc.Recipe(student=Waves(), optimizer=optax.sgd(0.1), quantize=jc.quantize.int8())
  state = jc.init_state(recipe, jax.random.key(0), {"image": images, "label": np.arange(8)})
  state, _ = jc.train_step(state, {"image": images, "label": np.arange(8)})
  for kernels in KERNELS:
    quantized = state.quantized().with_kernels(kernels)
    writer, suffix = (
      (jc.export.onnx, "onnx") if kernels == "onnxruntime" else (jc.export.tflite, "tflite")
    )
    path = writer(quantized, tmp_path / f"waves.{suffix}")
    assert jc.export.verify(path, quantized, images).bit_equal == 1.0
