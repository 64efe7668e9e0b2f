"""PyTorch's state dicts from and to the variables of our models."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcompress.arguments import check_whole
from jaxcompress.models.checkpoints.names import Names, torch_names
from jaxcompress.models.checkpoints.sources import SOURCES, Source, find_source
from jaxcompress.models.checkpoints.weights import read_weights
from jaxcompress.models.heads import with_classes
from jaxcompress.models.registry import Summary, describe, summarize
from jaxcompress.nn import Node
from jaxcompress.nn.graph import parameters

COUNTER = "num_batches_tracked"  # PyTorch counts batches; nothing here needs it
NORM = {"scale": "weight", "bias": "bias"}
STATISTICS = {"mean": "running_mean", "var": "running_var"}
CLASSIFIER = "classifier"
LISTED = 6  # keys of each kind that an error names
FOLDED = "reparam_conv"  # what timm's RepVGG and MobileOne have of branches that became one
PART = re.compile(r"(.+)\[(\d+)/(\d+)\]")  # of the outputs of a layer there
Weights = Mapping[str, Any] | str | os.PathLike


class StateEntry(NamedTuple):
  """One of our arrays, and its key in a state dict.

  Attributes:
    key: in the state dict.
    path: in our variables, the collection first.
    shape: ours.
    linear: whether a convolution's kernel is a linear layer's weight there.
    of: how many numbers the array there has, each a parameter of ours; 0: it is one.
    place: of the number among them.
    part: which part of the outputs it is, from 0, and of how many equal ones.
  """

  key: str
  path: tuple[str, ...]
  shape: tuple[int, ...]
  linear: bool = False
  of: int = 0
  place: int = 0
  part: tuple[int, int] = (0, 1)

  @property
  def torch_shape(self) -> tuple[int, ...]:
    """The shape of the whole array in the state dict."""
    if self.of:
      return self.of, 1, 1
    *others, out = self.shape
    out *= self.part[1]
    if not others:
      return (out,)
    *window, depth = others
    return (out, depth, *(() if self.linear else window))

  def to_ours(self, array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, and (out, in) to (in, out), of its part of the whole array."""
    if self.of:
      return array.ravel()[self.place]
    index, count = self.part
    array = np.split(array, count)[index]
    if array.ndim == 1:
      return array
    return array.transpose(*range(2, array.ndim), 1, 0).reshape(self.shape)

  def to_torch(self, array: np.ndarray) -> np.ndarray:
    """The way back, of its part alone; of one number among several, the others are zeros."""
    if self.of:
      found = np.zeros(self.torch_shape, np.float32)
      found[self.place] = array
      return found
    if array.ndim == 1:
      return array
    out = array.ndim - 1
    turned = array.transpose(out, out - 1, *range(out - 1))
    return np.ascontiguousarray(turned.reshape(array.shape[-1], *self.torch_shape[1:]))


def from_torch(
  source: str,
  weights: Weights,
  *,
  num_classes: int | None = None,
  rng: jax.Array | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
  """A PyTorch checkpoint as one of our models and its variables; the logits are the same.

  ImageNet's networks have the original's strides for images of every size; for small images take
  ``model.clone(layout="cifar")`` with the same variables.

  Args:
    source: ``"torchvision/NAME"``, ``"timm/NAME"``, ``"megvii/NAME"`` (the ShuffleNet authors'
      repository), ``"mcunet/NAME"`` (MCUNet's) or ``"crd/NAME"`` (RepDistiller); the names are the keys of :data:`SOURCES`.
    weights: a state dict of numpy arrays or torch tensors, or the path of a ``.safetensors``,
      ``.pth`` or ``.pt`` file. Files are read without torch, and no pickled code is executed.
    num_classes: size of the logits; None: that of the checkpoint. If it is not the checkpoint's,
      the classifier starts anew, as in a fresh model.
    rng: a PRNG key for a new classifier; ``jax.random.key(0)`` by default.

  Returns:
    ``(model, variables)``: a linen module for (batch, height, width, 3) images, and a dict of
    ``params`` and ``batch_stats``, float32.

  Raises:
    ValueError: if the source is unknown, the file cannot be read, or keys are missing, unknown or
      of a wrong shape; the first ones of each kind are listed in one message.

  Examples:
    >>> from jaxcompress import models
    >>> model = models.resnet8()
    >>> variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 32, 32, 3)), train=False)
    >>> weights = models.to_torch("crd/resnet8", variables)
    >>> weights["conv1.weight"].shape
    (16, 3, 3, 3)
    >>> same_model, same_variables = models.from_torch("crd/resnet8", weights)
    >>> same_model == model
    True
  """
  found, arrays = find_source(source), read_weights(weights)
  if num_classes is not None:
    check_whole("num_classes", num_classes, 1)
  given, expected = entries_of(found, arrays)
  problems = problems_of(expected, arrays)
  if problems:
    ways = _ways_out(expected, arrays)
    known = "" if ways else " (models.sources_of(weights) says whose they are)"
    raise ValueError(
      f"weights: they are not those of {source}{known}; {'; '.join([*ways, *problems])}."
    )
  flat = {tensor.path: tensor.to_ours(arrays[tensor.key]) for tensor in expected}
  model, variables = found.make(given), unflatten_dict(flat)
  if num_classes not in (None, given):
    model, variables = with_classes(model, variables, num_classes, rng)
  return model, jax.device_put(variables, may_alias=False)


def sources_of(
  weights: Weights, architecture: str | None = None, *, sources: Iterable[str] = SOURCES
) -> tuple[str, ...]:
  """The sources whose networks have the arrays of a checkpoint, by names and shapes.

  Several may: timm's weights that were ported from TensorFlow have the names of its own. They differ
  in padding or normalization, which no array tells.

  Args:
    weights: as for :func:`from_torch`.
    architecture: key of :data:`~jaxcompress.models.MODELS`; None: any.
    sources: among which is looked.

  Raises:
    ValueError: if the file cannot be read.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> variables = init_variables(models.resnet8(10), jax.random.key(0), (32, 32, 3))
    >>> sources_of(to_torch("crd/resnet8", variables), sources=["crd/resnet8", "crd/resnet14"])
    ('crd/resnet8',)
  """
  arrays = read_weights(weights)

  def may(source: Source) -> bool:
    """Whether those arrays are there whose names are known without building the network."""
    words = " ".join(source.names.outer.values()).split()
    if any(f"{word}.weight" not in arrays for word in words):
      return False
    return architecture is None or describe(source.make(source.num_classes)).name == architecture

  chosen = {name: SOURCES[name] for name in sources if may(SOURCES[name])}
  return tuple(
    name
    for name, source in chosen.items()
    if not problems_of(entries_of(source, arrays)[1], arrays)
  )


def to_torch(source: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Variables of one of our models as the state dict of the PyTorch original.

  Args:
    source: as in :func:`from_torch`.
    variables: ``params`` and ``batch_stats`` of the model of that source, with any number of
      classes.

  Returns:
    Arrays by key, float32; ``num_batches_tracked`` is an int64 zero. For
    ``torch_model.load_state_dict`` wrap them in ``torch.from_numpy``.

  Raises:
    ValueError: if the source is unknown, or the variables are not those of its model.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> variables = init_variables(models.resnet8(10), jax.random.key(0), (32, 32, 3))
    >>> weights = to_torch("crd/resnet8", variables)
    >>> weights["conv1.weight"].shape, weights["fc.weight"].shape
    ((16, 3, 3, 3), (10, 64))
  """
  found = find_source(source)
  classifier = parameters(variables.get("params", {}), CLASSIFIER).get("kernel")
  classes = found.num_classes if classifier is None else np.shape(classifier)[-1]
  expected = tensors_of(summarize(found.make(classes)), found.names)
  flat = flatten_dict(variables)
  ours = {tensor.path: tensor for tensor in expected}
  problems = [f"{'/'.join(path)} is missing" for path in ours if path not in flat]
  problems += [f"{'/'.join(path)} is unknown" for path in flat if path not in ours]
  problems += [
    f"{'/'.join(path)} has shape {np.shape(flat[path])}, not {tensor.shape}"
    for path, tensor in ours.items()
    if path in flat and np.shape(flat[path]) != tensor.shape
  ]
  if problems:
    raise ValueError(f"variables: they are not those of {source}: {', '.join(problems)}.")
  state_dict: dict[str, np.ndarray] = {}
  for tensor in sorted(expected, key=lambda tensor: tensor.part[0]):
    array = tensor.to_torch(np.array(flat[tensor.path], np.float32))
    if tensor.place:
      array = array + state_dict[tensor.key]
    elif tensor.part[0]:
      array = np.concatenate([state_dict[tensor.key], array])
    state_dict[tensor.key] = array
    if tensor.path[-1] == "var":  # as in PyTorch, behind the running variance
      state_dict[f"{tensor.key.rpartition('.')[0]}.{COUNTER}"] = np.zeros((), np.int64)
  return state_dict


def tensors_of(summary: Summary, names: Names) -> list[StateEntry]:
  """Every array of a model with its key in the source's state dict.

  Args:
    summary: of the model.
    names: of the source's layers.
  """
  params = summary.variables["params"]
  nodes = [node for node in summary.graph.nodes if parameters(params, node.name)]
  prefixes = torch_names(names, [node.name for node in nodes])
  found = [
    tensor
    for node in nodes
    for tensor in _node_tensors(node, prefixes[node.name], summary.variables, names)
  ]
  counts = Counter(tensor.key for tensor in found)
  return [tensor._replace(of=counts[tensor.key]) if tensor.of else tensor for tensor in found]


def _node_tensors(node: Node, prefixes, variables, names: Names) -> list[StateEntry]:
  shapes = {
    collection: parameters(variables[collection], node.name)
    for collection in ("params", "batch_stats")
    if collection in variables
  }
  conv, _, place = prefixes[0].partition("#")
  norm, part = prefixes[-1], (0, 1)
  if found := PART.fullmatch(conv):
    conv, part = found[1], (int(found[2]), int(found[3]))
  keys = {("params", "kernel"): f"{conv}.weight"}
  if node.op == "Affine":
    alone = "bias" not in shapes["params"]
    keys = {("params", "scale"): conv if alone else f"{conv}.weight"}
  if node.op == "FourierPositions":
    keys = {("params", "projection"): f"{conv}.weight"}
  if node.attrs.get("norm") is None:
    keys["params", "bias"] = f"{conv}.bias"
    keys.setdefault(("params", "scale"), f"{conv}.weight")
  else:
    keys["params", "conv_bias"] = f"{conv}.bias"
    keys |= {("params", ours): f"{norm}.{theirs}" for ours, theirs in NORM.items()}
    keys |= {("batch_stats", ours): f"{norm}.{theirs}" for ours, theirs in STATISTICS.items()}
  return [
    StateEntry(
      key,
      (collection, *node.name.split("/"), leaf),
      shapes[collection][leaf].shape,
      linear=node.name.rpartition("/")[2] in names.linear,
      of=1 if place else 0,
      place=int(place or 0),
      part=part,
    )
    for (collection, leaf), key in keys.items()
    if leaf in shapes.get(collection, {})
  ]


def _classes_of(arrays: Mapping[str, np.ndarray], key: str) -> int | None:
  """Classes of a state dict's classifier, where that can be told."""
  weight = arrays.get(key)
  if weight is None or weight.ndim not in (2, 4) or not weight.size:  # 4: a convolution
    return None
  return int(weight.shape[0])


def _with_classes(tensors: list[StateEntry], classes: int) -> list[StateEntry]:
  """The same tensors for another number of classes."""
  return [
    t._replace(shape=(*t.shape[:-1], classes))
    if any(part.startswith(CLASSIFIER) for part in t.path)  # there may be two, whose mean is taken
    else t
    for t in tensors
  ]


def entries_of(source: Source, arrays: Mapping[str, np.ndarray]) -> tuple[int, list[StateEntry]]:
  """The number of classes of a state dict, and the arrays that it must have to be a source's."""
  summary = summarize(source.make(source.num_classes))
  (prefix,) = torch_names(source.names, [CLASSIFIER])[CLASSIFIER]
  classes = _classes_of(arrays, f"{prefix}.weight") or source.num_classes
  return classes, _with_classes(tensors_of(summary, source.names), classes)


def _ways_out(expected: list[StateEntry], arrays: Mapping[str, np.ndarray]) -> list[str]:
  """Says what to do about arrays that are all there but for a start of their names, or are folded."""
  known = {tensor.key for tensor in expected}
  starts = {name.removesuffix(key) for key in known for name in arrays if name.endswith(f".{key}")}
  whole = [start for start in sorted(starts) if known <= {n.removeprefix(start) for n in arrays}]
  if whole and not known <= arrays.keys():
    return [
      f"all are there behind {whole[0]!r}, so give those, with this start of their names left out"
    ]
  if any(FOLDED in name.split(".") for name in arrays if name not in known):
    return [
      f"its branches are folded into one ({FOLDED}), and what is trained here has them apart; give the"
      " checkpoint before that"
    ]
  return []


def problems_of(expected: list[StateEntry], arrays: Mapping[str, np.ndarray]) -> list[str]:
  """Lists the arrays that do not fit, in words; empty if all do."""
  known = {tensor.key: tensor.torch_shape for tensor in expected}
  counters = {f"{key.rpartition('.')[0]}.{COUNTER}" for key in known}
  groups = {
    "missing": [key for key in known if key not in arrays],
    "unknown": [key for key in arrays if key not in known and key not in counters],
    "of wrong shape": [
      f"{key} {arrays[key].shape} for {shape}"
      for key, shape in known.items()
      if key in arrays and arrays[key].shape != shape
    ],
    "not of floats": [key for key in known if key in arrays and arrays[key].dtype.kind != "f"],
  }
  return [f"{what}: {_first_of(keys)}" for what, keys in groups.items() if keys]


def _first_of(keys: list[str]) -> str:
  """The first keys, and how many more there are.

  Examples:
    >>> _first_of(["a", "b"]), _first_of(list("abcdefghij"))
    ('a, b', 'a, b, c, d, e, f and 4 more')
  """
  more = len(keys) - LISTED
  return ", ".join(keys[:LISTED]) + (f" and {more:,} more" if more > 0 else "")
