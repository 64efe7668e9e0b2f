"""Model files that an earlier version wrote are read as what they were."""

import pathlib
import sys

import numpy as np
import pytest

from jaxcompress import export, models

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "every_op"])
def test_a_saved_model_of_before_gives_the_same_logits(golden, name):
  path, expected = GOLDEN / "saved" / f"{name}.safetensors", golden("saved/expected")
  model, variables = models.load(path)
  logits = model.apply(variables, expected["images"], train=False).logits
  np.testing.assert_allclose(logits, expected[name], rtol=1e-5, atol=1e-6)
  assert models.read_header(path) == {"classes": ["b", "ä"]}


@pytest.mark.parametrize(("name", "kernels"), [("format2", "xnnpack"), ("format2_wide", "tflm")])
def test_a_packed_model_of_before_computes_the_same_integers(
  golden, tmp_path, monkeypatch, name, kernels
):
  path, expected = GOLDEN / "packed" / f"{name}.jcz", golden("saved/expected")
  quantized = export.load_packed(path)
  assert quantized.kernels == kernels
  np.testing.assert_array_equal(quantized.integers(expected["images"]), expected[name])
  assert export.read_metadata(path)["classes"] == ["b", "ä"]
  # the file names the version that wrote it; all else is the same
  monkeypatch.setattr(sys.modules[export.packed.__module__], "own_version", lambda: "0.1.0")
  again = export.packed(quantized, tmp_path / "again.jcz", metadata={"classes": ["b", "ä"]})
  assert again.read_bytes() == path.read_bytes()
