"""Everything that changes during a run, as one pytree."""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcompress.nn import Graph
from jaxcompress.nn.select import on_network
from jaxcompress.prune.masked import goals_of, keep_masks
from jaxcompress.quantize import QuantizedModel
from jaxcompress.quantize.sites import QuantVariables
from jaxcompress.quantize.transforms import graph_of, transform
from jaxcompress.training.recipe import Recipe


class Placement(NamedTuple):
  """Placement of a run on devices; the static part of a sharded state.

  Attributes:
    mesh: the devices; batches and memory banks are split over all its axes.
    shard_teachers: whether the teachers' kernels are split too.
  """

  mesh: Mesh
  shard_teachers: bool = False


@flax.struct.dataclass
class CompressState:
  """The state of a run; the recipe is its static part.

  Attributes:
    recipe: static.
    image_shape: (height, width, channels) of the images that the student reads; static.
    stage: place in the recipe's stages, or their number in the main stage; static, so that each
      stage is a program of its own.
    trainable: paths that move in each stage, the main one last, where the recipe may say kinds of
      layers; static.
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
    skipped: batches that were left out because the loss, a gradient or the update was not finite.
    placement: how the arrays lie on a mesh, set by :func:`~jaxcompress.training.shard`; static.
  """

  recipe: Recipe = flax.struct.field(pytree_node=False)
  image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
  stage: int = flax.struct.field(pytree_node=False)
  trainable: tuple[tuple[str, ...], ...] = flax.struct.field(pytree_node=False)
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

  def __repr__(self) -> str:
    facts = (
      f"step={_told(self.step)}",
      f"skipped={_told(self.skipped)}",
      *((f"stage={self.stage}",) if self.recipe.stages else ()),
      f"{type(self.recipe.student).__name__} of {_numbers(self.params):,} parameters",
      f"{len(self.teachers)} teachers",
      "x".join(map(str, self.image_shape)),
    )
    return f"CompressState({', '.join(facts)})"

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
    return graph_of(self.recipe.student, self.variables, self.image_shape)

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
        "quantize: the recipe has no quantization; give it quantize=jaxcompress.quantize.int8()."
      )
    if int(self.step) <= plan.start_step:
      raise ValueError(
        f"start_step: {plan.start_step} was not passed yet (step {int(self.step)}), so there are no"
        " activation ranges; take at least one quantized step."
      )
    image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
    return transform(self.recipe.student, plan).convert(
      *self.quantizer, self.averaged.variables, image, preprocess=self.recipe.preprocess
    )


def _told(count: Any) -> str:
  """A count as a person reads it, or its type where it has no value: traced, abstract, or gone."""
  if isinstance(count, jax.core.Tracer | jax.ShapeDtypeStruct):
    return "traced"
  if isinstance(count, jax.Array) and count.is_deleted():
    return "donated"
  return str(np.asarray(count))


def _numbers(tree: Any) -> int:
  """Numbers in a tree's arrays."""
  return sum(getattr(leaf, "size", 0) for leaf in jax.tree.leaves(tree))


def trained_tree(params: Any, quantizer: QuantVariables, loss_params: Any) -> dict[str, Any]:
  """The three kinds of trained parameters as one tree."""
  return {"student": params, "quantizer": quantizer.params, "loss": loss_params}


def parted(state: CompressState) -> tuple[CompressState, tuple[Any, ...]]:
  """A state without the variables of teachers that stand still, and those: all but a mean teacher's."""
  count = len(state.teachers) - (state.recipe.mean_teacher is not None)
  still = state.teachers[: max(count, 0)]
  return state.replace(teachers=(*((),) * len(still), *state.teachers[len(still) :])), still


def rejoined(state: CompressState, still: tuple[Any, ...]) -> CompressState:
  """Undoes :func:`parted`, with a copy of the teachers: steps may take the state's arrays."""
  where = jax.tree.map(lambda x: x.sharding, still)
  copies = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=where)(still)
  return state.replace(teachers=(*copies, *state.teachers[len(still) :]))


def at_stage(state: CompressState, position: int) -> CompressState:
  """Returns the state in the stage of a position; the optimizer starts anew where the stage does.

  Args:
    state: a state of that position, in its stage or, fresh from a checkpoint, in any.
    position: batches consumed.

  Returns:
    The state itself if it is in that stage.

  Examples:
    >>> import optax
    >>> from jaxcompress import distill, models
    >>> from jaxcompress.training import Stage, init_state
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
    fresh = fresh_optimizer(state, index)
    state = state.replace(opt_state=keep_masks(state.opt_state, fresh))
  return state.replace(stage=index)


def in_stage(state: CompressState) -> CompressState:
  """The state in the stage of its own position, which is read only before the main stage.

  Raises:
    ValueError: if the position cannot be read, since the state is traced.
  """
  if state.stage == len(state.recipe.stages):
    return state
  if isinstance(state.step, jax.core.Tracer):
    raise ValueError(
      "state: a recipe with stages chooses its stage by the position, which cannot be read inside"
      " jit, scan or vmap; call the step outside, or call distill_step.program with a state from"
      " training.at_stage."
    )
  return at_stage(state, int(state.position))


@partial(jax.jit, static_argnums=1)
def fresh_optimizer(state: CompressState, stage: int) -> Any:
  """The optimizer's state at the start of a stage."""
  with on_network(state.graph):
    fresh = state.recipe.optimizer_of(stage).init(state.trained)
  if state.placement is None:
    return fresh
  whole = NamedSharding(
    state.placement.mesh, PartitionSpec()
  )  # zeros would lie on one device alone
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), fresh)


def check_goals(state: CompressState, restored: CompressState, where: str) -> None:
  """Checks that a restored state is pruned to what the recipe asks for.

  Args:
    state: of the recipe, in its first stage.
    restored: what a checkpoint made of it; a stage that it has just ended counts as its own.
    where: of the checkpoint.

  Raises:
    ValueError: if its goal is another one, such as another sparsity.
  """
  found = goals_of(restored.opt_state)
  position, differing = int(restored.position), None
  stages = {state.recipe.stage_at(max(position - 1, 0)), state.recipe.stage_at(position)}
  for stage in sorted(stages) if found else ():
    fresh = state.opt_state if stage == state.stage else fresh_optimizer(state, stage)
    pairs = zip(found, goals_of(fresh), strict=True)
    others = [(a, b[1]) for a, b in pairs if not np.array_equal(a[1], b[1])]
    if not others:
      return
    differing = others[0]
  if differing is not None:
    (name, stored), wanted = differing
    raise ValueError(
      f"checkpoint: {where} was pruned to another goal than the recipe's: {name} is"
      f" {np.asarray(stored).item():g} there and {np.asarray(wanted).item():g} in the recipe; go on"
      " with what it was started with, or start anew from its weights with"
      " init_state(student_variables=...)."
    )
