"""A network with fewer channels is trained, quantized, exported, saved and loaded like any other."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import distill, export, models, prune, quantize
from jaxcompress.models.files import from_config, to_config
from jaxcompress.models.registry import describe
from jaxcompress.nn import init_variables
from jaxcompress.nn.replay import replay
from jaxcompress.nn.tracing import trace_endpoints
from jaxcompress.training import Recipe, distill_step, init_state, reestimate_norm

pytestmark = pytest.mark.usefixtures("programs_forgotten")


@pytest.fixture(scope="module")
def smaller():
  """A ShuffleNetV2 of few blocks, half of whose channels are gone."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys.modules["jaxcompress.models.shufflenet_v2"], "REPEATS", (2, 2, 2))
    model = models.shufflenet_v2(4, 0.5)
    variables = init_variables(model, jax.random.key(0), (16, 16, 3))
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    found = prune.channel_importance(model, variables, image)
    return prune.remove_channels(model, variables, prune.choose_channels(found, 0.5))


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  label = np.arange(16) % 4
  pictures = rng.normal(size=(4, 16, 16, 3))
  image = pictures[label] + 0.3 * rng.normal(size=(16, 16, 16, 3))
  return {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}


@pytest.mark.slow
def test_it_trains_on_at_integers_and_its_file_is_bit_equal(smaller, batch, tmp_path):
  model, variables = smaller
  recipe = Recipe(
    student=model,
    teachers=(model,),
    loss=distill.chain(distill.cross_entropy(), distill.fitnet(), distill.kd()),
    quantize=quantize.int8(start_step=6),
    optimizer=optax.adam(2e-3),
  )
  state = init_state(
    recipe, jax.random.key(0), batch, student_variables=variables, teacher_variables=(variables,)
  )
  state = reestimate_norm(state, [batch])
  losses = []
  for _ in range(10):
    state, metrics = distill_step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all() and losses[5] < 0.9 * losses[0]
  quantized = state.quantized()
  path = export.tflite(quantized, tmp_path / "model.tflite")
  images = np.asarray(batch["image"])
  result = export.verify(path, quantized, images)
  assert (result.bit_equal, result.images) == (1.0, 16)
  logits = jax.jit(lambda v: model.apply(v, images, train=False).logits)(state.variables)
  assert np.corrcoef(quantized(images).ravel(), np.ravel(logits))[0, 1] > 0.95


def test_it_is_saved_with_its_widths_and_loaded(smaller, tmp_path):
  model, variables = smaller
  path = models.save(tmp_path / "model.safetensors", model, variables, metadata={"seed": 1})
  loaded, same = models.load(path)
  assert loaded == model and hash(loaded) == hash(model)
  jax.tree.map(np.testing.assert_array_equal, same, variables)
  assert describe(model).name == "replayed"
  assert from_config(json.loads(json.dumps(to_config(model)))) == model


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: c["layers"][0].__setitem__(1, "Eval"), "'stem' is a 'Eval'; it must be one of"),
    (lambda c: c["layers"][0][2].update(name="x"), "'stem' has no field 'name'"),
    (lambda c: c["layers"][1].__setitem__(3, ["gone"]), "reads 'gone', which no layer before"),
    (lambda c: c["ends"].__setitem__(0, "gone"), "ends: 'gone' is no tensor of the layers"),
  ],
)
def test_a_damaged_description_is_refused(smaller, change, message):
  config = json.loads(json.dumps(to_config(smaller[0])))
  change(config["options"])
  with pytest.raises(ValueError, match=message):
    from_config(config)


@pytest.mark.slow
def test_a_replay_is_the_model_it_was_recorded_from():
  model = models.mobilenet_v3_small(4, 0.35)
  variables = models.summarize(model, 16).variables
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  module = replay(*trace_endpoints(model, variables, image), origin="MobileNetV3")
  abstract = lambda model: jax.eval_shape(  # noqa: E731
    lambda v, x: model.apply(v, x, train=False), variables, image
  )
  assert jax.tree.map(lambda a: a.shape, abstract(module)) == jax.tree.map(
    lambda a: a.shape, abstract(model)
  )
  program = lambda model: str(  # noqa: E731
    jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False).logits)(
      variables, jnp.zeros(image.shape)
    )
  )
  assert program(module) == program(model)
