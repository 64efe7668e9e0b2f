"""The rendered set and its cache."""

import numpy as np
import pytest

from jaxcompress import data
from jaxcompress.data import bundled, storage


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  return tmp_path / "jaxcompress"


@pytest.fixture
def rendered(monkeypatch):
  """Numbers of pictures that were rendered, call by call."""
  calls, render = [], bundled.render_glyphs

  def counting(style, labels, *args):
    calls.append(len(labels))
    return render(style, labels, *args)

  monkeypatch.setattr(bundled, "render_glyphs", counting)
  return calls


def test_classes_are_those_of_emnist_balanced():
  names = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
  assert "".join(bundled.CLASSES) == names and len(names) == 47


def test_every_font_draws_every_class_whole_and_differently():
  cells = bundled.glyph_atlas(32)[..., 0].astype(np.int32)
  edges = np.ones(cells.shape[2:], bool)
  edges[1:-1, 1:-1] = False
  assert not cells[:, :, edges].any()
  assert ((cells > 128).sum((2, 3)) > 60).all()  # ink
  for font in cells:
    flat = font.reshape(len(font), -1)
    difference = np.abs(flat[:, None] - flat[None]).sum(-1) / 255
    assert (difference + 1000 * np.eye(47) > 50).all()  # O and 0 are closest


def test_capitals_have_nearly_the_same_height_in_every_font():
  cells = bundled.glyph_atlas(32)[:, bundled.CLASSES.index("H"), :, :, 0]
  heights = (cells > 64).any(2).sum(1)
  assert heights.min() >= 34 and heights.max() <= 41  # of 64; wide ones are drawn smaller


def test_the_default_set_is_balanced_and_its_parts_differ():
  parts = data.load("glyphs", limit=1000)
  assert parts.classes == bundled.CLASSES and not parts.flip
  assert parts.image_shape == (32, 32, 3)
  for part in (parts.train, parts.validation, parts.test):
    counts = np.bincount(part.labels, minlength=47)
    assert len(part) == 1000 and counts.max() - counts.min() <= 1
  seen = {
    image.tobytes() for p in (parts.train, parts.validation, parts.test) for image in p.images
  }
  assert len(seen) == 3000
  assert bundled.COUNTS == {"train": 24_000, "validation": 2_000, "test": 4_000}


def test_a_limit_gives_the_first_images_and_a_seed_gives_others():
  few, more = data.load("glyphs", limit=60), data.load("glyphs", limit=300)
  np.testing.assert_array_equal(few.train.images, more.train.images[:60])
  np.testing.assert_array_equal(few.train.labels, more.train.labels[:60])
  assert (data.load("glyphs", limit=60, seed=1).train.images != few.train.images).any()


def test_pictures_follow_from_their_key_alone():
  style, fonts, labels = bundled.GlyphStyle(), np.arange(21), np.arange(47)
  first, again, other = (bundled.render_glyphs(style, labels, fonts, (k,)) for k in (5, 5, 6))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any((1, 2, 3)).all()


def test_characters_stand_out_from_the_background_around_them():
  rng = np.random.default_rng(0)
  back, front, difference = bundled._colours(rng, 2000, 0.25)
  for colour in (back, front):
    assert colour.min() >= 0 and colour.max() <= 1
  brightness = np.abs(front.mean(-1) - back.mean(-1))
  np.testing.assert_allclose(brightness, difference, atol=1e-6)
  assert difference.min() >= 0.25

  calm = bundled.GlyphStyle(noise=0.0)
  blank = _without_characters(calm, np.arange(1000) % 47)
  drawn = bundled.render_glyphs(calm, np.arange(1000) % 47, np.arange(21), (0,))
  change = np.abs(drawn.astype(float).mean(-1) - blank.astype(float).mean(-1)).max((1, 2)) / 255
  assert np.quantile(change, 0.01) > 0.2


def _without_characters(style, labels):
  """The same backgrounds with nothing on them."""
  sample = bundled._sample
  try:
    bundled._sample = lambda *args: 0 * sample(*args)
    return bundled.render_glyphs(style, labels, np.arange(21), (0,))
  finally:
    bundled._sample = sample


def test_a_matched_filter_reads_clean_characters():
  """Pictures show the character of their label: upright ones are nearest to their own class."""
  style = bundled.GlyphStyle(
    rotation=0.0, shear=0.0, scale=(1.0, 1.0), shift=0.0, gradient=0.0, noise=0.0
  )
  labels = np.arange(470) % 47
  pictures = bundled.render_glyphs(style, labels, np.array([4]), (1,)).astype(float).mean(-1)
  cells = bundled.glyph_atlas(32)[4, ..., 0].astype(float).reshape(47, 32, 2, 32, 2).mean((2, 4))

  def standardised(x):
    x = x[:, 6:26, 8:24].reshape(len(x), -1)
    x = x - x.mean(1, keepdims=True)
    return x / np.linalg.norm(x, axis=1, keepdims=True)

  match = np.abs(standardised(pictures) @ standardised(cells).T).argmax(1)
  assert (match == labels).mean() > 0.97


@pytest.mark.parametrize("size", [24, 48])
def test_other_sizes_are_rendered_too(size):
  assert data.load("glyphs", size=size, limit=47).image_shape == (size, size, 3)


def test_a_second_load_reads_the_cache_and_a_longer_one_renders_the_rest(rendered, folder):
  first = data.load("glyphs", limit=250)
  assert rendered == [250] * 3 and len(list(folder.iterdir())) == 3
  again = data.load("glyphs", limit=250)
  np.testing.assert_array_equal(first.test.images, again.test.images)
  assert len(rendered) == 3
  longer = data.load("glyphs", limit=500)
  assert len(rendered) == 6
  np.testing.assert_array_equal(longer.train.images[:250], first.train.images)
  assert not [file for file in folder.iterdir() if file.suffix == ".tmp"]


def flip_a_bit(content: bytes) -> bytes:
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
  "damage",
  [
    lambda content: b"",
    lambda content: b"no archive",
    lambda content: content[: len(content) // 2],
    lambda content: content[:-1],
    flip_a_bit,
  ],
  ids=["empty", "other", "half", "short", "bit"],
)
def test_a_damaged_cache_is_rendered_again(damage, rendered, folder):
  first = data.load("glyphs", limit=250)
  for file in folder.iterdir():
    file.write_bytes(damage(file.read_bytes()))
  again = data.load("glyphs", limit=250)
  assert len(rendered) == 6
  np.testing.assert_array_equal(first.train.images, again.train.images)
  assert storage.read_cached(next(folder.iterdir()).name) is not None


def test_a_cache_of_other_arrays_is_rendered_again(folder):
  first = data.load("glyphs", limit=250)
  for file in folder.iterdir():
    storage.write_cached(file.name, np.zeros((250, 8, 8, 3), np.uint8))
  np.testing.assert_array_equal(data.load("glyphs", limit=250).test.images, first.test.images)


def test_an_unusable_cache_folder_is_no_error(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert len(data.load("glyphs", limit=47).train) == 47
  assert not storage.write_cached("x.npz", np.zeros(3))


def test_a_failed_write_leaves_nothing_behind(folder, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(np, "savez", full)
  assert not storage.write_cached("x.npz", np.zeros(3))
  assert list(folder.iterdir()) == []


def test_the_cache_folder_follows_the_platform(monkeypatch, tmp_path):
  assert storage.cache_folder() == tmp_path / "jaxcompress"
  for value in ("", "relative/path"):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert storage.cache_folder() == tmp_path / "home" / ".cache" / "jaxcompress"


def test_mistakes_name_the_argument_and_the_value():
  with pytest.raises(ValueError, match="size: 8 is out of range; glyphs are 16 to 256"):
    data.load("glyphs", size=8)
  with pytest.raises(ValueError, match="font: 'Comic' is not at"):
    bundled.font_path("Comic")
