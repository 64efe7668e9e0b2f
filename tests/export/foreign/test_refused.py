"""Parts that are not evaluated exactly are all named at once; damaged files give one line."""

import json

import flatbuffers
import numpy as np
import pytest

from jaxcompress import cli, export
from jaxcompress.files.checksums import MARK

SLIDE = {"padding": 1, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}


def refused(path):
  with pytest.raises(ValueError) as error:
    export.from_tflite(path)
  assert "\n" not in str(error.value) and str(path) in str(error.value)
  return str(error.value)


def test_all_operators_that_are_not_ours_are_named(spelling):
  file = spelling()
  shape = (1, 8, 8, 4)
  file.add("PRELU", [file.source, file.constant((1, 1, 4))], shape)
  file.add("ADD", [file.last, file.source], shape, version=2, fusedActivationFunction=2)
  file.add("HARD_SWISH", [file.last], shape)
  file.add("DEQUANTIZE", [file.last], shape, None, 2)
  file.add("EXP", [file.last], shape, None)
  said = refused(file.write())
  assert "4 operators" in said
  assert "operator 0 PRELU of 't1': no leaf op computes it" in said
  assert "operator 1 ADD of 't2': it ends in RELU_N1_TO_1" in said
  assert (
    "operator 3 DEQUANTIZE" in said
    and "operator 4 EXP of 't5': it computes in floating point" in said
  )
  assert "HARD_SWISH" not in said  # whose input alone was not read


def test_a_custom_operator_is_named_in_one_line(spelling):
  from ai_edge_litert import schema_py_generated as schema

  file = spelling()
  file.add("HARD_SWISH", [file.source], (1, 8, 8, 4))
  path = file.write()
  model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
  model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 32
  model.operatorCodes[0].customCode, model.description = b"My\n  Op", b"made by\nhand"
  builder = flatbuffers.Builder(1024)
  builder.Finish(model.Pack(builder), b"TFL3")
  path.write_bytes(bytes(builder.Output()))
  assert "operator 0 CUSTOM My Op of 't1': no leaf op computes it" in refused(path)
  assert dict(export.explain(path).facts())["made by"] == "made by hand"


@pytest.mark.parametrize("side", [65536, 0, -3])
def test_windows_far_beyond_a_map_are_refused(side, spelling):
  file = spelling()
  options = {"filterHeight": side, "filterWidth": 2, "strideH": 1, "strideW": 1, "padding": 0}
  file.add("AVERAGE_POOL_2D", [file.source], (1, 8, 8, 4), options="Pool2DOptions", **options)
  with pytest.raises(ValueError, match=r"does not (fit a map of 8 x 8|run in LiteRT)"):
    export.from_tflite(file.write())


def test_weights_with_a_zero_point_and_grids_that_copies_change(spelling):
  file = spelling()
  inputs = [file.source, file.weights((3, 1, 1, 4), zero_point=5), file.bias(3)]
  file.add("CONV_2D", inputs, (1, 8, 8, 3), version=3, **SLIDE)
  file.add("RESHAPE", [file.last, file.numbers([1, 192])], (1, 192), (0.06, 3), newShape=[1, 192])
  said = refused(file.write())
  assert "its weights have a zero point" in said and "it copies codes from the grid" in said


def test_a_shape_that_the_file_says_wrongly(spelling):
  file = spelling()
  file.add("RESHAPE", [file.source, file.numbers([1, 256])], (1, 255), newShape=[1, 256])
  assert "shape" in refused(file.write())


def test_explain_tells_operators_runtimes_and_what_is_not_exact(spelling, capsys, monkeypatch):
  def command(*arguments):
    monkeypatch.setattr("sys.argv", ["jaxcompress", "explain", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
      cli.main()
    return int(end.value.code or 0)

  file = spelling()
  inputs = [file.source, file.weights((4, 1, 1, 4)), file.bias(4)]
  file.add("CONV_2D", inputs, (1, 8, 8, 4), (0.04, -10), 3, **SLIDE)
  file.add("RELU6", [file.last], (1, 8, 8, 4), (0.03, -7), 2)
  file.add("RESHAPE", [file.last, file.numbers([1, 256])], (1, 256), (0.03, -7), newShape=[1, 256])
  path = file.write()
  found = export.explain(path)
  conv, relu6, reshape = found.operators
  assert (
    conv.inputs == ("INT8 (1, 8, 8, 4)", "INT8 (4, 1, 1, 4)", "INT32 (4,)")
    and conv.grid == "0.04 * (q + 10)"
  )
  assert conv.alike == (("xnnpack",), ("reference", "tflm"))
  assert relu6.alike == (("xnnpack", "reference"), ("tflm",))  # which misreads its grid
  assert found.is_exact and reshape.is_exact and "all operators" in str(found)
  assert command(path, "--json") == 0
  assert json.loads(capsys.readouterr().out)["operators"][0]["layer"] == "ConvNorm"
  file.add("PRELU", [file.source, file.constant((1, 1, 4))], (1, 8, 8, 4))
  assert command(file.write()) == 1
  assert "1 of 4 operators are not evaluated exactly" in capsys.readouterr().out


def test_graphs_beside_the_first_are_no_operator(spelling):
  from ai_edge_litert import schema_py_generated as schema

  file = spelling()
  file.add("HARD_SWISH", [file.source], (1, 8, 8, 4))
  path = file.write()
  model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
  model.subgraphs *= 2
  builder = flatbuffers.Builder(1024)
  builder.Finish(model.Pack(builder), b"TFL3")
  path.write_bytes(bytes(builder.Output()))
  assert "is not evaluated exactly: the graphs: there are 2" in refused(path)
  found = export.explain(path)
  assert found.operators[0].is_exact and not found.is_exact
  assert found.verdict().startswith("not evaluated exactly: the graphs: there are 2")


def test_explain_breaks_no_word_at_80_columns_and_takes_the_folder_of_a_run(
  spelling, capsys, monkeypatch
):
  file = spelling()
  kernel = file.weights((1, 3, 3, 4), axis=3)
  fields = {**SLIDE, "depthMultiplier": 1}
  inputs = [file.source, kernel, file.bias(4)]
  file.add("DEPTHWISE_CONV_2D", inputs, (1, 6, 6, 4), (0.04, -10), 3, **fields)
  path = file.write()
  path.rename(path.with_name("student.tflite"))
  (path.parent / "run.json").write_text("{}")
  monkeypatch.setenv("COLUMNS", "80")
  monkeypatch.setattr("sys.argv", ["jaxcompress", "explain", str(path.parent)])
  with pytest.raises(SystemExit) as end:
    cli.main()
  assert not end.value.code
  printed = capsys.readouterr().out
  assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
  assert {"DEPTHWISE_CONV_2D", "(1,6,6,4)", "ConvNorm", "reference"} <= set(printed.split())


def test_explain_reads_metadata_of_tools_for_phones(networks, tmp_path):
  from jaxcompress import data, models

  quantized = networks.random_quantized(models.resnet8(3), (8, 8, 3))
  pictures = data.Preprocess(center=127.5, scale=63.0, per_image=False)
  metadata = {"classes": ["cat", "dog", "eel"], "preprocess": pictures.to_metadata()}
  path = export.tflite(quantized, tmp_path / "net.tflite", metadata=metadata)
  found = export.explain(path)
  assert found.classes == ("cat", "dog", "eel")
  assert found.pictures == "(pixel - mean) / std with mean 127.5 and std 63"


def test_damaged_files_are_one_line(spelling, tmp_path, monkeypatch):
  """Every 7th byte is turned, and the file cut off; what can still be read, is read or refused."""
  file = spelling()
  inputs = [file.source, file.weights((4, 1, 1, 4)), file.bias(4)]
  file.add("CONV_2D", inputs, (1, 8, 8, 4), (0.04, -10), 3, **SLIDE)
  file.add(
    "MEAN",
    [file.last, file.numbers([1, 2])],
    (1, 4),
    (0.03, 5),
    2,
    "ReducerOptions",
    keepDims=False,
  )
  content = file.write().read_bytes()
  assert MARK.encode() not in content
  # the trial in a process of its own has tests of its own; here the parser alone meets the damage
  monkeypatch.setattr(
    "jaxcompress.export.foreign.reading.read_sound_model", lambda path: path.read_bytes()
  )
  path, outcomes = tmp_path / "damaged.tflite", set()
  rng = np.random.default_rng(0)
  cases = [
    bytes([*content[:at], content[at] ^ (1 << rng.integers(8)), *content[at + 1 :]])
    for at in range(8, len(content), 7)
  ]
  cases += [content[:size] for size in range(8, len(content), 97)]
  for case in cases:
    path.write_bytes(case)
    try:
      export.from_tflite(path)
      outcomes.add("read")
    except ValueError as error:
      assert "\n" not in str(error) and str(path) in str(error)
      outcomes.add("refused")
  assert outcomes == {"read", "refused"}
