"""Python objects among a run's arguments: a data set and networks, identified by hashes of their contents."""

import hashlib
import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxcompress.data.dataset import Dataset
from jaxcompress.data.parts import PARTS, Split
from jaxcompress.models.files import to_config
from jaxcompress.models.registry import describe
from jaxcompress.pipeline.networks import Network, network_of
from jaxcompress.pipeline.options import SIGN, CompressOptions
from jaxcompress.pipeline.pretrained import Start

SAMPLED = 64  # images of each part, whose pixels count
DIGITS = 16  # of a hash


class GivenNetwork(NamedTuple):
  """A network that Python gave.

  Attributes:
    module: one of ``jaxcompress.models``, imported ones included.
    variables: from which it starts, or None: fresh ones.
    new_head: whether its classifier is fresh, and the rest was trained on other classes.
  """

  module: nn.Module
  variables: Any = None
  new_head: bool = False

  @property
  def name(self) -> str:
    """The name of its architecture."""
    name, _, options = describe(self.module)
    return str(options.get("origin") or name)

  def network(self, argument: str, shape: tuple[int, ...], classes: int) -> Network:
    """The network at an image size.

    Raises:
      ValueError: naming the argument, if it gives something else than scores of as many classes.
    """
    width = describe(self.module).options.get("width")
    found = network_of(self.name, width, self.module, shape)
    outputs = [tuple(found.summary.graph.shape(t)[1:]) for _, t in found.summary.graph.outputs]
    if outputs != [(classes,)]:
      raise ValueError(
        f"{argument}: {found.title} gives {', '.join(map(str, outputs))} for an image, and the data has"
        f" {classes} classes; give a network with one score for each, such as"
        f" models.from_torch(..., num_classes={classes})."
      )
    return found

  def start(self, argument: str, shape: tuple[int, ...], classes: int) -> Start:
    """The network with its variables.

    Raises:
      ValueError: as :meth:`network`, and if the variables are not its own.
    """
    network = self.network(argument, shape, classes)
    expected = _shapes(network.summary.variables)
    if _shapes(self.variables) != expected:
      differing = sorted(set(_shapes(self.variables).items()) ^ set(expected.items()))
      raise ValueError(
        f"{argument}_variables: they are not those of {network.title}, {differing[0][0]} differs; give"
        " the variables that belong to the module."
      )
    return Start(network, self.variables, self.new_head, None)


class Given(NamedTuple):
  """Python objects among a run's arguments; None where options decide."""

  data: Dataset | None = None
  student: GivenNetwork | None = None
  teacher: GivenNetwork | None = None

  def options(self) -> dict[str, str]:
    """Returns the texts that stand for it among the options, by which a resumed run recognizes it."""
    said = (
      {} if self.data is None else {"data": f"{SIGN}{self.data.name}@{hash_of_data(self.data)}"}
    )
    for name, one in (("student", self.student), ("teacher", self.teacher)):
      if one is not None:
        said[name] = one.name
        said[f"{name}_weights"] = f"{SIGN}{hash_of_network(one)}"
    return said


NOTHING = Given()


def check_given(options: CompressOptions, given: Given) -> None:
  """Checks that what the options stand for is given.

  Raises:
    ValueError: if a run that was started from Python is resumed without it.
  """
  for name, one in given._asdict().items():
    holder = name if name == "data" else f"{name}_weights"
    if one is None and (getattr(options, holder) or "").startswith(SIGN):
      raise ValueError(
        f"{name}: the run was started from Python with one; go on with it there: jc.compress with the"
        " same arguments and resume=True."
      )


def hash_of_data(data: Dataset) -> str:
  """A hash of a data set's shape, classes and labels, and of a sample of its pixels.

  Examples:
    >>> part = Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
    >>> data = Dataset(name="x", classes=("a", "b"), train=part, validation=part, test=part)
    >>> len(hash_of_data(data))
    16
  """
  found = hashlib.sha256(json.dumps([data.image_shape, data.classes, data.flip]).encode())
  found.update(json.dumps(data.reader.to_metadata(), sort_keys=True).encode())
  for name in PARTS:
    part: Split = getattr(data, name)
    found.update(np.ascontiguousarray(part.labels).tobytes())
    if len(part):
      chosen = np.unique(np.linspace(0, len(part) - 1, SAMPLED).astype(int))
      found.update(np.ascontiguousarray(part.images[chosen]).tobytes())
  return found.hexdigest()[:DIGITS]


def hash_of_network(given: GivenNetwork) -> str:
  """A hash of a network's configuration and of all its variables.

  Examples:
    >>> from jaxcompress.models import resnet8
    >>> one, other = (hash_of_network(GivenNetwork(resnet8(n))) for n in (2, 3))
    >>> one == other
    False
  """
  facts = [to_config(given.module), given.new_head, given.variables is None]
  found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(given.variables):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()[:DIGITS]


def _shapes(variables: Any) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}
