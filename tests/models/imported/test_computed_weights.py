"""Kernels that the code computes: multiples go back to their leaf; all say which leaves they read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import models

DRAW = np.random.default_rng(0)
IMAGES = DRAW.normal(size=(2, 8, 8, 3)).astype(np.float32)


def drawn(*shape):
  return jnp.asarray(DRAW.normal(0, 0.3, shape), jnp.float32)


VARIABLES = {
  **{"stem": {"kernel": drawn(3, 3, 3, 4), "mask": jnp.ones((3, 3, 3, 4)).at[0].set(0)}},
  **{"norm": {"mean": drawn(4), "var": jnp.abs(drawn(4)) + 0.5}},
  **{"head": {"kernel": drawn(4, 5)}, "steps": jnp.int32(3)},
}


def network(kernel, head=lambda kernel: kernel):
  def apply(v, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(
      x, kernel(v["stem"]), (1, 1), "SAME", dimension_numbers=numbers
    )
    x = (x - v["norm"]["mean"]) * jax.lax.rsqrt(v["norm"]["var"] + 1e-3)
    return jax.nn.relu(x).mean((1, 2)) @ head(v["head"]["kernel"])

  return apply


MULTIPLES = {
  "equalized": network(lambda stem: stem["kernel"] * np.sqrt(2 / 27), lambda kernel: 0.5 * kernel),
  "divided": network(lambda stem: (stem["kernel"] / 3) * -2.0, lambda kernel: kernel / 4),
  "in half precision": network(lambda stem: (stem["kernel"] * 2).astype(jnp.float32)),
}


@pytest.mark.parametrize("name", MULTIPLES)
def test_a_multiple_of_a_leaf_goes_back(name):
  apply = MULTIPLES[name]
  imported = models.from_jax(apply, VARIABLES, IMAGES)
  assert imported.difference < 1e-5 and imported.unused == ("stem/mask", "steps")
  trained = jax.tree.map(lambda a: a * 1.1, imported.variables["params"])
  trained["stem"]["scale"] = trained["stem"]["scale"] / 1.1
  trained = {**imported.variables, "params": trained}
  wanted = imported.model.apply(trained, IMAGES, train=False).logits
  np.testing.assert_allclose(apply(imported.restore(trained), IMAGES), wanted, rtol=1e-4, atol=1e-5)


def standardized(stem):
  kernel = stem["kernel"]
  return (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))


COMPUTED = {
  "standardized": (network(standardized), ("stem/mask", "steps")),
  "masked": (network(lambda stem: stem["kernel"] * stem["mask"]), ("steps",)),
  "cumulated": (
    network(lambda stem: jnp.cumsum(stem["kernel"], 0).transpose(1, 0, 2, 3)),
    ("stem/mask", "steps"),
  ),
  "joined": (
    network(lambda stem: jnp.concatenate([stem["kernel"][..., :2] * 2, stem["mask"][..., 2:]], -1)),
    ("steps",),
  ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_kernel_has_its_name_and_reads_its_leaves(name):
  apply, unused = COMPUTED[name]
  imported = models.from_jax(apply, VARIABLES, IMAGES)
  assert imported.difference < 1e-5 and imported.unused == unused
  assert imported.model.layers[0].name == "stem"
  kept = imported.restore(imported.variables)
  jax.tree.map(np.testing.assert_array_equal, kept, VARIABLES)
  trained = jax.tree.map(lambda a: a + 1, imported.variables)
  with pytest.raises(ValueError, match="stem/kernel was trained, but it is computed from several"):
    imported.restore(trained)


def test_leaves_that_are_no_arrays_stay_as_they_are():
  variables = {"own": VARIABLES, "act": jax.nn.silu, "flip": True, "name": "net"}

  def apply(v, x):
    x = network(lambda stem: v["act"](stem["kernel"]))(v["own"], x)
    return -x if v["flip"] else x

  imported = models.from_jax(apply, variables, IMAGES)
  assert imported.difference < 1e-5 and imported.unused == ("own/stem/mask", "own/steps")
  back = imported.restore(imported.variables)
  assert jax.tree.structure(back) == jax.tree.structure(variables)
  assert (back["act"], back["flip"], back["name"]) == (jax.nn.silu, True, "net")


def test_arrays_of_numpy_keep_their_kind():
  variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), VARIABLES)
  imported = models.from_jax(MULTIPLES["divided"], variables, IMAGES)
  trained = jax.tree.map(lambda a: a + 0.1, imported.variables["params"]["head"])
  params = {**imported.variables["params"], "head": trained}
  back = imported.restore({**imported.variables, "params": params})
  assert isinstance(back["head"]["kernel"], np.ndarray)
  assert back["head"]["kernel"].dtype == np.float64
