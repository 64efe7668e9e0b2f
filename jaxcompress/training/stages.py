"""Stages of a run: which paths move in each, what stands still, and the losses that they share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.arguments import shown
from jaxcompress.nn import Endpoints, Graph
from jaxcompress.nn.select import WORDS, Layer, layers_of, listed
from jaxcompress.training.recipe import EVERYTHING, Recipe

Path = tuple[str, ...]


def moving(trainable: Sequence[str], tree: Any, root: str = "") -> Any:
  """Which leaves move: a tree of bools.

  Args:
    trainable: paths, from :func:`paths_of`.
    tree: any pytree.
    root: path of the tree itself.

  Examples:
    >>> tree = {"student": {"stem": 0, "classifier": 0}, "loss": (0,)}
    >>> moving(("student", "!student/classifier"), tree)
    {'loss': (False,), 'student': {'classifier': False, 'stem': True}}
  """
  if tuple(trainable) == EVERYTHING:
    return jax.tree.map(lambda _: True, tree)

  def moves(path, _):
    names = (root,) * bool(root) + tuple(_names(path))
    included = any(_covers(rule, names) for rule in trainable if not rule.startswith("!"))
    return included and not any(_covers(r[1:], names) for r in trainable if r.startswith("!"))

  return jax.tree_util.tree_map_with_path(moves, tree)


def still_norms(trainable: Sequence[str], params: Any, batch_stats: Any) -> frozenset[Path]:
  """Normalizations that run on their running statistics in training, since they are not trained.

  One is trained if its scale or its bias moves; one that has neither, if its place in the tree does.
  So a frozen part of a network computes in training what it computes in evaluation.

  Args:
    trainable: paths, as for :func:`moving`.
    params: the student's parameters.
    batch_stats: its running statistics; their paths are those of the normalizations.

  Returns:
    Paths of modules, each a tuple of names.

  Examples:
    >>> params = {name: {"kernel": 0, "scale": 0, "bias": 0} for name in ("stem", "expand")}
    >>> statistics = {name: {"mean": 0, "var": 0} for name in params}
    >>> still_norms(("student", "!student/stem"), params, statistics)
    frozenset({('stem',)})
  """
  of_params = _by_module(moving(trainable, params, "student"))
  of_stats = _by_module(moving(trainable, batch_stats, "student"))

  def is_trained(path: Path) -> bool:
    own = of_params.get(path, {})
    affine = [own[name] for name in ("scale", "bias") if name in own]
    return any(affine or of_stats[path].values())

  return frozenset(path for path in of_stats if not is_trained(path))


def _by_module(tree: Any) -> dict[Path, dict[str, Any]]:
  """Leaves of a tree of parameters by the path of their module, and by name."""
  found: dict[Path, dict[str, Any]] = {}
  for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
    *path, name = _names(keys)
    found.setdefault(tuple(path), {})[name] = leaf
  return found


def paths_of(
  recipe: Recipe, trained: Mapping[str, Any], graph: Callable[[], Graph]
) -> tuple[tuple[str, ...], ...]:
  """The paths that move in each stage, the main one last: those that were given, and those of kinds.

  Args:
    recipe: what is trained.
    trained: the tree of all that may move.
    graph: makes the student's; called if a kind of layer is given.

  Raises:
    ValueError: if a path is not in the tree, no layer of a kind has parameters, nothing moves in a
      stage, or the student has no graph; and if a term that is to be kept apart is not there.
  """
  terms = trained["loss"]
  for name in recipe.apart:
    if not isinstance(terms, dict) or name not in terms:
      known = ", ".join(terms) if isinstance(terms, dict) else "not a named_chain"
      raise ValueError(f"apart: the loss has no term {name!r}; its terms are {known}.")
  leaves = [tuple(_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(trained)]
  layers = cache(lambda: _trained_layers(leaves, graph))
  stages = []
  for index in range(len(recipe.stages) + 1):
    _, trainable = recipe.stage(index)
    paths = tuple(path for text in trainable for path in _paths(text, index, leaves, layers))
    if leaves and not any(jax.tree.leaves(moving(paths, trained))):
      raise ValueError(
        f"trainable: {shown(trainable)} of stage {index} moves nothing: there are no parameters there,"
        " or all are left out again."
      )
    stages.append(paths)
  return tuple(stages)


def _trained_layers(leaves: Sequence[Path], graph: Callable[[], Graph]) -> dict[str, Layer]:
  """The student's layers that have parameters."""
  owners = {"/".join(names[1:-1]) for names in leaves if names[0] == "student"}
  return {name: layer for name, layer in layers_of(graph()).items() if name in owners}


def _paths(
  text: str, stage: int, leaves: Sequence[Path], layers: Callable[[], dict[str, Layer]]
) -> Iterator[str]:
  """The paths that a string of a recipe means, each with the mark that leaves it out."""
  mark, where = "!" * text.startswith("!"), f"trainable: {text!r} of stage {stage}"
  for one in text.removeprefix("!").split("|"):
    if one in WORDS:
      try:
        found = [name for name, layer in layers().items() if one in layer.kinds]
      except ValueError as error:
        raise ValueError(
          f"{where} is a kind of layer, and the student has no graph to tell it by; give paths, such"
          f" as 'student/head'. {error}"
        ) from error
      if not found:
        raise ValueError(f"{where} is no layer with parameters; {listed(one, layers())}.")
      yield from (f"{mark}student/{name}" for name in found)
      continue
    if one not in EVERYTHING and not any(_covers(one, names) for names in leaves):
      known = {"/".join(names[:depth]) for names in leaves for depth in (1, 2)}
      near = listed(one, {path: Layer((path,)) for path in sorted(known)})
      raise ValueError(f"{where} is no path of the trained tree or kind of layer; {near}.")
    yield f"{mark}{one}"


def check_optimizers(recipe: Recipe, trained: Any) -> None:
  """Checks that the optimizers of all stages keep states of one form, as checkpoints need it.

  Raises:
    ValueError: if one does not.
  """
  form = _form(jax.eval_shape(recipe.optimizer.init, trained))
  for index, stage in enumerate(recipe.stages):
    if stage.optimizer is None:
      continue
    if _form(jax.eval_shape(stage.optimizer.init, trained)) != form:
      raise ValueError(
        f"stages: the optimizer of stage {index} keeps another state than the recipe's; build both"
        " alike, with other rates."
      )


def init_losses(
  recipe: Recipe, rng: jax.Array, student: Endpoints, teachers: tuple[Endpoints, ...], batch: Any
) -> tuple[Any, Any]:
  """Parameters and state of the losses of all stages; terms of one name share theirs.

  Raises:
    ValueError: if there are stages and a loss is no named chain, or a name means different things.
  """
  if not recipe.stages:
    return recipe.loss.init(rng, student, teachers, batch)
  merged: tuple[dict, dict] = {}, {}
  for index in reversed(range(len(recipe.stages) + 1)):
    loss, _ = recipe.stage(index)
    made = loss.init(jax.random.fold_in(rng, index), student, teachers, batch)
    for all_terms, terms in zip(merged, made, strict=True):
      if not isinstance(terms, dict):
        raise ValueError(
          f"stages: the loss of stage {index} is no named_chain; write named_chain(name=loss), so"
          " that stages share terms by name."
        )
      for name, term in terms.items():
        if name in all_terms and _form(all_terms[name]) != _form(term):
          raise ValueError(
            f"stages: the term {name!r} of stage {index} has other parameters or another state than"
            " in a later stage; give it another name."
          )
        all_terms.setdefault(name, term)
  return merged


def hold(moves: Any, tree: Any) -> Any:
  """Stops the gradient of what does not move."""
  return jax.tree.map(lambda m, x: x if m else jax.lax.stop_gradient(x), moves, tree)


def moved(moves: Any, new: Any, old: Any) -> Any:
  """Takes the new leaf where it moves, else the very old one."""
  return jax.tree.map(lambda m, a, b: a if m else b, moves, new, old)


def _names(path: tuple[Any, ...]) -> list[str]:
  return [jax.tree_util.keystr((key,), simple=True) for key in path]


def _covers(rule: str, names: tuple[str, ...]) -> bool:
  parts = rule.split("/")
  return len(parts) <= len(names) and all(
    part in ("*", name) for part, name in zip(parts, names, strict=False)
  )


def _form(tree: Any) -> Any:
  leaves, structure = jax.tree.flatten(tree)
  return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
