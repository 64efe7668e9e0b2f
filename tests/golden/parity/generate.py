"""Makes specs.json.gz and outputs.npz by running the original PyTorch networks in float64.

  python generate.py --repdistiller PATH --megvii PATH
  python generate.py --newer --mcunet PATH
  python generate.py --attention
  python generate.py --newer --only timm/repvit

It needs torch, torchvision and timm, and checkouts of github.com/HobbitLong/RepDistiller and
github.com/megvii-model/ShuffleNet-Series; for newer_specs.json.gz and newer_outputs.npz one of
github.com/mit-han-lab/mcunet at 8326da6, which holds the networks' configurations; for
attention_specs.json.gz and attention_outputs.npz no checkouts.
"""

import argparse
import contextlib
import gzip
import io
import json
import pathlib
import sys

import numpy as np
import timm
import torch
import torchvision
import weights
from timm.models.repvit import RepVitClassifier
from torch import nn

SOURCES = {
  "torchvision": """
    mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    resnet18 resnet34 resnet50""",
  "timm": """
    mobilenetv1_100 mobilenetv1_125
    mobilenetv2_035 mobilenetv2_050 mobilenetv2_075 mobilenetv2_100 mobilenetv2_140
    mobilenetv3_large_075 mobilenetv3_large_100
    mobilenetv3_small_050 mobilenetv3_small_075 mobilenetv3_small_100
    tf_mobilenetv3_large_075 tf_mobilenetv3_large_100 tf_mobilenetv3_large_minimal_100
    tf_mobilenetv3_small_075 tf_mobilenetv3_small_100 tf_mobilenetv3_small_minimal_100
    mobilenetv4_conv_small_035 mobilenetv4_conv_small_050
    mobilenetv4_conv_small mobilenetv4_conv_medium mobilenetv4_conv_large
    ghostnet_050 ghostnet_100 ghostnet_130
    resnet18 resnet34 resnet50""",
  "megvii": """
    shufflenet_v1_0.5x_g3 shufflenet_v1_1.0x_g3 shufflenet_v1_1.5x_g3 shufflenet_v1_2.0x_g3
    shufflenet_v1_0.5x_g8 shufflenet_v1_1.0x_g8 shufflenet_v1_1.5x_g8 shufflenet_v1_2.0x_g8""",
  "crd": """
    resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet8x4 resnet32x4 ResNet50
    wrn_16_1 wrn_16_2 wrn_40_1 wrn_40_2 vgg8 vgg11 vgg13 vgg16 vgg19
    MobileNetV2 ShuffleV1 ShuffleV2""",
}
NEWER = {
  "torchvision": """
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 squeezenet1_0 squeezenet1_1""",
  "timm": """
    ghostnetv2_100 ghostnetv2_130 ghostnetv2_160
    starnet_s050 starnet_s100 starnet_s150 starnet_s1 starnet_s2 starnet_s3 starnet_s4
    fasternet_t0 fasternet_t1 fasternet_t2 fasternet_s
    efficientnet_lite0 tf_efficientnet_lite0 tf_efficientnet_lite1 tf_efficientnet_lite2
    tf_efficientnet_lite3 tf_efficientnet_lite4 efficientnet_b0 tf_efficientnet_b0
    repvgg_a0 repvgg_a1 repvgg_a2 repvgg_b0
    repvit_m0_9 repvit_m1_0 repvit_m1_1 repvit_m1_5 repvit_m2_3 repvit_m1 repvit_m2 repvit_m3
    mobilevit_xxs mobilevit_xs mobilevit_s
    mobileone_s0 mobileone_s1 mobileone_s2 mobileone_s3 mobileone_s4""",
  "mcunet": "mcunet-in0 mcunet-in1 mcunet-in2 mcunet-in3 mcunet-in4",
}
ATTENTION = {
  "timm": """
    mobilenetv4_hybrid_medium mobilenetv4_hybrid_large
    edgenext_xx_small edgenext_x_small edgenext_small""",
}
CONFIGURATIONS = {"in0": "10fps", "in1": "5fps", "in2": "256kb-1mb", "in3": "320kb-1mb"} | {
  "in4": "512kb-2mb"
}
KEPT = 32  # leading classes and channels stored in full; moments stand for the rest
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NORMALIZING = (*NORMS, nn.LayerNorm)
NORM_KINDS = {
  "weight": "bn_gamma",
  "bias": "bn_beta",
  "running_mean": "bn_mean",
  "running_var": "bn_var",
  "num_batches_tracked": "nbt",
}
PARAMETERS = {
  "gamma": "layer_scale",
  "gamma_xca": "layer_scale",
  "temperature": "bn_gamma",
}  # of modules that have them beside their layers
QUERIES = ("attn.query.proj", "attn.key.proj")


def build(library: str, name: str, mcunet: pathlib.Path) -> nn.Module:
  """The original network, in float64 and eval mode."""
  with contextlib.redirect_stdout(io.StringIO()):  # some constructors print
    if library == "torchvision":
      model = torchvision.models.get_model(name, weights=None)
    elif library == "timm":
      model = timm.create_model(name, pretrained=False)
    elif library == "mcunet":
      from tinynas.nn.networks import ProxylessNASNets

      found = CONFIGURATIONS[name.removeprefix("mcunet-")]
      text = (mcunet / f"assets/configs/mcunet-{found}_imagenet.json").read_text()
      model = ProxylessNASNets.build_from_config(json.loads(text))
    elif library == "megvii":
      from network import ShuffleNetV1

      _, _, width, groups = name.split("_")
      model = ShuffleNetV1(model_size=width, group=int(groups[1:]))
      model.globalpool = nn.AdaptiveAvgPool2d(1)  # theirs, AvgPool2d(7), takes 224 px alone
    else:
      from models import model_dict

      model = model_dict[name](num_classes=100)
  return model.double().eval()


def kind_of(path: str, module: nn.Module, tensor: str) -> str:
  """Returns the name by which ``weights.make`` knows the kind of a module's tensor."""
  if isinstance(module, NORMALIZING):
    return NORM_KINDS[tensor]
  if tensor in PARAMETERS:
    return PARAMETERS[tensor]
  if not isinstance(module, nn.Conv2d | nn.Linear):
    raise ValueError(f"module: {type(module).__name__} has tensors, and no kind is known for it.")
  if tensor == "bias":
    return "bias"
  if path.endswith(QUERIES):
    return "query"
  return "conv" if isinstance(module, nn.Conv2d) else "linear"


def fill(model: nn.Module, images: torch.Tensor) -> list:
  """Loads generated weights, and returns their rows.

  The scale of a BatchNorm is the variance of its inputs in these very images, given the
  generated layers before it: the mean over channels, to three digits.
  """
  scales, modules = {}, dict(model.named_modules())

  def calibrate(path: str):
    def hook(norm: nn.Module, inputs: tuple) -> None:
      if path not in scales:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        scales[path] = float(f"{inputs[0].var(axes).mean().item():.3g}")
        for name in ("running_mean", "running_var"):
          tensor = getattr(norm, name)
          row = (f"{path}.{name}", tuple(tensor.shape), NORM_KINDS[name], scales[path])
          tensor.copy_(torch.tensor(weights.make(*row)))

    return hook

  norms = {path: module for path, module in modules.items() if isinstance(module, NORMS)}
  hooks = [norm.register_forward_pre_hook(calibrate(path)) for path, norm in norms.items()]
  rows = []
  for name, tensor in model.state_dict().items():
    path, _, leaf = name.rpartition(".")
    row = [name, list(tensor.shape), kind_of(path, modules[path], leaf)]
    tensor.copy_(torch.tensor(weights.make(name, tuple(tensor.shape), row[2])))
    rows.append(row)
  model(images)
  for hook in hooks:
    hook.remove()
  for row in rows:
    if row[2] in ("bn_mean", "bn_var"):
      row.append(scales[row[0].rpartition(".")[0]])
  return rows


def summary(key: str, values: torch.Tensor) -> dict[str, np.ndarray]:
  """The head of each image's vector, and the mean and standard deviation of all of it."""
  moments = torch.stack([values.mean(1), values.std(1, correction=0)], 1)
  return {key: store(values[:, :KEPT]), f"{key}_moments": store(moments)}


def store(values: torch.Tensor) -> np.ndarray:
  return values.numpy().astype(np.float32)


def run(source: str, model: nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
  """The outputs of a filled network, under the keys that the README names."""
  seen, modules = [], list(model.modules())
  heads = [module for module in modules if isinstance(module, RepVitClassifier)]
  for module in heads or modules:
    if isinstance(module, nn.Linear | RepVitClassifier):
      module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
  logits = model(images)
  found = summary(f"{source}/logits", logits)
  if not source.startswith("crd/"):
    return found | (summary(f"{source}/pooled", seen[-1]) if seen else {})
  for name in ("maps", "preact"):
    features, again = model(images, is_feat=True, preact=name == "preact")
    torch.testing.assert_close(again, logits, rtol=1e-12, atol=1e-12)
    shapes = [(*x.shape, 0, 0)[:4] for x in features]
    found[f"{source}/{name}_shapes"] = np.array(shapes, np.int32)
    for index, x in enumerate(features):
      found[f"{source}/{name}/{index}"] = store(x.mean((2, 3)) if x.ndim == 4 else x)
  return found


@torch.no_grad()
def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repdistiller", type=pathlib.Path, default=".", help="a checkout")
  parser.add_argument("--megvii", type=pathlib.Path, default=".", help="a checkout")
  parser.add_argument("--mcunet", type=pathlib.Path, default=".", help="a checkout")
  parser.add_argument("--newer", action="store_true", help="only the networks that came later")
  parser.add_argument("--attention", action="store_true", help="only those with attention")
  parser.add_argument(
    "--only", default="", help="what begins the sources; others stay in the files"
  )
  args = parser.parse_args()
  sys.path[:0] = [str(args.repdistiller), str(args.megvii / "ShuffleNetV1"), str(args.mcunet)]
  start, networks = "", SOURCES
  if args.newer or args.attention:
    start, networks = ("newer_", NEWER) if args.newer else ("attention_", ATTENTION)
  specs, outputs = (weights.FOLDER / f"{start}{file}" for file in ("specs.json.gz", "outputs.npz"))
  rows, found = {}, {}
  if args.only:
    rows = json.loads(gzip.decompress(specs.read_bytes()))
    found = dict(np.load(outputs))
  for library, names in networks.items():
    images = torch.tensor(weights.image(32 if library == "crd" else 96)).double()
    for name in names.split():
      source = f"{library}/{name}"
      if not source.startswith(args.only):
        continue
      model = build(library, name, args.mcunet)
      rows[source] = fill(model, images)
      found |= run(source, model, images)
      print(source)
  text = json.dumps(rows, separators=(",", ":"))
  specs.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
  np.savez_compressed(outputs, **found)


if __name__ == "__main__":
  main()
