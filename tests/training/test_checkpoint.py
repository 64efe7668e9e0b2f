"""Checkpoints: a restart is bit for bit the uninterrupted run; damage is one clear error."""

import chex
import jax
import numpy as np
import pytest
from rich.console import Console

from jaxcompress import distill, quantize
from jaxcompress.training import Checkpoints, fit, init_state, load_variables, save_variables

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def fresh(recipe_of, batches, teacher):
  recipe = recipe_of(
    teachers=(teacher[0],),
    loss=distill.chain(distill.kd(4.0), distill.crd(40, dim=8, negatives=6)),
    quantize=quantize.int8(start_step=4),
  )
  return lambda: init_state(recipe, jax.random.key(0), batches(0), teacher_variables=(teacher[1],))


def arrays(state):
  return jax.device_get(jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))))


def test_a_restored_run_ends_in_the_same_bits(fresh, batches, tmp_path):
  whole = fit(fresh(), batches, steps=8, console=QUIET)
  first = Checkpoints(tmp_path, every=3)
  fit(fresh(), batches, steps=7, checkpoints=first, console=QUIET)
  first.close()
  again = Checkpoints(tmp_path, every=3)
  assert again.latest() == 7
  restored = again.restore(fresh())
  assert int(restored.position) == 7
  ended = fit(restored, batches, steps=8, console=QUIET)
  again.close()
  chex.assert_trees_all_equal(arrays(whole), arrays(ended))


def test_rows_are_logged_with_rates_and_hooks_see_the_state(fresh, batches):
  rows, seen = [], []
  hooks = {5: lambda state: seen.append(int(state.step))}
  fit(fresh(), batches, steps=6, log_every=2, on_log=rows.append, hooks=hooks, console=QUIET)
  assert [row["step"] for row in rows] == [2, 4, 6]
  assert seen == [5]
  assert all(row["images_per_second"] > 0 and np.isfinite(row["loss"]) for row in rows)


def test_a_damaged_checkpoint_is_one_clear_error(fresh, batches, tmp_path):
  saved = Checkpoints(tmp_path, every=1)
  fit(fresh(), batches, steps=2, checkpoints=saved, console=QUIET)
  saved.close()
  for file in (tmp_path / "2").rglob("*"):
    if file.is_file():
      file.write_bytes(b"damaged")
  again = Checkpoints(tmp_path, every=1)
  with pytest.raises(ValueError, match=r"checkpoint: .*2 cannot be read"):
    again.restore(fresh())
  again.close()


def test_variables_survive_a_round_trip(teacher, tmp_path):
  save_variables(tmp_path / "teacher", teacher[1])
  loaded = load_variables(tmp_path / "teacher", teacher[1])
  chex.assert_trees_all_equal(jax.device_get(teacher[1]), loaded)
  with pytest.raises(ValueError, match="exists already"):
    save_variables(tmp_path / "teacher", teacher[1])


def test_variables_of_another_model_are_refused(teacher, tiny, tmp_path):
  save_variables(tmp_path / "teacher", teacher[1])
  other = jax.eval_shape(
    lambda: tiny(features=4).init(
      jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), train=False
    )
  )
  with pytest.raises(ValueError, match="is of another model"):
    load_variables(tmp_path / "teacher", other)


@pytest.mark.parametrize("content", [None, "not a checkpoint"])
def test_a_missing_or_foreign_folder_is_one_clear_error(teacher, tmp_path, content):
  folder = tmp_path / "nothing"
  if content is not None:
    folder.mkdir()
    (folder / "file").write_text(content)
  with pytest.raises(ValueError, match="checkpoint: "):
    load_variables(folder, teacher[1])
