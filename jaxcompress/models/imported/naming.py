"""Names of layers: the paths of their weights in the user's variables."""

import collections
import re
from collections.abc import Mapping, Sequence, Set

from jaxcompress.models.imported.units import Unit
from jaxcompress.models.imported.values import Op
from jaxcompress.nn import INPUT

COLLECTIONS = frozenset(["params", "batch_stats", "state", "model_state", "constants"])
WRAPPERS = frozenset(["value", "raw_value", "array"])  # below the name of an array
SHORT = {
  "Activation": "act",
  "GlobalAvgPool": "pool",
  "MaxPool": "max_pool",
  "AvgPool": "avg_pool",
  "ChannelShuffle": "shuffle",
}


def clean(path: str) -> tuple[str, ...]:
  """The parts of a leaf's path, without collections and signs that names do not have.

  Examples:
    >>> clean("params/block0/conv1/kernel"), clean("resnet/~/initial_conv/w")
    (('block0', 'conv1', 'kernel'), ('resnet', 'initial_conv', 'w'))
  """
  parts = [re.sub(r"[^\w\-]+", "_", part).strip("_") for part in path.split("/")]
  parts = [part for part in parts if part]
  while len(parts) > 1 and parts[-1] in WRAPPERS:
    parts.pop()
  if len(parts) > 1 and parts[0] in COLLECTIONS:
    parts.pop(0)
  return tuple(parts)


def module_of(path: str, tupled: bool = False) -> tuple[str, ...]:
  """The parts of the module that holds a leaf; of a leaf that is held by none, its own."""
  parts = clean(path)
  if tupled and len(parts) > 1 and parts[0].isdigit():
    parts = parts[1:]
  return parts[:-1] or parts


def is_tupled(paths: Sequence[str]) -> bool:
  """Whether variables are a tuple, as of parameters and state, whose places are no names."""
  return all(clean(path)[:1] and clean(path)[0].isdigit() for path in paths)


def layer_names(units: Sequence[Unit], paths: Sequence[str]) -> dict[int, str]:
  """A name for each unit, by its identity.

  Args:
    units: in order.
    paths: of all leaves of the user's variables.
  """
  tupled = is_tupled(paths)
  modules = {id(unit): module_of(unit.path, tupled) for unit in units if unit.path}
  counts = collections.Counter(modules.values())
  roots = {module[0] for module in modules.values()}
  taken: set[str] = {INPUT}
  scopes: set[str] = set()
  for module in modules.values():  # a layer must not be called as the scope of another
    scopes.update(_scopes_of("/".join(module)))
  names: dict[int, str] = {}
  written: dict[Op, str] = {}
  for unit in units:
    if unit.path:
      module = modules[id(unit)]
      parts = clean(unit.path)
      leaf = parts[-1:] if parts[-1:] != module[-1:] else ()
      several = (
        counts[module] > 1 and len({u.path for u in units if modules.get(id(u)) == module}) > 1
      )
      base = "/".join(module + leaf if several or "/".join(module) in scopes else module)
    else:
      base = _beside(unit, written, roots)
    names[id(unit)] = name = _free(base, taken, scopes)
    taken.add(name)
    scopes.update(_scopes_of(name))
    written.update(dict.fromkeys(unit.outputs, name))
  return names


def _beside(unit: Unit, written: Mapping[Op, str], roots: Set[str]) -> str:
  """The name of a layer without weights: in the scope that it stands in."""
  read = [written[op].split("/") for op in unit.inputs if op in written]
  kind = unit.fields["act"] if unit.op == "Activation" else SHORT.get(unit.op, unit.op.lower())
  scope = [part for part in unit.origin.module.split("/") if part.strip("~")]
  scope = scope if scope[:1] and scope[0] in roots else scope[1:]
  if not unit.origin.module and read:
    scope = read[0][:-1]
    for other in read[1:]:
      while scope != other[: len(scope)]:
        scope = scope[:-1]
  if unit.op == "Activation" and read and read[0][:-1] == scope:
    kind = f"{read[0][-1]}_{kind}"
  return "/".join([*(part for part in (re.sub(r"[^\w\-]+", "_", p) for p in scope) if part), kind])


def _free(base: str, layers: set[str], scopes: set[str]) -> str:
  """A name that no layer has, that is no scope of other layers, and whose scopes are no layers."""
  if any(scope in layers for scope in _scopes_of(base)):
    base = base.replace("/", "_")
  name, count = base, 1
  while name in layers or name in scopes:
    count += 1
    name = f"{base}_{count}"
  return name


def _scopes_of(name: str) -> list[str]:
  parts = name.split("/")
  return ["/".join(parts[:end]) for end in range(1, len(parts))]
