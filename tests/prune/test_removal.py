"""Removing channels: the smaller network computes what the masked one does."""

import sys

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress import models, nn, prune
from jaxcompress.models.blocks import SqueezeExcite
from jaxcompress.nn.tracing import trace_endpoints, trace_init
from jaxcompress.prune.choose import fewest_channels, least_share
from jaxcompress.prune.removal import plan_removal
from jaxcompress.prune.routes import is_birth
from tests.prune import reference

NARROW = {  # as narrow as leaves every layer more than eight channels to choose from
  "mobilenet_v1": {"width": 0.5},
  "mlperf_mobilenet_v1": {"width": 0.5},
  "mobilenet_v2": {"width": 0.5},
  "mobilenet_v3_large": {"width": 0.5},
  "mobilenet_v3_small": {"width": 0.5},
  "mobilenet_v4_conv_small": {"width": 0.25},
  "mobilenet_v4_conv_medium": {"width": 0.25},
  "mobilenet_v4_conv_large": {"width": 0.25},
  "mobilenet_v4_hybrid_medium": {"width": 0.25},
  "shufflenet_v1": {"width": 0.5},
  "shufflenet_v2": {"width": 0.5},
  "ghostnet": {"width": 0.5},
  "ghostnet_v2": {"width": 0.5},
  "mnasnet": {"width": 0.5},
}
SIDES = {"resnet": 8, "wrn": 8, "fasternet": 32, "edgenext": 32}  # of images, by what begins a name
STAY = {"edgenext_xx_small": 0.62}  # share of multiply-adds where LayerNorm reads most channels
FIRST = {type(models.create(name)): name for name in reversed(models.MODELS)}
NETWORKS = [  # of several depths and sizes the first, and those that have other layers
  *("mobilenet_v4_conv_medium", "resnet50", "shufflenet_v1_crd", "efficientnet_b0", "ghostnet_v2"),
  *("mlperf_mobilenet_v1", "mobilenet_v2_crd", "shufflenet_v2_crd"),
  *reversed(FIRST.values()),
]


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
  """Networks that have no width with fewer channels; nothing here depends on them."""
  for family in ("resnet", "repvgg", "mobileone"):
    monkeypatch.setattr(sys.modules[f"jaxcompress.models.{family}"], "WIDTHS", (16, 24, 32, 48))
  monkeypatch.setattr(sys.modules["jaxcompress.models.vgg"], "FEATURES", (16, 24, 32, 48, 48))


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
  """A model is traced once in a test, which takes most of its time."""
  traces = {}

  def trace(model, variables, x):
    key = (model, x.shape, str(jax.tree.map(np.shape, variables)))
    if key not in traces:
      traces[key] = trace_endpoints(model, variables, x)
    return traces[key]

  monkeypatch.setattr(sys.modules["jaxcompress.prune.removal"], "trace_endpoints", trace)


def random_variables(model, size, seed=0):
  """Of every array something else than at the start, and activations that neither grow nor die."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name, noise = path[-1].key, rng.normal(size=leaf.shape)
    if name == "kernel":
      values = noise * (3.0 / np.prod(leaf.shape[:-1])) ** 0.5
    else:
      values = {"scale": 1.0, "var": 1.0}.get(name, 0.0) + 0.2 * noise
    return (np.abs(values) if name == "var" else values).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, models.summarize(model, size).variables)


def importance_of(model, variables, size, **options):
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return prune.channel_importance(model, variables, images, **options)


def check(model, variables, keep, graph):
  """The smaller model, after comparing it with the masked one in float64."""
  smaller, few = prune.remove_channels(model, variables, keep)
  small_graph, shapes = trace_init(smaller, jax.ShapeDtypeStruct(graph.input_shape, jnp.float32))
  assert jax.tree.map(np.shape, few) == jax.tree.map(np.shape, shapes)
  assert {node.name for node in graph.nodes} >= {node.name for node in small_graph.nodes}
  x = np.random.default_rng(1).normal(size=(2, *graph.input_shape[1:]))
  masked = reference.logits(graph, reference.mask_channels(graph, variables, keep), x)
  found = reference.logits(small_graph, few, x)
  np.testing.assert_allclose(found, masked, rtol=0, atol=1e-10 * np.abs(masked).max())
  planned = plan_removal(graph, keep.masks).graph
  assert nn.count_macs(small_graph) == nn.count_macs(planned)
  return smaller, few, small_graph, masked


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_network_computes_what_the_masked_one_does(name):
  size = next((side for start, side in SIDES.items() if name.startswith(start)), 16)
  model = models.create(name, 5, **NARROW.get(name, {}))
  variables = random_variables(model, size)
  found = importance_of(model, variables, size)
  keep = prune.choose_channels(found, 0.5, scope="layer")
  *_, small, logits = check(model, variables, keep, found.graph)
  assert np.ptp(logits, axis=0).max() > 1e-5 * np.abs(logits).max()  # images are told apart
  assert nn.count_macs(small) < STAY.get(name, 0.55) * nn.count_macs(found.graph)
  for node in small.nodes:
    if is_birth(node) and node.name != small.output and not name.startswith("shufflenet"):
      assert node.output_shapes[0][-1] % 8 == 0 or keep.masks[node.name].all()


class Everything(linen.Module):
  """Every leaf op where channels part, meet and move, with a linear layer on a map."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(12, kernel=3, stride=2, act="relu", name="stem")(x, train=train)
    left, right = nn.Split((5, 7), name="split")(x)
    right = nn.ConvNorm(14, kernel=3, groups="depthwise", act="relu", name="twice")(
      right, train=train
    )
    left = nn.ConvNorm(6, norm=None, act="hard_sigmoid", name="left")(left, train=train)
    joined = nn.Concat(name="concat")(left, right, left)  # what is joined twice goes together
    y = nn.ConvNorm(26, use_bias=True, act="hard_swish", name="same")(joined, train=train)
    y = SqueezeExcite(5, name="se")(nn.Add(name="add")(y, joined), train=train)
    y = nn.ConvNorm(16, act="relu", name="narrowed")(y, train=train)
    y = nn.ConvNorm(18, groups=2, act="relu6", name="grouped")(y, train=train)
    y = nn.ChannelShuffle(3, name="shuffle")(y)
    y = nn.ConvNorm(12, kernel=3, groups=3, name="regrouped")(y, train=train)
    y = nn.BatchNorm(act="relu", name="norm")(y, train=train)
    maps = (x, y)
    y = nn.MaxPool(2, 2, "SYMMETRIC", name="pool")(y)
    hidden = nn.Dense(9, name="hidden")(y)
    return nn.Endpoints(nn.Dense(4, name="classifier")(hidden), hidden, maps, maps)


EVERYTHING = Everything()


@pytest.fixture(scope="module")
def scored():
  variables = random_variables(EVERYTHING, 8)
  return variables, importance_of(EVERYTHING, variables, 8)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
  fraction=st.floats(0.05, 1.0),
  divisor=st.sampled_from([1, 2, 4, 8]),
  scope=st.sampled_from(["global", "layer"]),
)
def test_whatever_is_chosen_can_be_removed(scored, fraction, divisor, scope):
  variables, found = scored
  fraction = max(fraction, least_share(found, divisor=divisor))
  keep = prune.choose_channels(found, fraction, scope=scope, divisor=divisor)
  check(EVERYTHING, variables, keep, found.graph)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
  fraction=st.floats(0.01, 0.99),
  divisor=st.sampled_from([1, 2, 4, 8, 16]),
  scope=st.sampled_from(["global", "layer"]),
)
def test_a_share_that_the_network_cannot_come_down_to_is_told(scored, fraction, divisor, scope):
  _, found = scored
  free = np.isfinite(found.scores)
  least = least_share(found, divisor=divisor)
  few = fewest_channels(found, divisor=divisor)
  if fraction < least:
    with pytest.warns(UserWarning, match=r"fraction: .* cannot be reached: with divisor"):
      keep = prune.choose_channels(found, fraction, scope=scope, divisor=divisor)
  else:
    keep = prune.choose_channels(found, fraction, scope=scope, divisor=divisor)
  for name, mask in keep.masks.items():
    assert mask.sum() >= few.masks[name].sum()
  assert 0 < least <= 1 and free.any()


def test_the_share_that_a_warning_names_can_be_had():
  found = importance_of(models.resnet8(5), random_variables(models.resnet8(5), 8), 8)
  with pytest.warns(UserWarning, match="keeps at least 0") as told:
    prune.choose_channels(found, 0.1)
  said = float(str(told[0].message).split("at least ")[1].split()[0])
  keep = prune.choose_channels(found, said)
  assert sum(mask.sum() for mask in keep.masks.values()) < 0.6 * sum(
    mask.size for mask in keep.masks.values()
  )


def test_a_network_whose_layers_have_no_more_than_the_divisor_is_not_said_to_shrink():
  found = importance_of(models.resnet8(5), random_variables(models.resnet8(5), 8), 8)
  for fraction in (0.1, 0.5, 0.95):
    with pytest.warns(UserWarning, match="no channel of this network can be removed"):
      keep = prune.choose_channels(found, fraction, divisor=64)
    assert all(mask.all() for mask in keep.masks.values())
  assert all(mask.all() for mask in prune.choose_channels(found, 1.0, divisor=64).masks.values())


def test_keeping_all_changes_nothing(scored):
  variables, found = scored
  keep = prune.choose_channels(found, 1.0)
  smaller, few = prune.remove_channels(EVERYTHING, variables, keep)
  assert few["params"].keys() == variables["params"].keys()
  jax.tree.map(np.testing.assert_array_equal, few, variables)
  again, same = prune.remove_channels(smaller, few, keep)
  assert again == smaller
  jax.tree.map(np.testing.assert_array_equal, same, few)


@pytest.mark.slow
def test_modules_give_the_logits_maps_and_statistics_of_the_masked_one(scored):
  variables, found = scored
  keep = prune.choose_channels(found, 0.6, divisor=2)
  smaller, few = prune.remove_channels(EVERYTHING, variables, keep)
  masked = reference.mask_channels(found.graph, variables, keep)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)

  @jax.jit
  def both(masked, few):
    options = {"train": True, "mutable": ["batch_stats"]}
    return EVERYTHING.apply(masked, x, **options), smaller.apply(few, x, **options)

  (large, stats), (small, new_stats) = both(masked, few)
  np.testing.assert_allclose(small.logits, large.logits, atol=1e-5)
  sources = plan_removal(found.graph, keep.masks).sources
  for name, ours, theirs in zip(("stem", "norm"), small.maps, large.maps, strict=True):
    np.testing.assert_allclose(ours, np.asarray(theirs)[..., sources[name]], atol=1e-5)
  kept = keep.masks["stem"]
  np.testing.assert_allclose(
    new_stats["batch_stats"]["stem"]["mean"],
    np.asarray(stats["batch_stats"]["stem"]["mean"])[kept],
    atol=1e-6,
  )


def test_masks_that_do_not_fit_are_refused():
  model = models.resnet8(5)
  variables = random_variables(model, 8)
  remove = lambda masks: prune.remove_channels(  # noqa: E731
    model, variables, prune.Keep(masks, (8, 8, 3))
  )
  half = np.arange(16) < 8
  with pytest.raises(ValueError, match=r"'stem2' makes no channels; the layers are stem, "):
    remove({"stem2": half})
  with pytest.raises(ValueError, match=r"mask of 'stem' is bool \(8,\); it must be bool \(16,\)"):
    remove({"stem": half[:8]})
  with pytest.raises(ValueError, match="stem, stage0_block0/conv2 differ on channels that belong"):
    remove({"stem": half, "stage0_block0/conv2": ~half})
  with pytest.raises(ValueError, match="'classifier' removes channels of the image or logits"):
    remove({"classifier": np.arange(5) < 4})
  with pytest.raises(ValueError, match="'stem', a ConvNorm, cannot have 3 input and 0 output"):
    remove({"stem": np.zeros(16, bool)})
  smaller, _ = remove({"stem": half})  # what is added to it goes along
  layers = {layer.name: layer for layer in smaller.layers}
  assert layers["stage0_block0/conv2"].fields["features"] == 8


def test_groups_of_different_sizes_are_refused(scored):
  variables, _ = scored
  keep = prune.Keep({"grouped": np.arange(18) > 2}, (8, 8, 3))
  with pytest.raises(ValueError, match="keep: "):
    prune.remove_channels(EVERYTHING, variables, keep)
