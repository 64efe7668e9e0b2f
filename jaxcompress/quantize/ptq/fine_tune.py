"""Fine-tunes an integer model without labels: all of it learns to give what the float network gives.

It starts from the integers, scales and grids that there are, such as block reconstruction's, and
ends in an integer model of the same form.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcompress.arguments import check_callable, check_whole, shown
from jaxcompress.nn import INPUT, Folded, fold
from jaxcompress.nn.checks import is_number
from jaxcompress.nn.execute import Layer, execute_outputs, folded_layers, run_node
from jaxcompress.nn.foreign import check_made
from jaxcompress.nn.graph import LOGITS
from jaxcompress.nn.operations import fuse_activations
from jaxcompress.nn.outputs import holds_classes, last_function
from jaxcompress.nn.structure import CONSTANT
from jaxcompress.quantize.codes import assemble
from jaxcompress.quantize.fake_quant import Levels
from jaxcompress.quantize.integer.grid import HIGHEST
from jaxcompress.quantize.model import QUANTIZED, QuantizedModel
from jaxcompress.quantize.ptq.as_real import Form, Given, start_of
from jaxcompress.quantize.ptq.few_bits import made_up
from jaxcompress.quantize.ptq.images import network_input, read_images
from jaxcompress.quantize.quantizers.base import round_through
from jaxcompress.quantize.quantizers.steps import round_to_step
from jaxcompress.terminal import meter

OF_SCALES, OF_BIASES = 0.2, 0.01  # rates as multiples of the weights', of shares of what moves
COARSE = 35  # the highest weight up to which one integer is the unit of the rate
WARMUP = 0.1  # share of the steps in which the rate grows
BEYOND = 0.49  # integers by which a weight may pass the highest one, from where it finds back
TINIEST = 1e-12  # of a signal
Params = dict[str, dict[str, jax.Array]]
Tensors = dict[str, jax.Array]


def fine_tune(
  quantized: QuantizedModel,
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  steps: int = 200,
  batch_size: int = 16,
  rate: float = 0.003,
  augment: Callable[..., Any] | None = None,
  seed: int = 0,
  progress: bool = True,
  on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> QuantizedModel:
  """Trains an integer model to give what the float network gives, on images without labels.

  Every weight, scale, bias and step moves, with gradients straight through the rounding; BatchNorm
  is part of the weights already. The loss is the divergence of the class probabilities from the
  float network's (of outputs that hold no classes, the squared error as a share of the signal), plus
  the squared error of what the last layer reads as a share of its signal. Weights and activations
  keep the bits that they have.

  It fits the images that it is given, so they should be many, and ``augment`` should leave them as large as they
  are: after block reconstruction, 128 photographs gained nothing on others of their kind. Rates much
  higher than the usual one first lose what that had found.

  Args:
    quantized: where it starts: the result of :func:`~jaxcompress.quantize.post_training`, of
      training, or of a file.
    model: the float network of which it was made.
    variables: its ``params`` and ``batch_stats``.
    images: (N, height, width, channels), as ``quantized`` takes them.
    steps: batches.
    batch_size: images at once.
    rate: how far a step moves the weights of a layer, as a root mean square, in integers (in more than 6 bits
      in thirty-fifths of the highest); those with more gradient go farther. The logarithms of scales and of
      activations' steps have a fifth of it, and biases a hundredth, as shares of what their layer's grid
      holds. It grows in the first tenth of the steps and falls to zero along half a cosine.
    augment: ``(rng, batch) -> batch`` with the images in ``batch["image"]``, such as
      :class:`~jaxcompress.data.RandomResizedCrop`; or None.
    seed: of the order of the images, and of ``augment``.
    progress: whether a bar is shown on the standard error, if that is a terminal.
    on_step: called with the number of steps so far and the loss of the last one.

  Returns:
    A :class:`QuantizedModel`.

  Raises:
    ValueError: if an argument is out of range or of another kind, the images do not fit, ``augment``
      changes their shape, ``quantized`` was made of another network, or the loss is no number any more.

  Examples:
    >>> from jaxcompress import models
    >>> from jaxcompress.nn import init_variables
    >>> from jaxcompress.quantize import post_training
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    >>> quantized = post_training(model, variables, images, method="mse", bits=4)
    >>> fine_tune(quantized, model, variables, images, steps=2, batch_size=4)(images).shape
    (4, 10)

  References:
    Esser et al., `Learned Step Size Quantization <https://arxiv.org/abs/1902.08153>`_, 2020; Hinton
    et al., `Distilling the Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`_, 2015.
  """
  check_made("quantized", quantized, QuantizedModel, QUANTIZED)
  check_whole("steps", steps, 1)
  check_whole("seed", seed, 0)
  check_callable("augment", augment, "(rng, batch) -> batch, or None")
  if not (is_number(rate) and 0 < rate < 1):
    raise ValueError(f"rate: {shown(rate)} is out of range; it must be above 0 and below 1.")
  graph, batches = read_images(model, variables, images, quantized.preprocess, batch_size)
  graph = fuse_activations(graph)
  if graph.outputs != quantized.graph.outputs or graph.input_shape != quantized.graph.input_shape:
    raise ValueError(
      f"model: it has the outputs {graph.outputs} for {graph.input_shape}, and the quantized one"
      f" {quantized.graph.outputs} for {quantized.graph.input_shape}; give the network that was quantized."
    )
  form, given = start_of(quantized, graph)
  teacher = folded_layers(fold(graph, jax.device_get(variables)))
  optimizer, paces = by_tensors(), _paces(form)
  params = first_params(form, given)

  @partial(jax.jit, donate_argnums=(0, 1))
  def update(params, state, given, teacher, x, sizes):
    loss_of = partial(_loss, form, given, wanted=run_teacher(form, teacher, x), x=x)
    loss, gradients = jax.value_and_grad(loss_of)(params)
    moves, state = optimizer.update(gradients, state)
    params = jax.tree.map(lambda p, move, size: p - size * move, params, moves, sizes)
    return _within(form, params), state, loss

  vary = None if augment is None else jax.jit(augment)
  order = np.random.default_rng(seed)
  waiting = np.zeros(0, int)
  state = optimizer.init(params)
  with meter(progress) as (begin, tick, _):
    begin("fine-tuning", steps)
    for step in range(steps):
      while len(waiting) < batches.size:
        waiting = np.concatenate([waiting, order.permutation(len(batches.images))])
      chosen, waiting = waiting[: batches.size], waiting[batches.size :]
      x = batches.images[chosen]
      if vary is not None:
        key = jax.random.fold_in(jax.random.key(seed), step)
        x = _varied(vary(key, {"image": x}), x.shape)
      x = network_input(x, quantized.preprocess)
      size = rate * _share((step + 0.5) / steps)
      sizes = jax.tree.map(lambda pace, size=size: np.float32(size * pace), paces)
      params, state, loss = update(params, state, given, teacher, x, sizes)
      _check_finite(rate, step + 1, loss)
      on_step(step + 1, float(loss))
      tick()
  params = jax.device_get(params)
  _check_finite(rate, steps, params)
  return finished(quantized, form, given, params)


def _check_finite(rate: float, steps: int, found: Any) -> None:
  """Raises if a loss, or what was trained, is no number: rounded, it would be the integer zero."""
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)):
    raise ValueError(
      f"rate: {rate}: training is no longer in finite numbers after {steps} steps; take a lower one, and"
      " smaller variables and images."
    )


def _varied(batch: Any, shape: tuple[int, ...]) -> np.ndarray:
  """The images of an augmented batch."""
  images = batch.get("image") if isinstance(batch, Mapping) else batch
  found = getattr(images, "shape", None) or shown(images)
  if images is batch or found != shape:
    raise ValueError(
      f"augment: it gives {found}; it must give a batch with images {shape} under 'image', as it takes them."
    )
  return np.asarray(images)


class Moments(NamedTuple):
  """State of :func:`by_tensors`: of every tensor the mean gradient, and the mean square of all of it."""

  updates: jax.Array
  mean: Any
  square: Any


def by_tensors(first: float = 0.9, second: float = 0.99) -> optax.GradientTransformation:
  """Adam whose second moment is that of the whole tensor, so that what has little gradient hardly moves.

  Where each number has its own, all of them move as fast, and most weights would change their integers
  by chance.
  """

  def init(params):
    square = jax.tree.map(lambda p: jnp.zeros(()), params)
    return Moments(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), square)

  def update(gradients, state, params=None):
    del params
    updates = state.updates + 1
    mean = jax.tree.map(lambda m, g: first * m + (1 - first) * g, state.mean, gradients)
    square = jax.tree.map(
      lambda s, g: second * s + (1 - second) * jnp.mean(jnp.square(g)), state.square, gradients
    )
    whole = jnp.sqrt(1 - second**updates) / (1 - first**updates)
    moves = jax.tree.map(lambda m, s: whole * m / (jnp.sqrt(s) + TINIEST), mean, square)
    return moves, Moments(updates, mean, square)

  return optax.GradientTransformation(init, update)


def _share(done: float) -> float:
  """Computes the share of the rate after a share of the steps: it grows, then falls along half a cosine."""
  return min(1.0, done / WARMUP) * 0.5 * (1 + np.cos(np.pi * done))


def first_params(form: Form, given: Given) -> Params:
  """Makes what is trained, as it is at first: integers, and zeros to add to biases and logarithms of scales."""
  return {
    "codes": {name: jnp.array(given.codes[name]) for name in form.highest},
    "scales": {name: jnp.zeros(given.scales[name].shape) for name in form.highest},
    "bias": {name: jnp.zeros(given.bias[name].shape) for name in form.highest},
    "steps": {key: jnp.zeros(()) for key in form.trained},
  }


def _paces(form: Form) -> dict[str, dict[str, float]]:
  """Rates of what is trained, as multiples of the one that is given."""
  return {
    "codes": {name: max(1.0, high / COARSE) for name, high in form.highest.items()},
    "scales": dict.fromkeys(form.highest, OF_SCALES),
    "bias": {name: OF_BIASES * form.reach[name] for name in form.highest},
    "steps": dict.fromkeys(form.trained, OF_SCALES),
  }


def _within(form: Form, params: Params) -> Params:
  """Keeps weights no farther beyond the highest integer than is rounded to it."""
  ends = {name: high + BEYOND for name, high in form.highest.items()}
  held = {name: jnp.clip(v, -ends[name], ends[name]) for name, v in params["codes"].items()}
  return {**params, "codes": held}


def student_layers(form: Form, given: Given, params: Params) -> dict[str, Layer]:
  """Rounds weights, and gives layers biases that make up for the shift of what the layers read."""
  layers = {}
  for name, codes in given.codes.items():
    kernel, bias = codes * given.scales[name], given.bias[name]
    if name in form.highest:
      scale = given.scales[name] * jnp.exp(params["scales"][name])
      rounded = round_through(params["codes"][name]) * scale
      bias = bias + params["bias"][name]
      if name in given.below:
        bias = bias - made_up(given.below[name], rounded - kernel)
      kernel = rounded
    layers[name] = kernel, bias
  return layers


def run_student(form: Form, given: Given, params: Params, x: jax.Array) -> Tensors:
  """Computes the outputs of the rounded network by name, and under ``""`` what the last layer reads."""
  layers = student_layers(form, given, params)

  def visit(tensor: str, array: jax.Array) -> jax.Array:
    grid = form.grids.get(tensor)
    if grid is None:
      return array
    step, moved = given.steps[tensor], params["steps"].get(form.key_of[tensor])
    step = step if moved is None else step * jnp.exp(moved)
    return round_to_step(array, step, grid.low, grid.high)

  tensors = {INPUT: visit(INPUT, x)}
  for node in form.graph.nodes:
    if node.op == CONSTANT:
      tensors[node.output] = given.constants[node.output]
      continue
    outputs = run_node(node, layers.get(node.name), *(tensors[name] for name in node.inputs))
    tensors |= {t: visit(t, array) for t, array in zip(node.outputs, outputs, strict=True)}
  found = {name: tensors[tensor] for name, tensor in form.graph.outputs}
  return found if form.read is None else {**found, "": tensors[form.read]}


def run_teacher(form: Form, layers: Mapping[str, Layer], x: jax.Array) -> Tensors:
  """Computes what the float network gives, as :func:`run_student`."""
  seen = {}

  def visit(tensor: str, array: jax.Array) -> jax.Array:
    if tensor == form.read:
      seen[""] = array
    return array

  return {**execute_outputs(form.real, layers, x, visit), **seen}


def _loss(form: Form, given: Given, params: Params, *, wanted: Tensors, x: jax.Array) -> jax.Array:
  """Computes how far the rounded network is from the float one."""
  found, (name, tensor) = run_student(form, given, params, x), form.real.outputs[0]
  classes = holds_classes(form.real) and last_function(form.real, tensor) == LOGITS
  total = jnp.zeros(())
  for key, real in wanted.items():
    if key == name and classes:
      likely = jax.nn.log_softmax(real)
      total += jnp.mean(jnp.sum(jnp.exp(likely) * (likely - jax.nn.log_softmax(found[key])), -1))
    else:
      noise, signal = jnp.mean(jnp.square(found[key] - real)), jnp.mean(jnp.square(real))
      total += noise / jnp.maximum(signal, TINIEST)
  return total


def finished(quantized: QuantizedModel, form: Form, given: Given, params: Params) -> QuantizedModel:
  """Makes the integer model of what was trained.

  Args:
    quantized: of which it was made.
    form: of that.
    given: likewise.
    params: on the host.
  """
  layers = jax.device_get(student_layers(form, given, params))
  codes = {name: code.astype(np.int8) for name, code in given.codes.items()}
  scales, grids = dict(given.scales), dict(quantized.grids)
  for name in form.highest:
    codes[name] = np.rint(params["codes"][name]).astype(np.int8)
    scales[name] = (scales[name] * np.exp(params["scales"][name])).astype(np.float32)
  for tensor, key in form.key_of.items():
    if key in params["steps"]:
      scale = grids[tensor].scale * np.exp(params["steps"][key])
      grids[tensor] = grids[tensor]._replace(scale=np.float32(scale))
  highest = {name: form.highest.get(name, HIGHEST) for name in codes}
  return assemble(
    quantized.graph,
    {
      name: Folded(kernel, np.ones(kernel.shape[-1]), bias.astype(np.float64))
      for name, (kernel, bias) in layers.items()
    },
    {name: scale.ravel() for name, scale in scales.items()},
    grids,
    codes=codes,
    levels={name: Levels(-high, high, True) for name, high in highest.items()},
    preprocess=quantized.preprocess,
    kernels=quantized.kernels,
    moves=quantized.moves,
  )
