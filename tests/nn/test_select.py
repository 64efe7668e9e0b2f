"""The language of layers: kinds as the graph has them, expressions, alternatives, and what is left out."""

import functools
import re

import flax.linen as linen
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcompress import models, nn
from jaxcompress.nn.replay import LEAF_OPS
from jaxcompress.nn.select import WORDS, Layer, exactly, layers_of, listed, select, split

graph_of = functools.cache(lambda name: models.summarize(models.create(name, 10), 32).graph)
fused_of = functools.cache(lambda name: nn.fuse_activations(graph_of(name)))

NAMES = ("stem", "first", "my_first/conv", "my_first_layer", "a/depthwise", "input", "b/last")
LAYERS = {
  name: Layer((name, f"{name}_act"), frozenset(kinds.split()))
  for name, kinds in zip(
    NAMES,
    ("ConvNorm first", "Add", "ConvNorm", "ConvNorm pointwise", "ConvNorm depthwise", "Add", "Dense last"),
    strict=True,
  )
}  # fmt: skip
ALTERNATIVES = (
  "first",
  "last",
  "Add",
  "depthwise",
  "stem",
  "^my",
  "first_",
  "(a|b)/",
  "_act$",
  "z?",
)
alternative = st.sampled_from(ALTERNATIVES)
string = st.lists(alternative, min_size=1, max_size=3).map("|".join)


def by_hand(alternative):
  """Selects the layers of one alternative, from the description of the language."""
  if alternative in WORDS:
    return {name for name, layer in LAYERS.items() if alternative in layer.kinds}
  return {n for n, layer in LAYERS.items() if any(re.search(alternative, p) for p in layer.paths)}


@given(st.lists(alternative, min_size=1, max_size=4))
def test_alternatives_name_what_each_of_them_names(alternatives):
  expected = set().union(*map(by_hand, alternatives))
  assert set(select("|".join(alternatives), LAYERS)) == expected
  assert set(select(tuple(alternatives), LAYERS)) == expected


@given(
  st.lists(string, min_size=1, max_size=3), st.lists(string, min_size=1, max_size=2), st.randoms()
)
def test_what_a_mark_leaves_out_is_left_out_wherever_it_stands(chosen, left, random):
  strings = [*chosen, *(f"!{text}" for text in left)]
  random.shuffle(strings)
  expected = set(select(tuple(chosen), LAYERS)) - set(select(tuple(left), LAYERS))
  if not expected:
    with pytest.raises(ValueError, match="leaves out every layer"):
      select(tuple(strings), LAYERS)
    return
  found = select(tuple(strings), LAYERS)
  assert set(found) == expected
  assert list(found) == [name for name in NAMES if name in expected]


@given(string)
def test_only_what_is_left_out_means_all_others(text):
  named = set(select(text, LAYERS))
  if named != set(LAYERS):
    assert set(select(f"!{text}", LAYERS)) == set(LAYERS) - named


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(st.lists(st.sampled_from(["a", "|", "(", ")", "[", "]", "\\", "^", "b"])).map("".join))
def test_what_is_split_means_what_it_meant(text):
  try:
    whole = re.compile(text)
  except re.error:
    return
  parts = split(text)
  assert "|".join(parts) == text
  for path in ("a", "b", "ab", "a|b", "(a)", "[", "^"):
    assert bool(whole.search(path)) == any(re.search(part, path) for part in parts)


def test_a_kind_does_not_name_paths_that_contain_it():
  assert select("first", LAYERS) == ("stem",)
  assert select("first|last", LAYERS) == ("stem", "b/last")
  assert select("my_first", LAYERS) == ("my_first/conv", "my_first_layer")
  assert select("(^|/)first$", LAYERS) == ("first",)
  assert select("^first$", LAYERS) == ("first",)
  assert select("stem_act", LAYERS) == ("stem",)  # what is fused into it


@given(st.sets(st.sampled_from(NAMES), min_size=1))
def test_layers_are_named_exactly(names):
  assert set(select(exactly(names), LAYERS)) == names


@pytest.mark.parametrize(
  ("selector", "message"),
  [
    ("steam", r"rules: 'steam' matches no layer; the paths are stem, .*; the kinds "),
    (("stem", "!nowhere"), "rules: '!nowhere' matches no layer; the paths are "),
    ("squeeze_excite", "rules: 'squeeze_excite' matches no layer; .* the kinds .*depthwise"),
    (("stem", "!stem"), r"rules: \('stem', '!stem'\) leaves out every layer"),
    ("!.", "rules: '!.' leaves out every layer"),
    ("", "rules: '' has an empty alternative.*'.' selects all layers"),
    ("!first|", "rules: '!first|' has an empty alternative"),
    ("first|lsat", r"rules: 'lsat' of 'first\|lsat' matches no layer; the paths are .*last"),
    ("first |last", r"rules: 'first ' of 'first \|last' matches no layer"),
    ("stem|squeeze_excite", r"rules: 'squeeze_excite' of 'stem\|squeeze_excite' matches no layer"),
    ("(?i)STEM|nowhere", r"rules: 'nowhere' of '\(\?i\)STEM\|nowhere' matches no layer"),
    ("stem|!first", "rules: 'stem|!first' has '!' inside"),
    ("(", r"rules: '\(' is no regular expression"),
    (3, "rules: 3 is no regular expression or kind of layer, nor a tuple"),
    ((), r"rules: \(\) is no regular expression"),
    (["stem"], r"rules: \['stem'\] is no regular expression"),
  ],
)  # fmt: skip
def test_mistakes_say_what_there_is(selector, message):
  with pytest.raises(ValueError, match=message):
    select(selector, LAYERS, "rules")


def test_alternatives_keep_the_flags_and_groups_of_the_whole():
  assert select("(?i)STEM|MY_FIRST", LAYERS) == ("stem", "my_first/conv", "my_first_layer")
  assert select(r"last|(b)(/)|(s)t\3|e", LAYERS) == select("last|e|b/", LAYERS)
  assert select(r"(a)/|(i)n|(m)y_f(i)r\4?s", LAYERS)


def test_of_hundreds_of_layers_the_nearest_are_listed():
  text = listed("stage3_block7/expnad", layers_of(graph_of("mobilenet_v2")))
  paths = text.split("; ")[0]
  assert paths.startswith("the paths are stage3_block") and paths.endswith(" more")
  assert "expand" in paths.split(", ")[0] and len(paths) < 500


def independent(name, graph):
  """Kinds by what is known of the architectures: their layers' names, in their order."""
  weighted = [n for n in graph.nodes if n.op in ("ConvNorm", "Dense")]
  grouped = {
    n.name for n in weighted if n.op == "ConvNorm" and n.attrs["groups"] not in (1, "depthwise")
  }
  depthwise = {n.name for n in weighted if n.attrs.get("groups") == "depthwise"}
  small = {n.name for n in weighted if nn.kernel_shape(n)[:2] == (1, 1)}
  return {
    "input": {"input"},
    "first": {n.name for n in weighted if "input" in n.inputs},
    "last": {n.name for n in weighted if n.name.startswith("classifier")} or {weighted[-1].name},
    "depthwise": depthwise,
    "grouped": grouped,
    "pointwise": small - depthwise,
    "dense": {n.name for n in weighted if n.op == "Dense"},
    "squeeze_excite": {n.name for n in graph.nodes if re.search("/se/(pool|reduce|expand)", n.name)},
    **{op: {n.name for n in graph.nodes if n.op == op} for op in LEAF_OPS},
  }  # fmt: skip


ONE_OF_EACH = {type(models.create(name)): name for name in models.MODELS}.values()


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("made", [graph_of, fused_of], ids=["traced", "fused"])
def test_kinds_of_every_architecture(name, made):
  graph = made(name)
  layers = layers_of(graph)
  assert set(layers) == {"input"} | {node.name for node in graph.nodes}
  for word, expected in independent(name, graph).items():
    assert {layer for layer in layers if word in layers[layer].kinds} == expected, word


class Narrow(linen.Module):
  """Narrow tensors, convolutions in groups, and ends that no name or number of channels tells."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(24, kernel=3, name="body")(x, train=train)
    x = nn.ConvNorm(24, kernel=3, groups=6, name="grouped")(x, train=train)
    x = nn.ConvNorm(3, name="classifier")(x, train=train)
    x = nn.ConvNorm(40, kernel=5, stride=2, name="first")(x, train=train)
    x = nn.ConvNorm(40, kernel=3, groups=40, name="by_number")(x, train=train)
    return nn.Dense(7, name="head")(nn.GlobalAvgPool(name="pool")(x))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 24])
def test_an_own_network_has_its_ends_from_the_graph(channels):
  graph = models.summarize(Narrow(), 8, channels).graph
  assert select("first|last", graph) == ("body", "head")
  assert select("grouped", graph) == ("grouped",)
  assert select("depthwise", graph) == ("by_number",)
  assert select("pointwise", graph) == ("classifier",)
  assert select("^first$", graph) == ("first",)


class Branches(linen.Module):
  """Two layers read the image, of which one is scaled down, and two make the logits."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.BatchNorm(name="norm")(x, train=train)
    small = nn.AvgPool(2, 2, name="small")(x)
    a = nn.ConvNorm(8, stride=2, name="a")(x, train=train)
    b = nn.ConvNorm(8, name="b")(small, train=train)
    y = nn.ConvNorm(8, name="both")(nn.Concat(name="joined")(a, b, small), train=train)
    y = nn.GlobalAvgPool(name="pool")(y)
    return nn.Add(name="logits")(nn.Dense(3, name="one")(y), nn.Dense(3, name="two")(y))


def test_layers_between_which_and_the_image_or_the_logits_is_no_kernel_are_first_and_last():
  graph = models.summarize(Branches(), 8, 5).graph
  assert select("first", graph) == ("a", "b")
  assert select("last", graph) == ("one", "two")


class Gates(linen.Module):
  """A gate of a map's own averages, one of another map's, and one of the map itself."""

  @linen.compact
  def __call__(self, x, *, train):
    x = nn.ConvNorm(8, name="stem")(x, train=train)
    y = nn.GlobalAvgPool(keepdims=True, name="mean")(x)
    y = nn.ConvNorm(2, act="relu", norm=None, name="less")(y, train=train)
    y = nn.ConvNorm(8, norm=None, name="more")(y, train=train)
    y = nn.Multiply(name="attended")(x, nn.Activation("hard_sigmoid", name="gate")(y))
    other = nn.GlobalAvgPool(keepdims=True, name="other")(x)
    y = nn.Multiply(name="foreign")(y, other)
    y = nn.Multiply(name="swish")(y, nn.Activation("hard_sigmoid", name="own")(y))
    return nn.Dense(3, name="head")(nn.GlobalAvgPool(name="pool")(y))


def test_squeeze_excite_is_found_by_its_form():
  graph = models.summarize(Gates(), 8).graph
  assert select("squeeze_excite", graph) == ("mean", "less", "more", "gate")
