"""What kinds of layers the kernels of a tree belong to: read off the graph, or off shapes alone.

The graph knows. ``training.init_state`` traces the student and offers its graph to whatever
optimizer it initialises; alone, an optimizer may be given a graph. From shapes alone some kinds
cannot be told, such as a convolution of a one-channel image from a depthwise one. Such a kernel has
several *readings*, and what depends on them is refused.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache

from jaxcompress.nn import Graph, kernel_shape
from jaxcompress.nn.kinds import layer_kinds

CLASSIFIER = "classifier"  # what a last layer is called, where there is no graph
IMAGE_CHANNELS = 4  # that an image may have, where there is no graph
COLOURS = 3  # that it usually has
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Readings = tuple[frozenset[str], ...]

_offered: ContextVar[Callable[[], Graph] | None] = ContextVar("offered", default=None)


@contextlib.contextmanager
def on_network(graph: Callable[[], Graph]) -> Iterator[None]:
  """Offers a network's graph to the optimizers that are initialised inside.

  Args:
    graph: makes it; called once, and only if something prunes.

  Examples:
    >>> import jax, optax
    >>> from jaxcompress import models
    >>> from jaxcompress.prune import magnitude
    >>> model = models.summarize(models.resnet8(10), 8)
    >>> params = jax.tree.map(lambda x: jax.numpy.ones(x.shape), model.variables["params"])
    >>> with on_network(lambda: model.graph):
    ...   masks = magnitude(optax.sgd(0.1), sparsity=0.5).init(params).masks
    >>> "stem" in masks, "stage0_block0/conv1" in masks
    (False, True)
  """
  token = _offered.set(cache(graph))
  try:
    yield
  finally:
    _offered.reset(token)


def readings_of(shapes: Shapes, graph: Graph | None = None) -> dict[str, Readings]:
  """The kinds of every layer, by each reading of what the network may be.

  Args:
    shapes: of kernels, (k, k, in / groups, out) or (in, out), by layer.
    graph: of the network; None: the one that :func:`on_network` offers; without one, shapes decide,
      as :func:`read_shapes` says.

  Returns:
    By layer one set of kinds, or several where shapes do not tell which.

  Raises:
    ValueError: if the graph is of another network.

  Examples:
    >>> readings_of({"a": (3, 3, 8, 8)})["a"] == (frozenset(),)
    True
  """
  offered = _offered.get()
  if graph is None and offered is not None:
    graph = offered()
  if graph is None:
    return read_shapes(shapes)
  known = {node.name: kernel_shape(node) for node in graph.nodes}
  for name, shape in shapes.items():
    if name in known and known[name] != tuple(shape):
      raise ValueError(
        f"graph: its layer {name!r} has a kernel of {known[name]}, the parameters one of"
        f" {tuple(shape)}; give the graph of this network."
      )
  if not known.keys() & shapes.keys():
    if not shapes:
      raise ValueError(
        "params: there are no kernels to prune; prune where the optimizer gets the tree of parameters,"
        " outside of what flattens it."
      )
    raise ValueError(
      f"graph: it has none of the layers {', '.join(shapes)}; give the graph of this network."
    )
  kinds = layer_kinds(graph)  # what the logits do not depend on is neither first nor last
  return {name: (kinds[name] if name in kinds else _own(shape),) for name, shape in shapes.items()}


def read_shapes(shapes: Shapes) -> dict[str, Readings]:
  """The kinds that kernels' shapes allow.

  Kernels among which there are convolutions and a linear layer, or a layer called ``classifier``,
  are taken for a whole network, in which some convolution reads the image. It is one whose inputs
  no other layer makes, one to four, as images have. Where it cannot be told which one it
  is, each of those that it may be has both readings. The last layer is the one called
  ``classifier``, or else a linear layer whose outputs no other one reads.

  Any other tree is taken for part of a network, without a first layer; a last one has to be called
  ``classifier``. A convolution of one input for each output is depthwise.

  Args:
    shapes: by layer.

  Examples:
    >>> colour = {"a": (3, 3, 3, 8), "b": (3, 3, 4, 8), "c": (1, 1, 8, 4), "classifier": (4, 10)}
    >>> [sorted(kinds) for kinds in read_shapes(colour)["a"]]
    [['first']]
    >>> grey = {"a": (3, 3, 1, 8), "b": (3, 3, 1, 8), "c": (1, 1, 8, 4), "classifier": (4, 10)}
    >>> [sorted(kinds) for kinds in read_shapes(grey)["a"]]
    [['depthwise'], ['first']]
  """
  shapes = {name: tuple(shape) for name, shape in shapes.items()}
  convolutions = {name: shape for name, shape in shapes.items() if len(shape) == 4}
  last = {name for name in shapes if name.split("/")[-1] == CLASSIFIER}
  whole = bool(convolutions) and (bool(last) or len(convolutions) < len(shapes))
  first, perhaps = _image_readers(convolutions) if whole else (set(), set())
  if whole and not last:
    linear = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    last = {name for name, shape in linear.items() if not _is_read(name, shape, linear)}
  found: dict[str, Readings] = {}
  for name, shape in shapes.items():
    own = [_own(shape)]
    pointwise = frozenset({"pointwise"} if shape[:2] == (1, 1) else ())
    if own == [{"depthwise"}] and any(
      convolutions[other][-1] == 1 for other in convolutions.keys() - {name}
    ):
      own.append(pointwise)  # of a tensor with one channel
    if name in first:
      own = [pointwise | {"first"}]
    elif name in perhaps:
      own.append(pointwise | {"first"})
    words = frozenset({"last"}) if name in last else frozenset()
    found[name] = tuple(kinds | words for kinds in own)
  return found


def _own(shape: Shape) -> frozenset[str]:
  """The kinds that do not depend on other layers."""
  if len(shape) == 2:
    return frozenset({"dense"})
  if shape[2] == 1:
    return frozenset({"depthwise"})
  return frozenset({"pointwise"} if shape[:2] == (1, 1) else ())


def _is_read(name: str, shape: Shape, linear: Shapes) -> bool:
  return any(shape[-1] == other[0] for key, other in linear.items() if key != name)


def _image_readers(convolutions: Shapes) -> tuple[set[str], set[str]]:
  """The convolutions that read the image for sure, and otherwise those that may."""
  source = {name: _source(name, convolutions) for name in convolutions}
  narrow = {name: shape[2] for name, shape in convolutions.items() if shape[2] <= IMAGE_CHANNELS}
  unmade = {name for name in narrow if source[name] is None}
  if unmade:
    certain = len({narrow[name] for name in unmade}) == 1
    return (unmade, set()) if certain else (set(), unmade)
  colour = {name for name in narrow if narrow[name] == COLOURS and source[name] == "groups"}
  if len(colour) == 1 and not any(convolutions[name][-1] % COLOURS == 0 for name in colour):
    return colour, set()  # in groups it would have another number of outputs than of inputs
  wide = {name for name in convolutions.keys() - narrow.keys() if source[name] != "channels"}
  perhaps = {*narrow, *wide} or set(convolutions)
  if len(perhaps) == 1 and not any(
    narrow.get(name) != 1 and source[name] == "channels" for name in perhaps
  ):
    return perhaps, set()  # some layer reads the image
  return set(), perhaps


def _source(name: str, convolutions: Shapes) -> str | None:
  """How a convolution may read what another one makes: all channels, or groups; None: it cannot."""
  depth, features = convolutions[name][2:]
  made = {shape[-1] for other, shape in convolutions.items() if other != name}
  if depth in made or (depth == 1 and any(features % channels == 0 for channels in made)):
    return "channels"
  groups = (channels // depth for channels in made if channels > depth and not channels % depth)
  return "groups" if any(features % number == 0 for number in groups) else None
