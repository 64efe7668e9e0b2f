"""The grids that a pass knows of its tensors, told to layers where products of floats lose digits.

On TPUs and GPUs, and in bfloat16, a layer multiplies the codes of what it reads (:mod:`jaxcompress.ops.codes`),
so that what is trained there is what is deployed. Between layers such tensors are float32: the 8 bits of
bfloat16 hold 256 codes, but not their products with a scale.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.nn.operations import FACTORS
from jaxcompress.ops.codes import Grid, Grids
from jaxcompress.ops.dispatch import rounds_products
from jaxcompress.quantize.fake_quant import stored_bits
from jaxcompress.quantize.integer.grid import HIGHEST, LOWEST
from jaxcompress.quantize.integer.grid import Grid as IntegerGrid
from jaxcompress.quantize.quantizers.base import Quantizer
from jaxcompress.quantize.sites import Sites


class Place(NamedTuple):
  """A tensor's grid.

  Attributes:
    grid: it.
    source: what it follows from; the same objects give the same grid.
  """

  grid: Grid
  source: tuple[Any, ...]

  def is_same(self, other: "Place") -> bool:
    """Whether it is sure to be the same grid."""
    return len(self.source) == len(other.source) and all(map(_is, self.source, other.source))


def _is(a: Any, b: Any) -> bool:
  return a is b or (isinstance(a, str) and a == b)


@dataclasses.dataclass
class KnownGrids:
  """Known grids of one pass, by tensor and by layer; empty where products of floats are exact enough.

  Attributes:
    sites: of the model's graph.
    active: whether anything is rounded.
    dtype: that everything else is multiplied in.
  """

  sites: Sites
  active: bool | jax.Array
  dtype: Any

  def __post_init__(self):
    self.needed = self.active is not False and rounds_products(self.dtype)
    self.places: dict[str, Place] = {}
    self.kernels: dict[str, Grid] = {}
    self.nodes = {node.name: node for node in self.sites.graph.nodes}
    rounded = self.sites.rounded
    self.copies = {n.name for n in self.nodes.values() if rounded.isdisjoint(n.outputs)}

  def put(self, tensor: str, key: str, quantizer: Quantizer, params: Any, state: Any) -> None:
    """A quantizer has put a tensor on the grid of its variables."""
    if not self.needed or not _has_codes(quantizer):
      return
    like = jax.ShapeDtypeStruct(
      (), jnp.float32
    )  # not read, but without it a grid of few levels has more
    scale, zero = quantizer.grid(params, state, like)
    grid = Grid(jnp.asarray(scale), jnp.asarray(zero - quantizer.levels.low + LOWEST, jnp.float32))
    self.places[tensor] = Place(grid, (key, *jax.tree.leaves((params, state))))

  def put_fixed(self, tensor: str, grid: IntegerGrid) -> None:
    """A tensor was put on the grid of an activation function."""
    if self.needed and grid.bits == 8:
      scale, zero = jnp.float32(grid.scale), jnp.float32(grid.zero_point)
      self.places[tensor] = Place(Grid(scale, zero), (grid,))

  def put_kernel(
    self, name: str, quantizer: Quantizer, params: Any, state: Any, kernel: jax.Array
  ) -> None:
    """A quantizer has put a layer's kernel on the grid of its variables."""
    if self.needed and _has_codes(quantizer) and -quantizer.levels.low <= HIGHEST:
      self.kernels[name] = Grid(quantizer.grid(params, state, kernel)[0])

  def of_layer(self, name: str) -> Grids | None:
    """The grids of what a layer multiplies; where one is not known, it multiplies as it is told to."""
    node = self.nodes.get(name)
    if not self.needed or node is None:
      return None
    places = [self.places.get(tensor) for tensor in node.inputs]
    known = [place.grid for place in places if place is not None]
    if name in self.kernels:
      known.append(self.kernels[name])
    factors = [factor for _, factor in node.attrs.get(FACTORS, ())]
    multiplies = name in self.kernels or node.op == "MatMul"
    if not multiplies or len(known) < 2 or 0 in factors:
      return None if self.dtype == jnp.float32 else Grids(None, None, False, self.dtype)
    x, kernel = known
    return Grids(x._replace(scale=x.scale * math.prod(factors)), kernel, self.active, self.dtype)

  def copy(self, name: str) -> None:
    """The outputs of a layer that copies integers are on the grid of what it reads, if that is one."""
    if not self.needed or name not in self.copies:
      return
    node = self.nodes[name]
    first, *others = [self.places.get(tensor) for tensor in node.inputs]
    if first is not None and all(place is not None and first.is_same(place) for place in others):
      self.places |= dict.fromkeys(node.outputs, first)


def _has_codes(quantizer: Quantizer) -> bool:
  return quantizer.training_only is None and stored_bits(quantizer.levels) == 8
