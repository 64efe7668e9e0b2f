"""Losses on logits that have a class for each pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill, nn


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kd", "lskd", "dkd", "cross_entropy"])
def test_losses_on_logits_are_means_over_the_pixels_of_maps(name):
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
  label = rng.integers(6, size=(3, 4, 5))
  loss = getattr(distill, name)()
  of_maps, of_rows = (
    loss.update(
      *loss.init(jax.random.key(0), ends[0], ends[1:], {"label": classes}),
      ends[0],
      ends[1:],
      {"label": classes},
      step=0,
    )[0]
    for ends, classes in (
      ([nn.Endpoints(x) for x in (student, teacher)], label),
      ([nn.Endpoints(x.reshape(-1, 6)) for x in (student, teacher)], label.ravel()),
    )
  )
  np.testing.assert_allclose(of_maps, of_rows, rtol=1e-5)


@pytest.mark.parametrize("name", ["dist", "mlkd"])
def test_losses_that_compare_examples_refuse_the_logits_of_maps(name):
  ends = nn.Endpoints(jnp.ones((2, 4, 4, 3)))
  loss = getattr(distill, name)()
  with pytest.raises(ValueError, match=rf"{name} compares examples by logits \(batch, classes\)"):
    loss.init(jax.random.key(0), ends, (ends,), {"label": jnp.zeros((2, 4, 4), int)})


def test_an_adapted_teacher_of_maps_returns_endpoints():
  images = jnp.ones((2, 4, 4, 3))
  teacher = distill.adapter(lambda bias, x: nn.Endpoints(x, outputs={"boxes": x + bias}))
  found = teacher.apply(jnp.float32(1), images, train=False)
  assert found.logits.shape == (2, 4, 4, 3)
  np.testing.assert_array_equal(found.outputs["boxes"], images + 1)
  teacher = distill.adapter(lambda bias, x: x + bias)
  with pytest.raises(
    ValueError, match=r"of maps or boxes returns them .* or nn.Endpoints\(logits, outputs="
  ):
    teacher.apply(jnp.float32(1), images, train=False)
