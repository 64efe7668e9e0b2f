"""Recipe, state and the one jitted step; checkpoints and the loop around it."""

from jaxcompress.nn import init_variables
from jaxcompress.training.ahead import Ahead
from jaxcompress.training.averages import reestimate_norm
from jaxcompress.training.checkpoint import Checkpoints
from jaxcompress.training.evaluation import eval_step, evaluate, predict
from jaxcompress.training.loop import DivergedError, fit, fit_chain
from jaxcompress.training.networks import CachedTeacher
from jaxcompress.training.optimizers import dot, layer_rates, sgd
from jaxcompress.training.processes import PreemptedError
from jaxcompress.training.protocols import warmup_cosine
from jaxcompress.training.recipe import Recipe, Stage
from jaxcompress.training.sharding import make_mesh, shard, shard_batch
from jaxcompress.training.start import init_state
from jaxcompress.training.state import CompressState, at_stage
from jaxcompress.training.step import distill_step, train_step

__all__ = [
  "Ahead",
  "CachedTeacher",
  "Checkpoints",
  "CompressState",
  "DivergedError",
  "PreemptedError",
  "Recipe",
  "Stage",
  "at_stage",
  "distill_step",
  "dot",
  "eval_step",
  "evaluate",
  "fit",
  "fit_chain",
  "init_state",
  "init_variables",
  "layer_rates",
  "make_mesh",
  "predict",
  "reestimate_norm",
  "sgd",
  "shard",
  "shard_batch",
  "train_step",
  "warmup_cosine",
]
