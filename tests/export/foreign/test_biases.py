"""Layers without a bias: they are read, and no runtime that would not survive them is given them."""

import flatbuffers
import flax.linen as nn
import pytest
from ai_edge_litert import schema_py_generated as schema

from jaxcompress import export
from jaxcompress.export.trial import run_apart
from jaxcompress.nn import ConvNorm, Dense, GlobalAvgPool

CODES = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 9}


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, *, train):
    x = ConvNorm(8, kernel=3, act="relu", name="conv")(x, train=train)
    x = ConvNorm(8, kernel=3, groups="depthwise", name="depthwise")(x, train=train)
    return Dense(4, name="dense")(GlobalAvgPool(name="pool")(x))


@pytest.fixture
def without(networks, tmp_path):
  """A file of ours, and the same with the bias of one kind of operator left out, or -1 in its place."""
  quantized = networks.random_quantized(Net(), (8, 8, 4))

  def write(code, *, marked):
    path = export.tflite(quantized, tmp_path / "ours.tflite")
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    for operator in model.subgraphs[0].operators:
      if model.operatorCodes[operator.opcodeIndex].builtinCode == CODES[code]:
        operator.inputs = [*operator.inputs[:2], *([-1] if marked else [])]
    model.metadata = []
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "foreign.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path

  return write


@pytest.mark.slow
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_what_needs_a_bias_refuses_by_name_and_all_else_is_bit_equal(
  code, marked, without, networks, tmp_path
):
  path = without(code, marked=marked)
  model = export.from_tflite(path)
  images = networks.images_for(model, 3)
  named = next(op for op in export.explain(path).operators if op.operator == code)
  for kernels in ("xnnpack", "reference", "tflm"):
    try:
      run_apart(path, "run_once", kernels, path.read_bytes(), kernels=kernels)
    except ValueError:
      with pytest.raises(ValueError, match=rf"{code} of '.*' has no bias.*export\.tflite\("):
        export.verify(path, model.with_kernels(kernels), images)
      assert "has no bias" in named.refused[kernels]
    else:
      assert export.verify(path, model.with_kernels(kernels), images).bit_equal == 1.0
      assert kernels not in named.refused
  again = export.tflite(model, tmp_path / "again.tflite")
  assert export.verify(again, model, images).bit_equal == 1.0


def test_a_certificate_lists_the_runtimes_that_need_a_bias_as_not_run(without, networks):
  path = without("DEPTHWISE_CONV_2D", marked=False)
  model = export.from_tflite(path)
  rows = export.certify(path, model, networks.images_for(model, 2), processors=()).rows
  assert [row.verdict for row in rows] == ["not run", "equal", "equal"]
  assert "has no bias" in rows[0].reason
