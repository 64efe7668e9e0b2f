"""Names that PyTorch sources give to the layers of an architecture.

A layer with a convolution and a normalization is written as ``"conv norm"``, one of them alone as
one word; parameters are found under these prefixes. Scales alone have the word itself as their name,
and ``"word#2"`` is number 2 of an array of that name, of which each number is a parameter here. ``"qkv[1/3]"`` is a
layer whose outputs are the second of three equal parts of those there, the first being ``"qkv[0/3]"``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

IN_BLOCK = re.compile(r"stage(\d+)_(?:block|conv)(\d+)(?:/(.+))?")


class Place(NamedTuple):
  """The place of a block in a network.

  Attributes:
    stage: number of its stage, from 0.
    index: its number within the stage, from 0.
    running: its number within the network, from 0.
    children: names of its modules that have parameters, in order.
  """

  stage: int
  index: int  # type: ignore[assignment]  # tuple.index is not needed
  running: int
  children: tuple[str, ...]

  def at(self, child: str) -> int:
    """Position of a child, counting only those that this block has."""
    return self.children.index(child)


class Names(NamedTuple):
  """Names of one source's layers.

  Attributes:
    outer: of the layers outside blocks.
    block: prefix of a block.
    inner: of the layers inside a block, after its prefix; ``""`` where the block is one layer.
    linear: names, without their blocks', of our pointwise convolutions that are linear layers there.
  """

  outer: Mapping[str, str]
  block: Callable[[Place], str]
  inner: Callable[[Place], Mapping[str, str]]
  linear: frozenset[str] = frozenset()


def torch_names(names: Names, layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """Prefixes of every layer.

  Args:
    names: of the source.
    layers: paths of our layers that have parameters, in the order in which they run.

  Returns:
    One or two prefixes by path.

  Examples:
    >>> torch_names(RESNET, ("stem", "stage0_block0/conv1"))
    {'stem': ('conv1', 'bn1'), 'stage0_block0/conv1': ('layer1.0.conv1', 'layer1.0.bn1')}
  """
  children: dict[tuple[int, int], list[str]] = {}
  for layer in layers:
    if match := IN_BLOCK.fullmatch(layer):
      child = (match[3] or "").split("/")[0]
      seen = children.setdefault((int(match[1]), int(match[2])), [])
      if child not in seen:
        seen.append(child)
  blocks = {
    place: Place(*place, running, tuple(seen))
    for running, (place, seen) in enumerate(sorted(children.items()))
  }
  found = {}
  for layer in layers:
    match = IN_BLOCK.fullmatch(layer)
    if match is None:
      found[layer] = tuple(names.outer[layer].split())
    else:
      block = blocks[int(match[1]), int(match[2])]
      words = names.inner(block)[match[3] or ""].split()
      found[layer] = tuple(f"{names.block(block)}.{word}" for word in words)
  return found


def _following(prefix: str, **places: int) -> dict[str, str]:
  """Convolutions at these places of a sequence, each before its normalization."""
  return {child: f"{prefix}.{i} {prefix}.{i + 1}" for child, i in places.items()}


def _numbered(**numbers: int) -> dict[str, str]:
  """Convolutions with these numbers, and their normalizations with the same."""
  return {child: f"conv{i} bn{i}" for child, i in numbers.items()}


# torchvision


def _mobilenet_v2(b: Place) -> dict[str, str]:
  depthwise, project = b.at("depthwise"), b.at("project")
  return {
    "expand": "conv.0.0 conv.0.1",
    "depthwise": f"conv.{depthwise}.0 conv.{depthwise}.1",
    **_following("conv", project=project),
  }


TORCHVISION_MOBILENET_V2 = Names(
  {"stem": "features.0.0 features.0.1", "head": "features.18.0 features.18.1"}
  | {"classifier": "classifier.1"},
  lambda b: f"features.{b.running + 1}",
  _mobilenet_v2,
)


def _mobilenet_v3(b: Place) -> dict[str, str]:
  pairs = {child: f"block.{i}.0 block.{i}.1" for i, child in enumerate(b.children)}
  squeeze = f"block.{b.at('se')}" if "se" in b.children else ""
  return pairs | {"se/reduce": f"{squeeze}.fc1", "se/expand": f"{squeeze}.fc2"}


def torchvision_mobilenet_v3(blocks: int) -> Names:
  """MobileNetV3, whose last convolution is numbered after the blocks."""
  return Names(
    {
      "stem": "features.0.0 features.0.1",
      "tail": f"features.{blocks + 1}.0 features.{blocks + 1}.1",
      "head": "classifier.0",
      "classifier": "classifier.3",
    },
    lambda b: f"features.{b.running + 1}",
    _mobilenet_v3,
    linear=frozenset({"head"}),
  )


TORCHVISION_SHUFFLENET_V2 = Names(
  {"stem": "conv1.0 conv1.1", "head": "conv5.0 conv5.1", "classifier": "fc"},
  lambda b: f"stage{b.stage + 2}.{b.index}",
  lambda b: {
    **_following("branch1", left_depthwise=0, left_conv=2),
    **_following("branch2", right_conv1=0, right_depthwise=3, right_conv2=5),
    **_following("branch2", conv1=0, depthwise=3, conv2=5),
  },
)


def _mnasnet(b: Place) -> dict[str, str]:
  """The first block has no sequence of its own."""
  start = f"{b.stage + 7}.{b.index}.layers" if b.stage else ""
  places = range(0, 9, 3) if b.stage else range(3, 9, 3)
  words = {
    child: " ".join(f"{start}.{place + i}".strip(".") for i in (0, 1))
    for child, place in zip(b.children, places, strict=True)
  }
  return words


TORCHVISION_MNASNET = Names(
  {"stem": "layers.0 layers.1", "head": "layers.14 layers.15", "classifier": "classifier.1"},
  lambda b: "layers",
  _mnasnet,
)


def torchvision_squeezenet(*places: int) -> Names:
  """SqueezeNet, whose blocks are at these places of a sequence."""
  layers = ("squeeze", "expand1x1", "expand3x3")
  return Names(
    {"stem": "features.0", "classifier": "classifier.1"},
    lambda b: f"features.{places[b.running]}",
    lambda b: {layer: layer for layer in layers},
  )


def _residual(shortcut: str) -> Callable[[Place], dict[str, str]]:
  convs = _numbered(conv1=1, conv2=2, conv3=3)
  return lambda b: convs | _following(shortcut, shortcut=0)


RESNET = Names(
  {"stem": "conv1 bn1", "classifier": "fc"},
  lambda b: f"layer{b.stage + 1}.{b.index}",
  _residual("downsample"),
)

# timm


def _timm_block(b: Place) -> dict[str, str]:
  """Separable convolutions, inverted residuals and squeeze-excite: norms are counted."""
  convs = {"expand": "conv_pw", "depthwise": "conv_dw", "pointwise": "conv_pw"}
  convs["project"] = "conv_pwl" if "expand" in b.children else "conv_pw"
  counted = [child for child in b.children if child != "se"]
  pairs = {child: f"{convs[child]} bn{i + 1}" for i, child in enumerate(counted)}
  return pairs | TIMM_SQUEEZE


TIMM_SQUEEZE = {"se/reduce": "se.conv_reduce", "se/expand": "se.conv_expand"}
TIMM_STEM = {"stem": "conv_stem bn1", "classifier": "classifier"}


def _timm(inner: Callable[[Place], Mapping[str, str]], **outer: str) -> Names:
  return Names(TIMM_STEM | outer, lambda b: f"blocks.{b.stage}.{b.index}", inner)


TIMM_MOBILENET_V1 = _timm(_timm_block)
TIMM_MOBILENET_V2 = _timm(_timm_block, head="conv_head bn2")


def timm_mobilenet_v3(stages: int) -> Names:
  """MobileNetV3, whose last convolution before the pooling is a stage of its own."""
  tail = f"blocks.{stages}.0.conv blocks.{stages}.0.bn1"
  return _timm(_timm_block, tail=tail, head="conv_head")


def _mobilenet_v4(b: Place) -> dict[str, str]:
  if b.children == ("expand", "project") and b.stage == 0:
    return {"expand": "conv_exp bn1", "project": "conv_pwl bn2"}
  words = {"start": "dw_start", "expand": "pw_exp", "depthwise": "dw_mid", "project": "pw_proj"}
  convs = {child: f"{word}.conv {word}.bn" for child, word in words.items()}
  attention = {child: f"attn.{child}.proj" for child in ("query", "key", "value", "output")}
  halved = {
    f"{child}_down": f"attn.{child}.down_conv attn.{child}.norm" for child in ("key", "value")
  }
  alone = {"": "conv bn1", "norm": "norm", "layer_scale": "layer_scale.gamma"}
  return convs | attention | halved | alone


TIMM_MOBILENET_V4 = _timm(
  _mobilenet_v4, tail="blocks.4.0.conv blocks.4.0.bn1", head="conv_head norm_head"
)
TIMM_GHOSTNET = _timm(
  lambda b: {
    **{
      f"ghost{i}/{ours}": f"ghost{i}.{theirs}.0 ghost{i}.{theirs}.1"
      for i in (1, 2)
      for ours, theirs in (("primary", "primary_conv"), ("cheap", "cheap_operation"))
    },
    "depthwise": "conv_dw bn_dw",
    **TIMM_SQUEEZE,
    **_following("shortcut", shortcut_depthwise=0, shortcut=2),
  },
  tail="blocks.9.0.conv blocks.9.0.bn1",
  head="conv_head",
)


def _branched(place: str, conv: str, pointwise: str) -> dict[str, str]:
  """Branches at a place of a stage; their convolutions and normalizations have the same words."""
  convs = {f"conv{i}": f"{conv}.{i}" if pointwise == "conv_scale" else conv for i in range(4)}
  convs["pointwise"] = pointwise
  found = {ours: f"{place}{word}.conv {place}{word}.bn" for ours, word in convs.items()}
  squeeze = {f"se/{ours}": f"{place}attn.fc{i}" for i, ours in enumerate(("reduce", "expand"), 1)}
  return found | squeeze | {"identity": f"{place}identity"}


def _of_module(name: str, layers: Mapping[str, str]) -> dict[str, str]:
  return {f"{name}/{layer}": words for layer, words in layers.items()}


_REP, _ONE = (
  partial(_branched, conv="conv_kxk", pointwise="conv_1x1"),
  partial(_branched, conv="conv_kxk", pointwise="conv_scale"),
)


def _byob_stem(branches: Mapping[str, str]) -> dict[str, str]:
  there = {name: branches[name] for name in ("conv0", "pointwise")}
  return _of_module("stem", there) | {"classifier": "head.fc"}


TIMM_REPVGG = Names(
  _byob_stem(_REP("stem.")), lambda b: f"stages.{b.stage}.{b.index}", lambda b: _REP("")
)
TIMM_MOBILEONE = Names(
  _byob_stem(_ONE("stem.")),
  lambda b: f"stages.{b.stage}",
  lambda b: (
    _of_module("depthwise", _ONE(f"{2 * b.index}."))
    | _of_module("pointwise", _ONE(f"{2 * b.index + 1}."))
  ),
)

TIMM_GHOSTNET_V2 = TIMM_GHOSTNET._replace(
  inner=lambda b: (
    dict(TIMM_GHOSTNET.inner(b))
    | {
      f"attention/{ours}": f"ghost1.short_conv.{i} ghost1.short_conv.{i + 1}"
      for i, ours in zip((0, 2, 4), ("reduce", "row", "column"), strict=True)
    }
  )
)
TIMM_STARNET = Names(
  {"stem": "stem.0.conv stem.0.bn", "norm": "norm", "classifier": "head"}
  | {f"stage{i}_start": f"stages.{i}.0.conv stages.{i}.0.bn" for i in range(4)},
  lambda b: f"stages.{b.stage}.{b.index + 1}",
  lambda b: {
    "depthwise1": "dwconv.conv dwconv.bn",
    "left": "f1.conv",
    "right": "f2.conv",
    "project": "g.conv g.bn",
    "depthwise2": "dwconv2.conv",
  },
)
TIMM_FASTERNET = Names(
  {"head": "conv_head", "classifier": "classifier"}
  | {"stage0_start": "patch_embed.proj patch_embed.norm"}
  | {
    f"stage{i}_start": f"stages.{i}.downsample.reduction stages.{i}.downsample.norm"
    for i in range(1, 4)
  },
  lambda b: f"stages.{b.stage}.blocks.{b.index}",
  lambda b: {
    "partial": "spatial_mixing.partial_conv3",
    "expand": "mlp.0 mlp.1",
    "project": "mlp.3",
  },
)

TIMM_EDGENEXT = Names(
  {"norm/affine": "head.norm", "classifier": "head.fc"}
  | {"stage0_start": "stem.0", "stage0_norm/affine": "stem.1"}
  | {f"stage{i}_norm/affine": f"stages.{i}.downsample.0" for i in range(1, 4)}
  | {f"stage{i}_start": f"stages.{i}.downsample.1" for i in range(1, 4)},
  lambda b: f"stages.{b.stage}.blocks.{b.index}",
  lambda b: {
    "depthwise": "conv_dw",
    **{f"part{i}": f"convs.{i}" for i in range(3)},
    "positions": "pos_embd.token_projection",
    "attention_norm/affine": "norm_xca",
    "qkv": "xca.qkv",
    **{f"temperature{i}": f"xca.temperature#{i}" for i in range(8)},
    "out": "xca.proj",
    "attention_scale": "gamma_xca",
    "norm/affine": "norm",
    "expand": "mlp.fc1",
    "project": "mlp.fc2",
    "layer_scale": "gamma",
  },
  linear=frozenset({"expand", "project", "qkv", "out"}),
)


def _repvit_mixed(early: bool) -> dict[str, str]:
  """Layers of a block of RepViT."""
  words = {"mixer/conv": "token_mixer.conv.c token_mixer.conv.bn", "mixer/norm": "token_mixer.bn"}
  pointwise = "token_mixer.conv1.c token_mixer.conv1.bn" if early else "token_mixer.conv1"
  words |= {"mixer/pointwise": pointwise, "se/reduce": "se.fc1", "se/expand": "se.fc2"}
  return words | _repvit_pair("channel_mixer.")


def _repvit_pair(place: str) -> dict[str, str]:
  convs = ("expand", "conv1"), ("project", "conv2")
  return {ours: f"{place}{theirs}.c {place}{theirs}.bn" for ours, theirs in convs}


def timm_repvit(early: bool) -> Names:
  """RepViT, of the first release or a later one; stages but the first begin with layers of their own."""
  block = _repvit_mixed(early)
  inside = {layer: words for layer, words in block.items() if not layer.startswith("se/")}
  if early:
    del inside["mixer/norm"]
  start = {
    f"block/{layer}": " ".join(f"pre_block.{word}" for word in words.split())
    for layer, words in inside.items()
  }
  start |= {
    ours: f"{theirs}_downsample.c {theirs}_downsample.bn"
    for ours, theirs in (("depthwise", "spatial"), ("pointwise", "channel"))
  }
  start |= _repvit_pair("ffn.")
  outer = {f"stem{i}": f"stem.conv{i}.c stem.conv{i}.bn" for i in (1, 2)}
  for end, head in (("", "head"), ("_distilled", "head_dist")):
    outer |= {f"norm{end}": f"head.{head}.bn", f"classifier{end}": f"head.{head}.l"}
  for stage in (1, 2, 3):
    outer |= {
      f"stage{stage}_start/{layer}": " ".join(
        f"stages.{stage}.downsample.{word}" for word in words.split()
      )
      for layer, words in start.items()
    }
  return Names(outer, lambda b: f"stages.{b.stage}.blocks.{b.index}", lambda b: block)


_PARTS = ("query", "key", "value")
TIMM_MOBILEVIT = Names(
  {"stem": "stem.conv stem.bn", "head": "final_conv.conv final_conv.bn", "classifier": "head.fc"},
  lambda b: f"stages.{b.stage}.{b.index}",
  lambda b: {
    **{
      ours: f"{theirs}.conv {theirs}.bn"
      for ours, theirs in (
        *(("expand", "conv1_1x1"), ("depthwise", "conv2_kxk"), ("project", "conv3_1x1")),
        *(("local", "conv_kxk"), ("leave", "conv_proj"), ("fusion", "conv_fusion")),
      )
    },
    **{"enter": "conv_1x1", "norm/affine": "norm"},
    **{
      f"transformer{i}/{ours}": f"transformer.{i}.{theirs}"
      for i in range(4)
      for ours, theirs in (
        *(("norm1/affine", "norm1"), ("norm2/affine", "norm2"), ("attention/out", "attn.proj")),
        *((f"attention/{name}", f"attn.qkv[{part}/3]") for part, name in enumerate(_PARTS)),
        *(("widen", "mlp.fc1"), ("narrow", "mlp.fc2")),
      )
    },
  },
  linear=frozenset({*_PARTS, "out", "widen", "narrow"}),
)

# The repositories of ShuffleNet's authors, MCUNet's authors and CRD

MEGVII_SHUFFLENET_V1 = Names(
  {"stem": "first_conv.0 first_conv.1", "classifier": "classifier.0"},
  lambda b: f"features.{b.running}",
  lambda b: {
    **_following("branch_main_1", reduce=0, depthwise=3),
    **_following("branch_main_2", expand=0),
  },
)
MCUNET = Names(
  {"stem": "first_conv.conv first_conv.bn", "classifier": "classifier.linear"},
  lambda b: f"blocks.{b.running}.mobile_inverted_conv",
  lambda b: {
    ours: f"{theirs}.conv {theirs}.bn"
    for ours, theirs in (
      ("expand", "inverted_bottleneck"),
      ("depthwise", "depth_conv"),
      ("project", "point_linear"),
    )
  },
)
CRD_RESNET50 = Names(
  {"stem": "conv1 bn1", "classifier": "linear"}, RESNET.block, _residual("shortcut")
)
CRD_WIDE_RESNET = Names(
  {"stem": "conv1", "norm": "bn1", "classifier": "fc"},
  lambda b: f"block{b.stage + 1}.layer.{b.index}",
  lambda b: {"norm": "bn1", "conv1": "conv1 bn2", "conv2": "conv2", "shortcut": "convShortcut"},
)
CRD_VGG = Names(
  {"classifier": "classifier"},
  lambda b: f"block{b.stage}",
  lambda b: {"": f"{3 * b.index} {3 * b.index + 1}"},
)
CRD_MOBILENET_V2 = Names(
  {"stem": "conv1.0 conv1.1", "head": "conv2.0 conv2.1", "classifier": "classifier.0"},
  lambda b: f"blocks.{b.stage}.{b.index}",
  lambda b: _following("conv", expand=0, depthwise=3, project=6),
)
CRD_SHUFFLENET_V1 = Names(
  {"stem": "conv1 bn1", "classifier": "linear"},
  RESNET.block,
  lambda b: _numbered(reduce=1, depthwise=2, expand=3),
)
CRD_SHUFFLENET_V2 = Names(
  {"stem": "conv1 bn1", "head": "conv2 bn2", "classifier": "linear"},
  RESNET.block,
  lambda b: {
    **_numbered(left_depthwise=1, left_conv=2),
    **_numbered(right_conv1=3, right_depthwise=4, right_conv2=5),
    **_numbered(conv1=1, depthwise=2, conv2=3),
  },
)
