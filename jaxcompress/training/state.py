"""Everything that changes during a run, as one pytree."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxcompress import ops, prune
from jaxcompress.nn import Endpoints, Graph, init_variables, trace
from jaxcompress.quantize import (
  QuantizedModel,
  Quantizer,
  QuantVariables,
  Sites,
  deploy,
  find_sites,
  init_quantizers,
  trained_codes,
)
from jaxcompress.training.cached import CachedTeacher
from jaxcompress.training.labels import split_labels
from jaxcompress.training.mesh import Placement
from jaxcompress.training.recipe import Recipe
from jaxcompress.training.stages import check_optimizers, check_paths, init_losses


@flax.struct.dataclass
class CompressState:
  """The state of a run; the recipe is its static part.

  Attributes:
    recipe: static.
    image_shape: (height, width, channels) of the images that the student reads; static.
    stage: place in the recipe's stages, or their number in the main stage; static, so that each
      stage is a program of its own.
    params: the student's parameters.
    batch_stats: the student's running statistics.
    ema: moving average of both, as ``variables``; ``()`` where the recipe asks for none.
    quantizer: the quantizers' variables.
    loss_params: what the loss trains, such as embeddings.
    loss_state: what the loss carries along, such as memory banks.
    opt_state: the optimizer's state.
    teachers: the teachers' variables.
    rng: key; each step folds its number in, so that a restart repeats it.
    step: updates applied so far, int32 scalar.
    skipped: batches that were left out because the loss or a gradient was not finite.
    placement: how the arrays lie on a mesh, set by :func:`~jaxcompress.training.shard`; static.
  """

  recipe: Recipe = flax.struct.field(pytree_node=False)
  image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
  stage: int = flax.struct.field(pytree_node=False)
  params: Any
  batch_stats: Any
  ema: Any
  quantizer: QuantVariables
  loss_params: Any
  loss_state: Any
  opt_state: Any
  teachers: tuple[Any, ...]
  rng: jax.Array
  step: jax.Array
  skipped: jax.Array
  placement: Placement | None = flax.struct.field(pytree_node=False, default=None)

  if TYPE_CHECKING:  # made by flax.struct.dataclass

    def replace(self, **changes: Any) -> "CompressState": ...

  @property
  def variables(self) -> dict[str, Any]:
    """The student's variables after the last update, for ``student.apply``."""
    return {"params": self.params, "batch_stats": self.batch_stats}

  @property
  def averaged(self) -> "CompressState":
    """The state with the student's moving average in place of its latest variables.

    What is evaluated and deployed; the quantizers' variables are the latest ones. Without an
    average it is the state itself.
    """
    if self.recipe.ema is None:
      return self
    return self.replace(params=self.ema["params"], batch_stats=self.ema["batch_stats"])

  @property
  def trained(self) -> dict[str, Any]:
    """The tree that the optimizer sees."""
    return trained_tree(self.params, self.quantizer, self.loss_params)

  @property
  def position(self) -> jax.Array:
    """Batches consumed so far: applied and skipped ones."""
    return self.step + self.skipped

  def graph(self) -> Graph:
    """The student's traced graph for one image."""
    return student_graph(self.recipe, self.variables, self.image_shape)

  def quantized(self) -> QuantizedModel:
    """The integers, scales and ranges that a device runs, of the moving average if there is one.

    Returns:
      A :class:`~jaxcompress.quantize.QuantizedModel`; called on images it evaluates exactly what
      the exported file computes.

    Raises:
      ValueError: if the recipe does not quantize, or no quantized step was taken yet.
    """
    plan = self.recipe.quantize
    if plan is None:
      raise ValueError(
        "quantize: the recipe has none; give it quantize=jaxcompress.quantize.int8()."
      )
    if int(self.step) <= plan.start_step:
      raise ValueError(
        f"start_step: {plan.start_step} was not passed yet (step {int(self.step)}), so there are no"
        " activation ranges; take at least one quantized step."
      )
    sites = find_sites(self.graph())
    student = self.averaged
    codes = trained_codes(plan, sites, self.quantizer, student.params)
    codes, variables = jax.device_get((codes, student.variables))
    return deploy(plan, sites, codes, variables, preprocess=self.recipe.preprocess)


def trained_tree(params: Any, quantizer: QuantVariables, loss_params: Any) -> dict[str, Any]:
  """The three kinds of trained parameters as one tree."""
  return {"student": params, "quantizer": quantizer.params, "loss": loss_params}


def student_graph(recipe: Recipe, variables: Any, image_shape: tuple[int, ...]) -> Graph:
  """The student's graph for one float32 image; only shapes of the variables are read."""
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), variables)
  return trace(recipe.student, abstract, image)


def sites_of(recipe: Recipe, variables: Any, image_shape: tuple[int, ...]) -> Sites:
  """Where the student is quantized."""
  return find_sites(student_graph(recipe, variables, image_shape))


def to_network_input(recipe: Recipe, images: jax.Array) -> jax.Array:
  """Images as the networks read them."""
  if recipe.preprocess is not None:
    return recipe.preprocess(images)
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"batch: images are {images.dtype} and the recipe has no preprocess; give it one, or pass"
      " float images."
    )
  return images


def init_state(
  recipe: Recipe,
  rng: jax.Array,
  batch: Mapping[str, Any],
  *,
  teacher_variables: tuple[Any, ...] = (),
  student_variables: Mapping[str, Any] | None = None,
) -> CompressState:
  """The state before the first step.

  Args:
    recipe: what is trained.
    rng: a key from ``jax.random.key``.
    batch: ``{"image": (batch, height, width, channels), "label": (batch,) int32 or (batch, classes)
      float, "index": (batch,) int32}``; any batch of the right shapes.
    teacher_variables: variables of each of the recipe's teachers, in order; a mean teacher's may be
      left out, and it starts as the student.
    student_variables: where the student starts; by default freshly initialised.

  Returns:
    A :class:`CompressState`.

  Raises:
    ValueError: if the number of teachers differs, the batch lacks images, or the loss does not fit
      the networks and the labels.

  Examples:
    >>> import optax
    >>> from jaxcompress import models
    >>> recipe = Recipe(student=models.resnet8(10), optimizer=optax.sgd(0.1))
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> int(init_state(recipe, jax.random.key(0), batch).step)
    0
  """
  followers = 1 if recipe.mean_teacher is not None else 0
  if len(recipe.teachers) - len(teacher_variables) not in (0, followers):
    raise ValueError(
      f"teacher_variables: {len(teacher_variables)} given for {len(recipe.teachers)} teachers;"
      " pass a tuple with the variables of each."
    )
  if "image" not in batch:
    raise ValueError(f"batch: it has {', '.join(batch)}, but no 'image'.")

  shape = jax.eval_shape(lambda x: to_network_input(recipe, x), batch["image"]).shape[1:]
  model_key, build_key = jax.random.split(rng)
  if student_variables is None:
    variables = init_variables(recipe.student, model_key, tuple(shape))
  else:
    variables = _copy(dict(student_variables))
  if len(teacher_variables) < len(recipe.teachers):
    teacher_variables = (*teacher_variables, variables)
  quantizer, loss_params, loss_state, opt_state, key = _build(
    recipe, build_key, dict(batch), teacher_variables, variables
  )
  _check_zeros_stay(recipe, opt_state)
  variables = {**variables, "params": prune.apply_masks(opt_state, variables["params"])}
  return CompressState(
    recipe=recipe,
    image_shape=tuple(shape),
    stage=0,
    params=variables["params"],
    batch_stats=variables.get("batch_stats", {}),
    ema=()
    if recipe.ema is None
    else _copy({"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}),
    quantizer=quantizer,
    loss_params=loss_params,
    loss_state=loss_state,
    opt_state=opt_state,
    teachers=_copy(tuple(teacher_variables)),
    rng=key,
    step=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
  )


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


@partial(jax.jit, static_argnums=0)
def _build(
  recipe: Recipe, rng: jax.Array, batch: Any, teacher_variables: Any, variables: Any
) -> Any:
  """What a recipe adds to the networks' variables; compiled once for all seeds."""
  loss_key, run_key = jax.random.split(rng)
  images = to_network_input(recipe, batch["image"])
  batch = {**split_labels(batch), "image": images}
  with ops.formulations(**ops.XLA_ONLY._asdict()):  # losses read shapes, rarely values
    student = as_endpoints(recipe.student.apply(variables, images, train=False))
    teachers = run_teachers(recipe, teacher_variables, batch)
  loss_params, loss_state = init_losses(recipe, loss_key, student, teachers, batch)
  quantizer = QuantVariables({}, {})
  if recipe.quantize is not None:
    sites = sites_of(recipe, variables, images.shape[1:])
    quantizer = init_quantizers(recipe.quantize, sites, variables["params"])
  trained = trained_tree(variables["params"], quantizer, loss_params)
  check_paths(recipe, trained)
  opt_state = recipe.optimizer_of(0).init(trained)
  check_optimizers(recipe, trained)
  return quantizer, loss_params, loss_state, opt_state, run_key


def at_stage(state: CompressState, position: int) -> CompressState:
  """The state in the stage of a position; the optimizer starts anew where the stage does.

  Args:
    state: a state of that position, in its stage or, fresh from a checkpoint, in any.
    position: batches consumed.

  Returns:
    The state itself if it is in that stage.

  Examples:
    >>> import optax
    >>> from jaxcompress import distill, models
    >>> from jaxcompress.training import Stage
    >>> loss = distill.named_chain(labels=distill.cross_entropy())
    >>> options = {"optimizer": optax.sgd(0.1), "loss": loss}
    >>> first = Stage(loss, ("student/classifier",), steps=5)
    >>> recipe = Recipe(student=models.resnet8(10), stages=(first,), **options)
    >>> batch = {"image": jnp.zeros((2, 8, 8, 3)), "label": jnp.zeros(2, int)}
    >>> state = init_state(recipe, jax.random.key(0), batch)
    >>> at_stage(state, 4) is state, at_stage(state, 5).stage
    (True, 1)
  """
  index = state.recipe.stage_at(position)
  if index == state.stage:
    return state
  if state.recipe.starts_stage(position):
    fresh = _start_optimizer(state.recipe, index, state.placement, state.trained)
    state = state.replace(opt_state=prune.keep_masks(state.opt_state, fresh))
  return state.replace(stage=index)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _start_optimizer(recipe: Recipe, stage: int, placement: Placement | None, trained: Any) -> Any:
  fresh = recipe.optimizer_of(stage).init(trained)
  if placement is None:
    return fresh
  whole = NamedSharding(placement.mesh, PartitionSpec())  # zeros would lie on one device alone
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), fresh)


@jax.jit
def _copy(tree: Any) -> Any:
  """Arrays of our own: the step donates them, and the caller may still need the given ones."""
  return jax.tree.map(jnp.copy, tree)


def run_teachers(
  recipe: Recipe, variables: tuple[Any, ...], batch: Mapping[str, jax.Array]
) -> tuple[Endpoints, ...]:
  """What the teachers say to a batch; a :class:`CachedTeacher` has said it before."""
  return tuple(
    teacher.from_batch(batch)
    if isinstance(teacher, CachedTeacher)
    else as_endpoints(teacher.apply(own, batch["image"], train=False))
    for teacher, own in zip(recipe.teachers, variables, strict=True)
  )


def as_endpoints(output: Any) -> Endpoints:
  """A model's output as :class:`~jaxcompress.nn.Endpoints`; bare logits are wrapped."""
  return output if isinstance(output, Endpoints) else Endpoints(logits=output)
