"""Selection of layers: one language for rules, trainable parts, learning rates and analysis.

A selector is a string, or a tuple of strings. A string is made of alternatives, separated by ``|``
outside of brackets. An alternative that is a *kind*, as a whole, selects the layers of that kind and
no others. Any other one is a regular expression that is searched for in a layer's path.

- ``input``: the image.
- ``first``: a kernel reads the image, or what operations without a kernel make of it alone.
- ``last``: a kernel's output is the logits, or becomes them in operations without a kernel.
- ``depthwise``: convolutions with as many groups as input channels, if these are several or the
  layer says so.
- ``grouped``: other convolutions in groups. ``pointwise``: other convolutions whose kernel is 1x1.
- ``dense``: linear layers.
- ``squeeze_excite``: all from the average over a map to the gate that the same map is multiplied by.
- ``ConvNorm``, ``Add`` and the other leaf ops: by the name of their class.

Kinds are read off the traced graph, never off names or numbers of channels; a network with several
inputs or heads has several first or last layers. A path that is a kind's word is reached by an
expression that is not a kind: ``"^first$"``.

A string that begins with ``!`` leaves out what the rest of it selects. A tuple selects what any of
its strings selects, whatever their order, but for what one with ``!`` leaves out; if all have one,
everything else. An alternative that selects nothing is an error.

Examples:
  >>> from jaxcompress import models
  >>> graph = models.summarize(models.mobilenet_v2(10, layout="short"), 32).graph
  >>> select("first|last", graph)
  ('stem', 'classifier')
  >>> select("^stage0_.*project", graph)
  ('stage0_block0/project',)
  >>> select(("stage0", "!depthwise"), graph)
  ('stage0_block0/project',)
  >>> len(select("!depthwise|Add", graph)) < len(select("!Add", graph))
  True
"""

import contextlib
import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

from jaxcompress.nn.graph import INPUT, Graph, Node
from jaxcompress.nn.operations import FACTORS, FOLLOWERS, kernel_shape
from jaxcompress.nn.structure import LEAF_OPS, OPERATIONS

Selector = str | tuple[str, ...]
KINDS = (
  "input", "first", "last", "depthwise", "grouped", "pointwise", "dense", "squeeze_excite",
)  # fmt: skip
WORDS = frozenset((*KINDS, *LEAF_OPS))
SHOWN = 12  # paths that a message lists
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)  # of a regular expression


class Layer(NamedTuple):
  """A layer as selectors know it.

  Attributes:
    paths: the layer's own, and those of constants and of an activation which are fused into it.
    kinds: words of the language.
  """

  paths: tuple[str, ...]
  kinds: frozenset[str] = frozenset()


class Part(NamedTuple):
  """One string of a selector.

  Attributes:
    text: as it was written.
    excludes: whether it leaves out.
    kinds: words among its alternatives.
    pattern: the other alternatives, or None.
  """

  text: str
  excludes: bool
  kinds: frozenset[str]
  pattern: re.Pattern[str] | None

  def matches(self, layer: Layer) -> bool:
    """Whether it names a layer, be it to leave it out."""
    searched = self.pattern is not None and any(map(self.pattern.search, layer.paths))
    return searched or bool(self.kinds & layer.kinds)

  def unmatched(self, layers: Iterable[Layer]) -> str | None:
    """The first alternative that names none of some layers, if there is one."""
    layers, flags = tuple(layers), 0 if self.pattern is None else self.pattern.flags
    for one in split(self.text.removeprefix("!")):
      try:
        alone = Part(one, False, WORDS & {one}, _pattern([one], flags))
      except re.error:  # it refers to a group of another one
        continue
      if not any(alone.matches(layer) for layer in layers):
        return one
    return None


def parse(selector: Selector, argument: str = "layers") -> tuple[Part, ...]:
  """Reads a selector.

  Args:
    selector: as the module describes it.
    argument: that it was given as.

  Raises:
    ValueError: if it is of another type, or an alternative is empty or no regular expression.

  Examples:
    >>> (part,) = parse("!first|^stage[0|1]")
    >>> part.excludes, sorted(part.kinds), part.pattern.pattern
    (True, ['first'], '^stage[0|1]')
  """
  strings = (selector,) if isinstance(selector, str) else selector
  if not isinstance(strings, tuple) or not strings or not all(isinstance(s, str) for s in strings):
    raise ValueError(
      f"{argument}: {selector!r} is no regular expression or kind of layer, nor a tuple of some."
    )
  return tuple(_part(text, argument) for text in strings)


def _part(text: str, argument: str) -> Part:
  excludes = text.startswith("!")
  alternatives = split(text.removeprefix("!"))
  if any(one.startswith("!") for one in alternatives):
    raise ValueError(
      f"{argument}: {text!r} has '!' inside; it leaves out a whole string, as in ('stage0', '!first')."
    )
  if "" in alternatives:
    raise ValueError(
      f"{argument}: {text!r} has an empty alternative, which is in every path; '.' selects all layers."
    )
  try:
    pattern = _pattern(alternatives)
  except re.error as error:
    raise ValueError(f"{argument}: {text!r} is no regular expression ({error}).") from error
  return Part(text, excludes, WORDS.intersection(alternatives), pattern)


def _pattern(alternatives: Iterable[str], flags: int = 0) -> re.Pattern[str] | None:
  """The expression of those alternatives that are no kinds."""
  paths = "|".join(one for one in alternatives if one not in WORDS)
  return re.compile(paths, flags) if paths else None


def split(text: str) -> list[str]:
  """The alternatives of an expression: its parts between ``|`` outside of brackets.

  Examples:
    >>> split(r"first|a(b|c)|[|]\\|")
    ['first', 'a(b|c)', '[|]\\\\|']
  """
  depth, parts = 0, [""]
  for token in TOKEN.findall(text):
    depth += (token == "(") - (token == ")")
    if token == "|" and depth == 0:
      parts.append("")
    else:
      parts[-1] += token
  return parts


def exactly(names: Iterable[str]) -> str:
  """The selector of layers by their whole paths.

  Examples:
    >>> exactly(["stem", "head"])
    '^(?:stem|head)$'
  """
  return f"^(?:{'|'.join(map(re.escape, names))})$"


def select(
  selector: Selector | None, layers: Graph | Mapping[str, Layer], argument: str = "layers"
) -> tuple[str, ...]:
  """The layers that a selector names, in the order in which they run.

  Args:
    selector: as the module describes it; None: all layers.
    layers: a traced graph, or what a selector may call each layer, by path.
    argument: that the selector was given as.

  Raises:
    ValueError: if the selector is not valid; or if one of its alternatives, or all of it, selects nothing;
      then it lists the paths, the nearest first, and the kinds that are there.

  Examples:
    >>> select(("a|b", "!b"), {name: Layer((name,)) for name in "abc"})
    ('a',)
  """
  layers = layers_of(layers) if isinstance(layers, Graph) else layers
  parts = () if selector is None else parse(selector, argument)
  named = [{name for name, layer in layers.items() if part.matches(layer)} for part in parts]
  for part in parts:
    if (one := part.unmatched(layers.values())) is not None:
      whole = one == part.text.removeprefix("!")
      where = repr(part.text) if whole else f"{one!r} of {part.text!r}"
      raise ValueError(f"{argument}: {where} matches no layer; {listed(one, layers)}.")
  chosen = [names for part, names in zip(parts, named, strict=True) if not part.excludes]
  wanted = set().union(*chosen) if chosen else set(layers)
  for part, names in zip(parts, named, strict=True):
    wanted -= names if part.excludes else set()
  if parts and not wanted:
    raise ValueError(f"{argument}: {selector!r} leaves out every layer that it selects.")
  return tuple(name for name in layers if name in wanted)


def listed(text: str, layers: Mapping[str, Layer]) -> str:
  """The paths and kinds that there are, in words, those that resemble a text first.

  Examples:
    >>> listed("steam", {"head": Layer(("head",)), "stem": Layer(("stem",), frozenset({"first"}))})
    'the paths are stem, head; the kinds first'
  """
  near = difflib.SequenceMatcher(b=text.removeprefix("!"))

  def unlike(path: str) -> float:
    ratios = []
    for part in (path, path.rpartition("/")[2]):
      near.set_seq1(part)
      ratios.append(near.ratio())
    return -max(ratios)

  paths = sorted(dict.fromkeys(p for layer in layers.values() for p in layer.paths), key=unlike)
  found = frozenset().union(*(layer.kinds for layer in layers.values()))
  kinds = sorted(sorted(found), key=unlike)
  more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
  words = f"; the kinds {', '.join(kinds)}" if kinds else ""
  return f"the paths are {', '.join(paths[:SHOWN])}{more}{words}"


def layers_of(graph: Graph) -> dict[str, Layer]:
  """The image and every layer as selectors know them, by path.

  Args:
    graph: traced, with activations fused or not.

  Examples:
    >>> from jaxcompress import models
    >>> layers = layers_of(models.summarize(models.mobilenet_v2(10), 32).graph)
    >>> sorted(layers["stem"].kinds), sorted(layers["classifier"].kinds)
    (['ConvNorm', 'first'], ['Dense', 'dense', 'last'])
  """
  placed = {"first": _first(graph), "last": _last(graph), "squeeze_excite": _gates(graph)}
  found = {INPUT: Layer((INPUT,), frozenset({INPUT}))}
  for node in graph.nodes:
    kinds = {word for word, names in placed.items() if node.name in names}
    within = [name for name, _ in node.attrs.get(FACTORS, ())]
    within += [after.name for after in node.attrs.get(FOLLOWERS, ())]
    paths = tuple(dict.fromkeys((node.name, *within, node.output)))
    found[node.name] = Layer(paths, _form(node) | kinds | {node.op})
  return found


def _has_kernel(node: Node) -> bool:
  operation = OPERATIONS[node.op]
  return operation.kernel is not None and operation.trained


def _form(node: Node) -> frozenset[str]:
  """The kinds that a layer is by itself."""
  shape = kernel_shape(node)
  if shape is None or not _has_kernel(node):
    return frozenset()
  if len(shape) == 2:
    return frozenset({"dense"})
  groups = OPERATIONS[node.op].groups(node)
  if node.attrs.get("groups") == "depthwise" or 1 < groups == node.input_shapes[0][-1]:
    return frozenset({"depthwise"})
  words = {"grouped": groups > 1, "pointwise": shape[:2] == (1, 1)}
  return frozenset(word for word, fits in words.items() if fits)


def _first(graph: Graph) -> set[str]:
  """Layers with a kernel between which and the image there is none."""
  found, image = set(), {INPUT}
  for node in graph.nodes:
    if image.issuperset(node.inputs):
      if _has_kernel(node):
        found.add(node.name)
      else:
        image.update(node.outputs)
  return found


def _last(graph: Graph) -> set[str]:
  """Layers with a kernel between which and an output there is none."""
  found, ends = set(), {tensor for _, tensor in graph.outputs}
  for node in reversed(graph.nodes):
    if ends.intersection(node.outputs):
      if _has_kernel(node):
        found.add(node.name)
      else:
        ends.update(node.inputs)
  return found


def _gates(graph: Graph) -> set[str]:
  """Layers through which an average over a map comes to what that map is multiplied by."""
  made = {tensor: node for node in graph.nodes for tensor in node.outputs}
  found = set()
  for node in graph.nodes:
    if node.op == "Multiply":
      for scaled, gate in itertools.permutations(node.inputs, 2):
        found |= _between(made, scaled, gate)
  return found


def _between(made: Mapping[str, Node], scaled: str, gate: str) -> set[str]:
  """Layers that make a gate out of averages of a tensor; none if they read anything else."""
  found, waiting = set(), [gate]
  while waiting:
    node = made.get(waiting.pop())
    if node is None or (node.op == "GlobalAvgPool" and node.inputs != (scaled,)):
      return set()
    if node.name not in found and node.op != "GlobalAvgPool":
      waiting += node.inputs
    found.add(node.name)
  return found


_offered: ContextVar[Callable[[], Graph] | None] = ContextVar("offered", default=None)


@contextlib.contextmanager
def on_network(graph: Callable[[], Graph]) -> Iterator[None]:
  """Offers a network's graph to the optimizers that are initialised or updated inside.

  Args:
    graph: makes it; called once, and only if something selects layers.

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


def offered_graph() -> Graph | None:
  """The graph that :func:`on_network` offers, if any."""
  graph = _offered.get()
  return None if graph is None else graph()
