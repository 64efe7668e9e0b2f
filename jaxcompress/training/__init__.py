"""Recipe, state and the one jitted step; checkpoints and the loop around it."""

from jaxcompress.nn import init_variables
from jaxcompress.training.assistants import fit_chain
from jaxcompress.training.cached import CachedTeacher
from jaxcompress.training.checkpoint import Checkpoints
from jaxcompress.training.distributed import Together, join, leave
from jaxcompress.training.evaluation import eval_step, predict
from jaxcompress.training.loop import DivergedError, evaluate, fit
from jaxcompress.training.mesh import batch_sharding, make_mesh, process_rows, shard_batch
from jaxcompress.training.norm import reestimate_norm
from jaxcompress.training.optimizers import dense_kernels_only, dot, kernels_only, layer_rates, sgd
from jaxcompress.training.preemption import PreemptedError
from jaxcompress.training.protocols import PROTOCOLS, Protocol, step_decay, warmup_cosine
from jaxcompress.training.recipe import Recipe, Stage
from jaxcompress.training.sharding import shard, shardings
from jaxcompress.training.start import init_state
from jaxcompress.training.state import CompressState, at_stage
from jaxcompress.training.step import distill_step, train_step
from jaxcompress.training.variables import load_variables, save_variables

__all__ = [
  "PROTOCOLS",
  "CachedTeacher",
  "Checkpoints",
  "CompressState",
  "DivergedError",
  "PreemptedError",
  "Protocol",
  "Recipe",
  "Stage",
  "Together",
  "at_stage",
  "batch_sharding",
  "dense_kernels_only",
  "distill_step",
  "dot",
  "eval_step",
  "evaluate",
  "fit",
  "fit_chain",
  "init_state",
  "init_variables",
  "join",
  "kernels_only",
  "layer_rates",
  "leave",
  "load_variables",
  "make_mesh",
  "predict",
  "process_rows",
  "reestimate_norm",
  "save_variables",
  "sgd",
  "shard",
  "shard_batch",
  "shardings",
  "step_decay",
  "train_step",
  "warmup_cosine",
]
