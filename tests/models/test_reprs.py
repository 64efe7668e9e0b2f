"""The repr of a large result is one line with its figures."""

import jax
import numpy as np

from jaxcompress import data, models, nn, prune

SHAPE = (16, 16, 3)


def test_results_are_shown_in_one_line(tmp_path):
  model = models.resnet8(4)
  variables = nn.init_variables(model, jax.random.key(0), SHAPE)
  summary = models.summarize(model, 16)
  count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert repr(summary) == (
    f"Summary({len(summary.graph.nodes)} layers, {count:,} parameters, {summary.macs:,} macs, 16x16x3)"
  )
  found = prune.channel_importance(model, variables, np.ones((2, *SHAPE), np.float32))
  assert repr(found) == f"Importance({len(found.by_layer)} layers, {found.scores.size:,} scores)"
  keep = prune.Keep({"stem": np.arange(16) < 12, "classifier": [True] * 4}, SHAPE)
  assert repr(keep) == "Keep(2 layers, 16 of 20 channels, 16x16x3)"
  digits = data.load("digits", limit=20)
  teacher = nn.init_variables(model, jax.random.key(0), digits.image_shape)
  cache = data.cache_teacher(
    tmp_path, model, teacher, digits.train, augment=None, preprocess=data.Preprocess()
  )
  assert repr(cache).startswith(f"TeacherCache({digits.train}, 1 cycles, 4 classes, ")
  assert "\n" not in repr(cache)
