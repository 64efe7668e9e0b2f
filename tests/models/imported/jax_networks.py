"""A network in plain jax.lax, channels first, as people write it: nothing knows of this library."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MOMENTUM = 0.9


def init(seed=0):
  rng = np.random.default_rng(seed)
  kernels = {"conv1": (8, 3, 3, 3), "conv2": (16, 8, 3, 3), "conv3": (16, 1, 3, 3)}
  draw = lambda scale, shape: jnp.asarray(rng.normal(0, scale, shape), jnp.float32)  # noqa: E731
  params, stats = {}, {}
  for name, shape in kernels.items():
    n = shape[0]
    params[name] = {
      "w": draw(np.prod(shape[1:]) ** -0.5, shape),
      "gamma": 1 + draw(0.2, n),
      "beta": draw(0.1, n),
    }
    uniform = jnp.asarray(rng.uniform(0.5, 1.5, n), jnp.float32)
    stats[name] = {"mean": draw(0.1, n), "var": uniform}
  params["fc"] = {"w": draw(0.2, (10, 16)), "b": draw(0.1, (10,))}
  return params, stats


def batch_norm(x, p, s, train):
  """x: (batch, channels, height, width). Also the new statistics."""
  if train:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    new = {"mean": mean, "var": var}
    s = {name: MOMENTUM * s[name] + (1 - MOMENTUM) * new[name] for name in s}
  else:
    mean, var = s["mean"], s["var"]
  inv = p["gamma"] * lax.rsqrt(var + 1e-5)
  return x * inv[:, None, None] + (p["beta"] - mean * inv)[:, None, None], s


def forward(params, stats, images, train=False):
  """Logits and new statistics for images (batch, height, width, 3)."""
  x = jnp.transpose(images, (0, 3, 1, 2))
  new = {}
  for name, stride, groups in (("conv1", 2, 1), ("conv2", 2, 1), ("conv3", 1, 16)):
    x = lax.conv_general_dilated(
      x,
      params[name]["w"],
      window_strides=(stride, stride),
      padding=((1, 1), (1, 1)),
      dimension_numbers=("NCHW", "OIHW", "NCHW"),
      feature_group_count=groups,
    )
    x, new[name] = batch_norm(x, params[name], stats[name], train)
    x = jnp.clip(x, 0, 6) if name == "conv1" else jax.nn.relu(x)
  x = x.mean((2, 3))
  return x @ params["fc"]["w"].T + params["fc"]["b"], new
