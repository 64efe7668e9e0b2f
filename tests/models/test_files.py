"""Models in safetensors files that know what they are."""

import itertools
import json
import os
import re
import stat

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxcompress import models
from jaxcompress.models.registry import describe
from jaxcompress.nn import ConvNorm, Dense, Norm, init_variables
from jaxcompress.nn.replay import replay
from jaxcompress.nn.tracing import trace_endpoints

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


def test_a_network_of_grey_images_comes_back_and_arrays_that_do_not_fit_it_are_named(tmp_path):
  model, path = models.resnet8(3), tmp_path / "grey.safetensors"
  variables = init_variables(model, jax.random.key(1), (28, 28, 1))
  _, same = models.load(models.save(path, model, variables))
  jax.tree.map(np.testing.assert_array_equal, same, variables)
  del variables["params"]["classifier"]["bias"]
  with pytest.raises(ValueError, match=r"fit: params/classifier/bias is missing\.$"):
    models.save(path, model, variables)


def test_metadata_comes_back_and_must_be_json(file, tmp_path):
  assert models.read_header(file) == {}
  model, variables = models.load(file)
  facts = {"classes": ["a", "b", "ç"], "image_shape": [32, 32, 3]}
  path = models.save(tmp_path / "model.safetensors", model, variables, metadata=facts)
  assert models.read_header(path) == facts
  jax.tree.map(np.testing.assert_array_equal, models.load(path)[1], variables)
  for metadata in ({"a": object()}, {"a": float("nan")}):
    with pytest.raises(ValueError, match="metadata: it is no JSON"):
      models.save(path, model, variables, metadata=metadata)
  assert models.read_header(path) == facts


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_can_be_described_and_built_again(name):
  model = models.create(name, 12)
  description = describe(model)
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
  with pytest.raises(ValueError, match=r"model: ConvNorm is not a model of jaxcompress\.models"):
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


POOL = ["pool", "GlobalAvgPool", {"keepdims": False}, ["input"]]


def hostile(layers, **changed):
  options = {"layers": layers, "ends": [layers[-1][0]], "image_size": 8, "origin": ""}
  return {"format": 1, "model": "replayed", "num_classes": 3, "options": {**options, **changed}}


def head(**changed):
  fields = {"features": 3, "use_bias": True}
  return ["head", "Dense", {**fields, **changed.pop("fields", {})}, changed.pop("reads", ["pool"])]


def activations(count):
  names = ["input", *(f"a{i}" for i in range(count))]
  return [[b, "Activation", {"act": "relu"}, [a]] for a, b in itertools.pairwise(names)]


RESNET8 = {"format": 1, "model": "resnet8", "num_classes": 3, "options": {}}
HEADERS = {
  "nested more than 64 deep": "[" * 10_000,
  "nested more than 64 deep.": '{"model": ' * 400 + "1" + "}" * 400,
  "number NaN": json.dumps({**RESNET8, "num_classes": float("nan")}),
  "number Infinity": json.dumps({**RESNET8, "metadata": {"scale": float("inf")}}),
  "number 1e999": '{"model": "mobilenet_v2", "num_classes": 3, "options": {"width": 1e999}}',
  "is no object": "[1]",
  "format 2 and this version reads 1 to 1; update jaxcompress": {**RESNET8, "format": 2},
  "format 'x'; formats are counted": {**RESNET8, "format": "x"},
  "has 6000002 layers; at most 4096": {**RESNET8, "model": "resnet_cifar", "options": {"depth": 6_000_002}},
  "has 9002 layers; at most 4096": hostile([*activations(9000), POOL, head()]),
  "'head' reads 'head', which no layer before makes": hostile([POOL, head(reads=["head"])]),
  "'a0' reads 'pool', which no layer before": hostile([["a0", "Activation", {}, ["pool"]], POOL, head()]),
  "'pool' is there twice": hostile([POOL, POOL, head()]),
  "num_classes: 3 is not the -3": hostile([POOL, head(fields={"features": -3})]),
  "num_classes: 3 is not the 1048576": hostile([POOL, head(fields={"features": 2**20})]),
  "image_size: 0 must be at least 1": hostile([POOL, head()], image_size=0),
  "image_size: (8, 0, 3) must be at least 1, or a shape": hostile([POOL, head()], image_size=[8, 0, 3]),
  "image_size: (8, 8) must be at least 1, or a shape": hostile([POOL, head()], image_size=[8, 8]),
  "image_size: -8 must be at least 1": hostile([POOL, head()], image_size=-8),
  "'head' has no field 'kernel'": hostile([POOL, head(fields={"kernel": 3})]),
  "'end' is no tensor": hostile([POOL, head()], ends=["end"]),
  "cannot be built": hostile([POOL, ["head" + "/x" * 900, *head()[1:]]]),
  "do not fit": hostile([["c", "ConvNorm", {"features": 2**30, "kernel": 2**20}, ["input"]], POOL, head()]),
}  # fmt: skip


@pytest.mark.parametrize("reason", HEADERS)
def test_headers_of_no_network_are_refused_in_one_line_that_says_which(reason, tmp_path):
  header, path = HEADERS[reason], tmp_path / "hostile.safetensors"
  text = header if isinstance(header, str) else json.dumps(header)
  save_file({"params/a": np.zeros(2, np.float32)}, path, {"jaxcompress": text})
  with pytest.raises(ValueError, match=re.escape(reason.rstrip("."))) as error:
    models.load(path)
  assert "\n" not in str(error.value) and str(path) in str(error.value)
  assert len(str(error.value)) < 1200
  try:
    assert isinstance(models.read_header(path), dict)
  except ValueError as error:
    assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_has_the_mode_that_the_user_asks_for(mask, mode, tmp_path):
  model = models.resnet8(2)
  before = os.umask(mask)
  try:
    path = models.save(tmp_path / "a.safetensors", model, fresh(model))
  finally:
    os.umask(before)
  assert stat.S_IMODE(path.stat().st_mode) == mode
  assert os.listdir(tmp_path) == ["a.safetensors"]


class Flat(linen.Module):
  """A network whose weights depend on the shape of its images."""

  @linen.compact
  def __call__(self, x, *, train):
    x = ConvNorm(4, kernel=3, stride=2, name="conv")(x, train=train)
    return Dense(3, name="head")(x)


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (6, 10, 3)])
def test_networks_as_data_remember_the_shape_of_their_images(shape, tmp_path):
  variables = init_variables(Flat(), jax.random.key(0), shape)
  image = jnp.ones((1, *shape))
  model = replay(*trace_endpoints(Flat(), variables, image))
  assert model.image_size == (8 if shape == (8, 8, 3) else shape)
  loaded, same = models.load(models.save(tmp_path / "flat.safetensors", model, variables))
  assert loaded == model
  logits = [m.apply(v, image, train=False).logits for m, v in ((loaded, same), (model, variables))]
  np.testing.assert_array_equal(*logits)
