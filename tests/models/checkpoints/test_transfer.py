"""State dicts that do not fit, other numbers of classes, and the way back's errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import models
from jaxcompress.nn import init_variables
from tests.golden.parity import weights as parity

SOURCE = "crd/resnet8"


@pytest.fixture
def weights():
  return dict(parity.state_dict(SOURCE))


def test_one_message_lists_all_kinds_of_arrays_that_do_not_fit(weights):
  del weights["bn1.weight"], weights["layer2.0.conv1.weight"]
  weights["conv1.weight"] = weights["conv1.weight"][:3]
  weights["layer9.weight"] = np.zeros(2)
  weights["bn1.bias"] = np.zeros(16, np.int64)
  with pytest.raises(ValueError, match="weights: they are not those of crd/resnet8") as caught:
    models.from_torch(SOURCE, weights)
  message = str(caught.value)
  for part in (
    "missing: bn1.weight, layer2.0.conv1.weight",
    "unknown: layer9.weight",
    "of wrong shape: conv1.weight (3, 3, 3, 3) for (16, 3, 3, 3)",
    "not of floats: bn1.bias",
  ):
    assert part in message


def test_a_checkpoint_of_another_network_is_refused(weights):
  with pytest.raises(ValueError, match=r"missing: .*layer1\.1\.conv1\.weight"):
    models.from_torch("crd/resnet14", weights)
  with pytest.raises(
    ValueError, match=r"sources_of\(weights\).*unknown: .* and \d+ more"
  ) as caught:
    models.from_torch(SOURCE, parity.state_dict("crd/resnet14"))
  assert len(str(caught.value)) < 500


@pytest.mark.parametrize("start", ["module.", "model.", "ema.student."])
def test_names_that_begin_otherwise_say_so(weights, start):
  """As of torch's averaged models, which have a counter besides, and of Lightning's."""
  renamed = {"n_averaged": np.int64(3), **{start + name: x for name, x in weights.items()}}
  with pytest.raises(ValueError, match=f"crd/resnet8; all are there behind '{start}', so give"):
    models.from_torch(SOURCE, renamed)
  with pytest.raises(ValueError, match=r"crd/resnet8 \(.*\); unknown: other"):
    models.from_torch(SOURCE, {**weights, "other": np.zeros(2)})


@pytest.mark.parametrize("source", ["timm/repvgg_a0", "timm/mobileone_s0"])
def test_branches_that_are_folded_say_so(source):
  folded = {"stem.reparam_conv.weight": np.zeros((48, 3, 3, 3), np.float32)}
  with pytest.raises(
    ValueError, match=r"; its branches are folded .* checkpoint before that; miss"
  ):
    models.from_torch(source, folded)


def test_counters_of_batches_may_be_missing(weights):
  for key in [key for key in weights if key.endswith("num_batches_tracked")]:
    del weights[key]
  _, variables = models.from_torch(SOURCE, weights)
  np.testing.assert_array_equal(
    variables["params"]["stem"]["kernel"], weights["conv1.weight"].transpose(2, 3, 1, 0)
  )


def test_a_fine_tuned_classifier_is_kept(weights):
  weights["fc.weight"], weights["fc.bias"] = weights["fc.weight"][:7], weights["fc.bias"][:7]
  model, variables = models.from_torch(SOURCE, weights)
  assert model.num_classes == 7
  kept, same = models.from_torch(SOURCE, weights, num_classes=7)
  assert kept == model
  jax.tree.map(np.testing.assert_array_equal, same, variables)
  np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], weights["fc.weight"].T)


@pytest.mark.slow
def test_another_number_of_classes_starts_the_classifier_anew(weights):
  model, variables = models.from_torch(SOURCE, weights, num_classes=10)
  _, other = models.from_torch(SOURCE, weights, num_classes=10, rng=jax.random.key(1))
  fresh, again = (v["params"]["classifier"] for v in (variables, other))
  assert model.num_classes == 10 and fresh["kernel"].shape == (64, 10)
  assert not np.asarray(fresh["bias"]).any()
  assert 0.05 < np.std(fresh["kernel"]) < 0.25  # 1 / sqrt(64) = 0.125
  assert not np.array_equal(fresh["kernel"], again["kernel"])
  np.testing.assert_array_equal(variables["params"]["stem"]["scale"], weights["bn1.weight"])
  assert model.apply(variables, jnp.zeros((1, 32, 32, 3)), train=False).logits.shape == (1, 10)


def test_half_precision_and_torch_like_tensors_are_read(weights):
  class Tensor:
    """The methods of a torch tensor."""

    def __init__(self, array):
      self.array, self.dtype = array, f"torch.{array.dtype}"

    def detach(self):
      return self

    def cpu(self):
      return self

    def numpy(self):
      return self.array

  _, halves = models.from_torch(
    SOURCE, {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in weights.items()}
  )
  _, wrapped = models.from_torch(SOURCE, {k: Tensor(v) for k, v in weights.items()})
  _, plain = models.from_torch(SOURCE, weights)
  jax.tree.map(np.testing.assert_array_equal, wrapped, plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), halves, plain)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda w: models.from_torch("torchvison/resnet18", w),
      "did you mean torchvision/resnet18[?] It",
    ),
    (lambda w: models.from_torch("timm/resnet19", w), "must be one of timm/mobilenetv1_100"),
    (
      lambda w: models.from_torch(SOURCE, w, num_classes=0),
      "num_classes: 0 must be a whole number",
    ),
    (lambda w: models.from_torch(SOURCE, w, num_classes="7"), "num_classes: '7' must be a whole"),
    (lambda w: models.from_torch(SOURCE, w, num_classes=7.0), "num_classes: 7.0 must be a whole"),
    (lambda w: models.from_torch(SOURCE, 3), "weights: int is neither a mapping nor a path"),
    (lambda w: models.from_torch(SOURCE, "no/such/file.pth"), "weights: "),
    (lambda w: models.to_torch(SOURCE, {}), "params/stem/kernel is missing"),
  ],
)
def test_mistakes_name_the_argument_and_the_way_out(weights, call, message):
  with pytest.raises(ValueError, match=message):
    call(weights)


def test_variables_of_another_network_have_no_way_back():
  variables = init_variables(models.resnet14(), jax.random.key(0), (32, 32, 3))
  with pytest.raises(ValueError, match=r"not those of crd/resnet8: .* is unknown"):
    models.to_torch(SOURCE, variables)
  variables = init_variables(models.resnet8x4(), jax.random.key(0), (32, 32, 3))
  with pytest.raises(ValueError, match=r"params/stem/kernel has shape \(3, 3, 3, 32\)"):
    models.to_torch(SOURCE, variables)


CHANGES = {  # the state dict's entries that take the place of one
  "drop": lambda key, array: {},
  "rename": lambda key, array: {f"{key}x": array},
  "flatten": lambda key, array: {key: array.reshape(-1)},
  "grow": lambda key, array: {key: np.repeat(array.reshape(-1), 2)},
  "text": lambda key, array: {key: "weights"},
  "none": lambda key, array: {key: None},
  "nest": lambda key, array: {key: {"weight": array}},
  "list": lambda key, array: {key: array.tolist()},
}


def is_harmless(key, array, change):
  """Counters are not read, and a vector is flat already."""
  if key.endswith("num_batches_tracked"):
    return change in ("drop", "flatten", "grow", "list")
  return change == "flatten" and array.ndim == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_broken_state_dict_is_refused_and_a_harmless_one_is_read(data):
  weights = dict(parity.state_dict(SOURCE))
  keys = st.lists(st.sampled_from(sorted(weights)), min_size=1, max_size=4, unique=True)
  harmless = True
  for key in data.draw(keys):
    array, change = weights.pop(key), data.draw(st.sampled_from(sorted(CHANGES)))
    harmless = harmless and is_harmless(key, array, change)
    weights |= CHANGES[change](key, array)
  if harmless:
    assert models.from_torch(SOURCE, weights)[0] == models.resnet8()
  else:
    with pytest.raises(ValueError, match=r"^weights: "):
      models.from_torch(SOURCE, weights)
