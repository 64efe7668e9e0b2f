"""Models in safetensors files that know what they are."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxcompress import models
from jaxcompress.nn import ConvNorm, Norm
from jaxcompress.training import init_variables

SMALL = {
  "resnet8": {},
  "mobilenet_v3_small": {"width": 0.35, "minimal": True, "norm": Norm(epsilon=2e-3)},
  "shufflenet_v1": {"groups": 2, "classifier_bias": True},
  "wide_resnet": {"depth": 10, "widen": 2},
}


def fresh(model):
  return init_variables(model, jax.random.key(1), (32, 32, 3))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("files") / "resnet8.safetensors"
  model = models.resnet8(num_classes=3)
  return models.save(path, model, fresh(model))


@pytest.mark.parametrize("name", SMALL)
def test_a_model_comes_back_with_its_options_and_every_bit(name, tmp_path):
  model = models.create(name, 7, **SMALL[name])
  variables = fresh(model)
  path = models.save(tmp_path / "model.safetensors", model, variables)
  same_model, same = models.load(path)
  assert same_model == model
  jax.tree.map(np.testing.assert_array_equal, same, variables)
  assert list(tmp_path.iterdir()) == [path]


def test_metadata_comes_back_and_must_be_json(file, tmp_path):
  assert models.read_metadata(file) == {}
  model, variables = models.load(file)
  facts = {"classes": ["a", "b", "ç"], "image_shape": [32, 32, 3]}
  path = models.save(tmp_path / "model.safetensors", model, variables, metadata=facts)
  assert models.read_metadata(path) == facts
  jax.tree.map(np.testing.assert_array_equal, models.load(path)[1], variables)
  for metadata in ({"a": object()}, {"a": float("nan")}):
    with pytest.raises(ValueError, match="metadata: it is no JSON"):
      models.save(path, model, variables, metadata=metadata)
  assert models.read_metadata(path) == facts


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_can_be_described_and_built_again(name):
  model = models.create(name, 12)
  description = models.describe(model)
  assert description.name == name
  assert models.create(name, 12, **description.options) == model


def test_the_header_says_in_words_what_the_file_holds(file):
  from safetensors import safe_open

  with safe_open(file, "numpy") as content:
    config = json.loads(content.metadata()["jaxcompress"])
  assert config["model"] == "resnet8" and config["num_classes"] == 3
  assert config["options"]["norm"] == [1e-05, 0.9, False]


def test_an_earlier_file_is_replaced(file, tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_bytes(b"old")
  model, variables = models.load(file)
  models.save(path, model, variables)
  assert models.load(path)[0] == model


def test_files_that_are_no_model_are_refused(file, tmp_path):
  other = tmp_path / "other.safetensors"
  save_file({"a": np.zeros(2)}, other)
  with pytest.raises(ValueError, match=r"says no model in its header; .*from_torch"):
    models.load(other)
  with pytest.raises(ValueError, match=r"path: .*missing\.safetensors is no readable"):
    models.load(tmp_path / "missing.safetensors")
  arrays = load_file(file)
  arrays["params/stem/kernel"] = np.zeros((3, 3, 3, 1), np.float32)
  del arrays["params/stem/bias"]
  config = {"model": "resnet8", "num_classes": 3, "options": {}}
  save_file(arrays, other, {"jaxcompress": json.dumps(config)})
  with pytest.raises(ValueError, match=r"stem/bias is missing, params/stem/kernel is float32"):
    models.load(other)
  save_file(arrays, other, {"jaxcompress": json.dumps({**config, "model": "resnet9"})})
  with pytest.raises(ValueError, match="names a model that cannot be built"):
    models.load(other)


def test_only_models_of_the_package_and_their_own_variables_are_saved(tmp_path):
  path = tmp_path / "model.safetensors"
  with pytest.raises(ValueError, match=r"model: ConvNorm is none of jaxcompress\.models"):
    models.save(path, ConvNorm(4), {})
  with pytest.raises(ValueError, match="variables: the arrays of the model resnet8 do not fit"):
    models.save(path, models.resnet8(), fresh(models.resnet14()))
  with pytest.raises(ValueError, match=r"path: .* cannot be written"):
    models.save(tmp_path / "no" / "folder", models.resnet8(), fresh(models.resnet8()))
  assert not path.exists()


@settings(max_examples=60, deadline=None)
@given(
  cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3)
)
def test_a_damaged_file_is_read_or_refused_but_nothing_else(file, tmp_path_factory, cut, flips):
  content = bytearray(file.read_bytes())
  for where, bits in flips:
    content[int(where * (len(content) - 1))] ^= bits
  path = tmp_path_factory.mktemp("damaged") / "file.safetensors"
  path.write_bytes(content[: int(cut * len(content))] if not flips else content)
  try:
    model, variables = models.load(path)
  except ValueError as error:
    assert str(error).startswith("path: ")
  else:
    assert jax.tree.structure(variables) == jax.tree.structure(fresh(model))
