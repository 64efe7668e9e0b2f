"""The state before the first step."""

from collections.abc import Mapping
from functools import partial
from numbers import Number
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress import ops, prune
from jaxcompress.arguments import check_batch, check_type, shown
from jaxcompress.distill.adapters import Function, NnxTeacher, own_variables
from jaxcompress.distill.labels import check_classes
from jaxcompress.nn import Endpoints, Softmax, init_variables
from jaxcompress.nn.graph import parameters
from jaxcompress.nn.outputs import as_endpoints
from jaxcompress.nn.select import on_network
from jaxcompress.nn.tracing import intercept, is_leaf_call, module_path
from jaxcompress.nn.variables import blames
from jaxcompress.ops.dispatch import XLA_ONLY
from jaxcompress.prune.importance import check_slimming
from jaxcompress.quantize import Quantizer
from jaxcompress.quantize.sites import QuantVariables
from jaxcompress.quantize.transforms import graph_of, transform
from jaxcompress.training.frozen import frozen_norms
from jaxcompress.training.networks import (
  CachedTeacher,
  run_teachers,
  split_labels,
  to_network_input,
  with_pixels,
)
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.stages import check_optimizers, init_losses, moving, paths_of
from jaxcompress.training.state import CompressState, trained_tree

FIRST = 64  # examples that are looked at, on one device
FOLLOWS = object()  # stands for the variables of a mean teacher that starts as the student


def init_state(
  recipe: Recipe,
  rng: jax.Array,
  batch: Mapping[str, Any],
  *,
  teacher_variables: tuple[Any, ...] = (),
  student_variables: Mapping[str, Any] | None = None,
) -> CompressState:
  """Makes the state before the first step.

  Args:
    recipe: what is trained.
    rng: a key from ``jax.random.key``.
    batch: ``{"image": (batch, height, width, channels), "label": (batch,) int32 or (batch, classes)
      float, "index": (batch,) int32}``; any batch, of any size: steps may have
      another, with memory banks too. Labels are checked in all of it; what
      depends on images sees the first 64, which alone are placed on a device.
    teacher_variables: variables of each of the recipe's teachers, in order, as its ``apply`` takes
      them. None for one that brings its own: an NNX module, which may also be given an ``nnx.State``,
      a :class:`~jaxcompress.training.CachedTeacher`, and a mean teacher, which starts as the student;
      nothing at all if all do.
    student_variables: where the student starts; by default freshly initialised.

  Returns:
    A :class:`CompressState`.

  Raises:
    ValueError: if an argument is of another kind, the number of teachers differs, the batch has no
      images, variables are those of another network, the loss does not fit the networks, the labels,
      or the places in the training set, or the optimizer prunes what no stage trains, or what would
      not stay zero when it is quantized.

  Examples:
    >>> import optax
    >>> from jaxcompress import models
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> int(init_state(recipe, jax.random.key(0), batch).step)
    0
  """
  check_type("recipe", recipe, Recipe, "a training.Recipe")
  check_batch(batch)
  wanted = "a tuple with the variables of each teacher; write (variables,)"
  check_type("teacher_variables", teacher_variables, tuple, wanted)
  taught = _of_teachers(recipe, teacher_variables)
  for index in range(len(recipe.stages) + 1):
    recipe.stage(index)[0].check(batch)

  shape = jax.eval_shape(lambda x: to_network_input(recipe.preprocess, x), batch["image"]).shape[1:]
  model_key, build_key = jax.random.split(_key(rng))
  if student_variables is None:
    variables = init_variables(recipe.student, model_key, tuple(shape))
  else:
    check_type("student_variables", student_variables, Mapping, "a dict with 'params', or None")
    variables = _copy(dict(student_variables))
  variables = {"params": {}, "batch_stats": {}, **variables}
  teacher_variables = tuple(variables if own is FOLLOWS else own for own in taught)
  quantizer, loss_params, loss_state, opt_state, key, classes = _build(
    recipe, build_key, _first(batch), teacher_variables, variables
  )
  if not isinstance(classes, jax.core.Tracer):
    _check_labels(recipe, build_key, batch, int(classes))
  trained = trained_tree(variables["params"], quantizer, loss_params)
  trainable = paths_of(recipe, trained, lambda: graph_of(recipe.student, variables, tuple(shape)))
  _check_zeros_stay(recipe, opt_state)
  _check_pruned_layers_move(trainable, opt_state, variables["params"])
  check_slimming(opt_state)
  variables["params"] = prune.apply_masks(opt_state, variables["params"])
  of_student = {name: variables[name] for name in ("params", "batch_stats")}
  state = CompressState(
    recipe=recipe,
    image_shape=tuple(shape),
    stage=0,
    trainable=trainable,
    **of_student,
    ema=() if recipe.ema is None else _copy(of_student),
    quantizer=quantizer,
    loss_params=loss_params,
    loss_state=loss_state,
    opt_state=opt_state,
    teachers=_copy(teacher_variables),
    rng=key,
    step=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
  )
  if isinstance(recipe.freeze_norm_step, Mapping):
    frozen_norms(state)  # it raises for what it does not find
  return _in_one_place(state)


def _in_one_place(state: CompressState) -> CompressState:
  """The state with all arrays bound to a device, where some are, such as variables that Orbax restored.

  The first step would bind the others, and the second one would be compiled again for it.
  """
  arrays = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
  if any(isinstance(leaf, jax.core.Tracer) for leaf in arrays):
    return state
  bound = {leaf.sharding for leaf in arrays if leaf.committed}
  place = next(iter(bound), None)
  if len(bound) != 1 or not isinstance(place, jax.sharding.SingleDeviceSharding):
    return state
  return jax.device_put(state, place)


def _first(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The examples that a state is made from."""
  return jax.tree.map(lambda x: x[:FIRST] if np.ndim(x) else x, dict(batch))


def _of_teachers(recipe: Recipe, given: tuple[Any, ...]) -> tuple[Any, ...]:
  """Variables of each teacher, checked; ``FOLLOWS`` stands for the student's."""
  count = len(recipe.teachers)
  last = FOLLOWS if recipe.mean_teacher is not None else None
  owns = [
    {} if isinstance(teacher, CachedTeacher) else own_variables(teacher)
    for teacher in recipe.teachers
  ]
  owns = [*owns[:-1], last or owns[-1]] if owns else owns
  every = given
  if (not given and None not in owns) or (last is FOLLOWS and len(given) == count - 1):
    every = (*given, *(None,) * (count - len(given)))
  if len(every) != count:
    raise ValueError(
      f"teacher_variables: {len(given)} given for {count} teachers; pass a tuple with the variables of"
      " each."
    )
  return tuple(
    own if some is None and own is not None else _checked(i, teacher, some)
    for i, (teacher, own, some) in enumerate(zip(recipe.teachers, owns, every, strict=True))
  )


def _checked(i: int, teacher: Any, given: Any) -> Any:
  """The variables that were given for a teacher, in the form that it reads."""
  argument = f"teacher_variables[{i}]"
  if given is None and isinstance(teacher, Function):
    raise ValueError(f"{argument} must be what the function reads, such as {{}}, got None.")
  if not isinstance(teacher, Function):
    wanted = "a dict with 'params', such as state.averaged.variables; {} for a CachedTeacher"
    check_type(argument, given, Mapping, wanted)
  if isinstance(teacher, NnxTeacher):
    try:
      return teacher.variables_of(given)
    except ValueError as error:
      raise ValueError(f"{argument}: {error}; give those of the recipe's own.") from error
  for path, leaf in jax.tree_util.tree_leaves_with_path(given):
    if not hasattr(leaf, "dtype") and (isinstance(leaf, bool) or not isinstance(leaf, Number)):
      raise ValueError(
        f"{argument}: {jax.tree_util.keystr(path)} is {shown(leaf)}, which is no array; give arrays"
        " alone, such as eqx.partition(model, eqx.is_array)[0] of an Equinox module."
      )
  return given


def _key(rng: Any) -> jax.Array:
  """A key from ``jax.random.key``; those of the older ``PRNGKey`` are made one."""
  kind, shape = getattr(rng, "dtype", None), jnp.shape(rng)
  if kind is not None and jax.dtypes.issubdtype(kind, jax.dtypes.prng_key) and shape == ():
    return rng
  if kind == jnp.uint32 and shape == (2,):
    return jax.random.wrap_key_data(rng, impl="threefry2x32")
  raise ValueError(f"rng must be a key, such as jax.random.key(0), got {shown(rng)}.")


def _check_labels(recipe: Recipe, rng: jax.Array, batch: Mapping[str, Any], classes: int) -> None:
  """Raises if a label is of no class of the student's, even after the recipe's ``augment``."""
  checks = [recipe.stage(index)[0].check for index in range(len(recipe.stages) + 1)]
  try:
    for check in checks:
      check_classes(check, batch, classes)
  except ValueError:
    if recipe.augment is not None:  # it may give labels of its own
      augmented = recipe.augment(rng, split_labels(_first(batch)))
      for check in checks:
        check(augmented)
        check_classes(check, augmented, classes)
    else:
      raise


def _check_zeros_stay(recipe: Recipe, opt_state: Any) -> None:
  """Raises if the weights' quantizer has no zero for weights that are pruned."""
  if recipe.quantize is None or not prune.masks_of(opt_state):
    return
  rules = (rule.weights for rule in recipe.quantize.rules)
  for quantizer in (recipe.quantize.weights, *rules):
    if not isinstance(quantizer, Quantizer):
      continue
    probe = jnp.array([[1.0, -1.0], [0.0, 0.0], [0.5, -0.25]])
    rounded, _ = quantizer.apply(*quantizer.init(probe), probe, train=False)
    if bool(jnp.any(rounded[1] != 0)):
      raise ValueError(
        f"quantize: weights with levels {quantizer.levels.low} to {quantizer.levels.high} have no"
        " zero here, and pruned weights would not stay zero; use one that has, such as absmax, lsq or"
        " twn, or do not prune."
      )


def _check_pruned_layers_move(
  trainable: tuple[tuple[str, ...], ...], opt_state: Any, params: Any
) -> None:
  """Raises if a layer is pruned that stands still from the first stage to the last."""
  moves = [moving(paths, params, "student") for paths in trainable]
  for name in prune.masks_of(opt_state):
    if not any(parameters(tree, name)["kernel"] for tree in moves):
      raise ValueError(
        f"optimizer: it prunes {name!r}, which no stage trains, so that it would keep its weights;"
        " train it too, or keep it with a prune.Rule."
      )


@partial(jax.jit, static_argnums=0)
def _build(
  recipe: Recipe, rng: jax.Array, batch: Any, teacher_variables: Any, variables: Any
) -> Any:
  """Makes all that a recipe adds to the networks' variables; compiled once for all seeds."""
  loss_key, run_key = jax.random.split(rng)
  pixels = batch["image"]
  images = to_network_input(recipe.preprocess, pixels)
  batch = {**split_labels(batch), "image": images}
  with ops.formulations(**XLA_ONLY._asdict()):  # losses read shapes, rarely values
    with blames("student_variables"):
      student = _endpoints(recipe.student, variables, images)
    classes = 0 if student.logits is None else student.logits.shape[-1]
    seen = with_pixels(recipe.teachers, batch, pixels)
    teachers = run_teachers(recipe.teachers, teacher_variables, seen, recipe.augment)
  loss_params, loss_state = init_losses(recipe, loss_key, student, teachers, batch)
  quantizer = QuantVariables({}, {})
  if recipe.quantize is not None:
    quantizer = transform(recipe.student, recipe.quantize).init(rng, variables, images)
  trained = trained_tree(variables["params"], quantizer, loss_params)
  with on_network(lambda: graph_of(recipe.student, variables, images.shape[1:])):
    opt_state = recipe.optimizer_of(0).init(trained)
    check_optimizers(recipe, trained)
  return quantizer, loss_params, loss_state, opt_state, run_key, classes


def _endpoints(student: Any, variables: Any, images: jax.Array) -> Endpoints:
  """Returns the student's outputs; raises if its logits are probabilities, which losses would misread."""
  made = []

  def remember(next_fun, args, kwargs, context):
    result = next_fun(*args, **kwargs)
    if isinstance(context.module, Softmax) and is_leaf_call(context):
      made.append((module_path(context.module), result))
    return result

  with intercept(remember):
    endpoints = as_endpoints(student.apply(variables, images, train=False))
  for name, probabilities in made:
    if endpoints.logits is probabilities:
      raise ValueError(
        f"student: its logits are the probabilities of layer {name!r}, of which losses would take the"
        " softmax once more; return what is before it, as Endpoints(logits,"
        " outputs={'probabilities': probabilities}), or as logits alone."
      )
  return endpoints


@jax.jit
def _copy(tree: Any) -> Any:
  """Arrays of our own: the step donates them, and the caller may still need the given ones."""
  return jax.tree.map(jnp.copy, tree)
