"""Views: the axes of a traced array in terms of (batch, height, width, channels).

A traced function may turn, split, join and flatten axes as it likes. An axis of its arrays is a list of
:class:`Atom` s: a run of positions on one of the four axes, with the step between neighbours. Splitting
an axis splits an atom, joining axes joins their lists, and an axis of size one has none; so NCHW, tokens,
groups of channels and flattened maps are all views of the same tensor.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

ROLES = "NHWC"
STRETCHED = "*"  # made by broadcasting
UNKNOWN = "?"  # of an array that was not understood


class Atom(NamedTuple):
  """A run of positions on one axis.

  Attributes:
    role: of the axis: batch, height, width or channels; or stretched, or unknown.
    size: number of positions.
    step: distance between two of them on that axis.
  """

  role: str
  size: int
  step: int


Axis = tuple[Atom, ...]
View = tuple[Axis, ...]
Shape = tuple[int, ...]


def whole(role: str, size: int) -> Axis:
  """An axis that is one of the four."""
  return (Atom(role, size, 1),) if size > 1 else ()


def straight(shape: Shape, roles: Iterable[str] = ROLES) -> View:
  """The view of a tensor of shape (batch, height, width, channels) with its axes in an order.

  Examples:
    >>> straight((2, 4, 4, 3), "NC")
    ((Atom(role='N', size=2, step=1),), (Atom(role='C', size=3, step=1),))
  """
  sizes = dict(zip(ROLES, shape, strict=True))
  return tuple(whole(role, sizes.get(role, 1)) for role in roles)


def unknown(shape: Shape) -> View:
  """The view of an array of which only the shape is known."""
  return tuple(whole(UNKNOWN, size) for size in shape)


def is_unknown(view: View) -> bool:
  """Whether some axis is not understood."""
  return any(atom.role == UNKNOWN for atom in atoms_of(view))


def sizes_of(view: View) -> Shape:
  """The shape of the traced array."""
  return tuple(math.prod(atom.size for atom in axis) for axis in view)


def atoms_of(view: View) -> Axis:
  """All atoms, from the slowest to the fastest."""
  return tuple(itertools.chain(*view))


def canonical_shape(view: View) -> Shape:
  """Shape (batch, height, width, channels) of the tensor that is seen."""
  sizes = dict.fromkeys(ROLES, 1)
  for atom in atoms_of(view):
    if atom.role in sizes:
      sizes[atom.role] *= atom.size
  return tuple(sizes[role] for role in ROLES)


def joined(atoms: Iterable[Atom]) -> Axis:
  """Atoms of one axis; those that go on where the one before ends are one.

  Examples:
    >>> joined([Atom("C", 2, 4), Atom("C", 4, 1), Atom("H", 1, 1)])
    (Atom(role='C', size=8, step=1),)
  """
  found: list[Atom] = []
  for atom in atoms:
    if atom.size == 1:
      continue
    last = found[-1] if found else None
    if last and last.role == atom.role and last.step == atom.step * atom.size:
      found[-1] = Atom(atom.role, last.size * atom.size, atom.step)
    else:
      found.append(atom)
  return tuple(found)


def reshaped(view: View, sizes: Sequence[int]) -> View | None:
  """The view after a reshape; None where an axis would be cut within a position.

  Examples:
    >>> groups = reshaped(straight((1, 1, 1, 6)), (2, 3))
    >>> groups
    ((Atom(role='C', size=2, step=3),), (Atom(role='C', size=3, step=1),))
  """
  rest = list(atoms_of(view))
  axes: list[Axis] = []
  for size in sizes:
    taken: list[Atom] = []
    while size > 1:
      if not rest:
        return None
      atom = rest.pop(0)
      if size % atom.size == 0:
        taken.append(atom)
        size //= atom.size
      elif atom.size % size == 0:
        inner = atom.size // size
        taken.append(Atom(atom.role, size, atom.step * inner))
        rest.insert(0, Atom(atom.role, inner, atom.step))
        size = 1
      else:
        return None
    axes.append(joined(taken))
  return tuple(axes) if not rest else None


def positions(axes: Iterable[Axis], role: str, size: int) -> np.ndarray | None:
  """Order in which axes go through the positions of a role; None unless all are there, alone."""
  atoms = tuple(itertools.chain(*axes))
  if any(atom.role != role for atom in atoms) or math.prod(a.size for a in atoms) != size:
    return None
  found = np.zeros((), int)
  for atom in atoms:
    found = np.add.outer(found, np.arange(atom.size) * atom.step)
  return found.ravel()


def canonical(values: np.ndarray, view: View, varies: np.ndarray) -> np.ndarray | None:
  """Values over the axes of a view as an array of (height, width, channels), 1 where they are alike.

  Args:
    values: of the view's sizes; their axes of step 0 are alike all along.
    view: of a tensor.
    varies: what to compare positions by: ``values``, or where they come from.

  Returns:
    None where they differ by image or along a stretched axis.
  """
  parts = [[atom.size for atom in axis] for axis in view]
  shape = tuple(itertools.chain(*parts))
  arrays = []
  for array in (values, varies):
    split = [part if n > 1 else [1] * len(part) for n, part in zip(array.shape, parts, strict=True)]
    arrays.append(array.reshape(tuple(itertools.chain(*split))))
  values, varies = arrays
  atoms = atoms_of(view)
  for axis in range(len(shape)):
    first = np.take(varies, [0], axis)
    if varies.shape[axis] > 1 and (
      varies.strides[axis] == 0 or np.array_equal(np.broadcast_to(first, varies.shape), varies)
    ):
      varies, values = first, np.take(values, [0], axis)
  sizes = dict.fromkeys(ROLES, 1)
  for axis, atom in enumerate(atoms):
    if values.shape[axis] > 1:
      if atom.role not in "HWC":
        return None
      sizes[atom.role] = 0  # its whole size is needed
  order = sorted(range(len(atoms)), key=lambda i: (_rank(atoms[i].role), -atoms[i].step))
  full = tuple(
    atoms[i].size if sizes.get(atoms[i].role, 1) == 0 else values.shape[i] for i in order
  )
  spread = np.broadcast_to(np.transpose(values, order), full)
  total = canonical_shape(view)
  return spread.reshape(tuple(total[ROLES.index(r)] if sizes[r] == 0 else 1 for r in "HWC"))


def seen(array: np.ndarray, view: View) -> np.ndarray:
  """A tensor (batch, height, width, channels) as a view shows it.

  Examples:
    >>> x = np.arange(6).reshape(1, 1, 2, 3)
    >>> seen(x, straight(x.shape, "CW")).tolist()
    [[0, 3], [1, 4], [2, 5]]
  """
  atoms = atoms_of(view)
  order = sorted(range(len(atoms)), key=lambda i: (_rank(atoms[i].role), -atoms[i].step))
  split = array.reshape([atoms[i].size for i in order])
  return np.transpose(split, np.argsort(order)).reshape(sizes_of(view))


def _rank(role: str) -> int:
  return ROLES.find(role)
