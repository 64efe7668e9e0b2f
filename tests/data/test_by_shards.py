"""Orders by shards: every example once in each epoch, a few files at a time, as random as they can be."""

import io
import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from jaxcompress import data
from jaxcompress.data import ByShards, Shards, order, warmth

unhurried = hypothesis.settings(deadline=None, max_examples=60)
some_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def shards_of(sizes) -> Shards:
  names = tuple(f"{i}.tar" for i in range(len(sizes)))
  return Shards(names, tuple(sizes), np.arange(sum(sizes), dtype=np.int32))


def file_of(shards) -> np.ndarray:
  return np.repeat(np.arange(len(shards.sizes)), shards.sizes)


def batches(shards, by, size, count, seed=0):
  return np.stack([by.indices(shards, size, seed=seed, position=p) for p in range(count)])


@unhurried
@hypothesis.given(
  sizes=some_sizes,
  window=st.integers(1, 13),
  batch=st.integers(1, 20),
  seed=st.integers(0, 2**63),
  epochs=st.integers(1, 3),
)
def test_every_example_comes_once_in_each_epoch(sizes, window, batch, seed, epochs):
  shards, count = shards_of(sizes), sum(sizes)
  stream = batches(shards, ByShards(window=window), batch, -(-count * epochs // batch), seed)
  for epoch in range(epochs):
    seen = stream.ravel()[epoch * count : (epoch + 1) * count]
    np.testing.assert_array_equal(np.sort(seen), np.arange(count))


@unhurried
@hypothesis.given(
  sizes=some_sizes, window=st.integers(1, 5), groups=st.integers(1, 5), each=st.integers(1, 4)
)
def test_each_group_deals_out_a_part_of_every_epoch_and_none_is_ahead_of_another(
  sizes, window, groups, each
):
  shards, count, epochs = shards_of(sizes), sum(sizes), 3
  needed = -(-(epochs * count + groups) // (groups * each))
  found = batches(shards, ByShards(window=window, groups=groups), groups * each, needed)
  streams = found.reshape(needed, groups, each).swapaxes(0, 1).reshape(groups, -1)
  for epoch in range(epochs):
    parts = [
      stream[(epoch * count + g) // groups : ((epoch + 1) * count + g) // groups]
      for g, stream in enumerate(streams)
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


@unhurried
@hypothesis.given(
  sizes=some_sizes, position=st.integers(0, 10**9), groups=st.sampled_from([1, 2, 3])
)
def test_a_batch_depends_on_seed_and_position_alone(sizes, position, groups):
  shards, by = shards_of(sizes), ByShards(window=2, groups=groups)
  first = by.indices(shards, 6, seed=3, position=position)
  order._stream.cache_clear()
  by.indices(shards, 6, seed=3, position=position + 1)
  np.testing.assert_array_equal(by.indices(shards, 6, seed=3, position=position), first)
  assert first.shape == (6,) and first.dtype == np.int32


def test_few_files_are_read_at_a_time_and_each_is_done_with_before_others():
  shards, by = shards_of([40] * 30), ByShards(window=3)
  files = file_of(shards)[batches(shards, by, 20, 60)]
  for start in range(0, 60, 6):  # a window of 3 files of 40, in batches of 20
    assert len(np.unique(files[start : start + 6])) == 3
  assert len(np.unique(files)) == 30


def test_processes_read_files_of_their_own_but_for_the_ends():
  shards, by = shards_of([25] * 32), ByShards(window=4, groups=4)
  files = file_of(shards)[batches(shards, by, 40, 20)]  # one epoch
  own = [set(files[:, rows].ravel().tolist()) for rows in np.split(np.arange(40), 4)]
  assert sum(len(one) for one in own) <= 32 + 3 and set().union(*own) == set(range(32))
  halves = [set(files[:, rows].ravel().tolist()) for rows in np.split(np.arange(40), 2)]
  assert halves == [own[0] | own[1], own[2] | own[3]]  # the same order on two processes


def test_an_example_comes_as_early_as_late_and_beside_any_other_as_in_a_shuffle_of_all():
  """Over seeds: its place in the epoch is uniform, and so are its neighbours, of the window at least."""
  shards, by, count, batch = shards_of([6] * 12), ByShards(window=4), 72, 24
  places, together = [], np.zeros(count)
  for seed in range(1500):
    epoch = batches(shards, by, batch, 3, seed)
    place = int(np.flatnonzero(epoch.ravel() == 7)[0])
    places.append(place)
    together[epoch[place // batch]] += 1
  counts = np.bincount(places, minlength=count)
  assert stats.chisquare(counts).pvalue > 1e-3
  others = np.delete(together, 7)
  same_file = np.delete(file_of(shards), 7) == 1
  # a window is a batch here: of the 4 files, its own is always there, and 3 of the 11 others
  np.testing.assert_allclose(others[same_file], 1500)
  assert stats.chisquare(others[~same_file]).pvalue > 1e-3
  np.testing.assert_allclose(others[~same_file].mean() / 1500, 3 / 11, rtol=0.01)


def test_with_all_files_in_a_window_it_is_a_shuffle_of_all():
  shards, by = shards_of([6] * 4), ByShards(window=4)
  places = [int(np.flatnonzero(batches(shards, by, 24, 1, s)[0] == 7)[0]) for s in range(1500)]
  pairs = [tuple(batches(shards, by, 24, 1, s)[0, :2] // 6) for s in range(1500)]
  assert stats.chisquare(np.bincount(places, minlength=24)).pvalue > 1e-3
  assert np.mean([a == b for a, b in pairs]) == pytest.approx(5 / 23, abs=0.04)


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
  """Five tar files of ten images each, whose pixels tell them apart."""
  import tarfile

  root = tmp_path_factory.mktemp("tars")
  for shard in range(5):
    with tarfile.open(root / f"photos-{shard:04d}.tar", "w") as tar:
      for i in range(10):
        number = 10 * shard + i
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (36, 36, 3), np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        for name, content in (
          (f"{number}.png", file.getvalue()),
          (f"{number}.cls", b"%d" % (i % 2)),
        ):
          info = tarfile.TarInfo(name)
          info.size = len(content)
          tar.addfile(info, io.BytesIO(content))
  return root


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_of_tar_files_reads_the_same_batches_and_files_in_turn(tars, workers, monkeypatch):
  split = data.load(f"wds:{tars}", size=36, in_memory=False).train
  assert [len(split.shards.files), sum(split.shards.sizes)] == [5, len(split)]
  passed, main = [], threading.main_thread()
  through = warmth._pass_through

  def noted(name, ends):
    assert threading.current_thread() is not main
    passed.append(name)
    through(name, ends)

  monkeypatch.setattr(warmth, "_pass_through", noted)
  by = ByShards(window=1)
  with data.Stream(split, 7, seed=1, stop=9, sampling=by, workers=workers) as batch_at:
    for position in range(9):
      expected = data.batch_at(split, 7, seed=1, position=position, sampling=by)
      found = batch_at(position)
      for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
  order_of_files = [split.shards.files[i] for i in order._order(5, (1, order.SHARDS, 0))]
  assert passed[:5] == order_of_files[: len(passed[:5])] and len(passed) >= 4


def test_parts_and_joined_parts_know_their_files(tars):
  whole = data.load(f"wds:{tars}", size=36, in_memory=False)
  joined = whole.with_validation_trained().train
  assert sum(joined.shards.sizes) == len(whole.train) + len(whole.validation)
  few = whole.train.pick(np.array([3, 9, 20]))
  np.testing.assert_array_equal(few.images[1], whole.train.images[9])
  layout = whole.train.images.source.layout()
  assert set(few.shards.files) == {layout.files[layout.file[i]] for i in (3, 9, 20)}
  lying = layout.place[whole.train.shards.examples[: whole.train.shards.sizes[0]]]
  assert (np.diff(lying) > 0).all()  # as they lie


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda split: ByShards(window=0), "window: 0 must be a whole number"),
    (lambda split: ByShards(groups=0), "groups: 0 must be a whole number"),
    (
      lambda split: ByShards(groups=3).indices(shards_of([4, 4]), 4, seed=0, position=0),
      "groups: 3 streams cannot share a batch of 4",
    ),
    (
      lambda split: data.batch_at(split, 2, seed=0, position=0, sampling=ByShards()),
      "sampling: the split's images do not lie in files of several",
    ),
  ],
)
def test_mistakes_name_the_argument_and_the_way_out(make, message):
  split = data.Split(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32))
  with pytest.raises(ValueError, match=message):
    make(split)
