"""Teachers that are no JAX: .onnx files and folders of outputs, cached for a run."""

import pathlib
import zipfile

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from jaxcompress import data, distill, models
from jaxcompress.data import OnnxTeacher, Split, StoredTeacher, cache_teacher
from jaxcompress.data.folder import folder as read_folder
from jaxcompress.nn import init_variables
from jaxcompress.training import CachedTeacher, Recipe, distill_step, init_state

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

COUNT, CLASSES = 10, 5
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(3, CLASSES)).astype(np.float32)
SPLIT = Split(
  RNG.integers(0, 256, (COUNT, 8, 8, 3), np.uint8), RNG.integers(0, CLASSES, COUNT).astype(np.int32)
)


def scaled(images):
  return images.astype(np.float32) / 255


def logits_of(images):
  return images.mean((1, 2)) @ WEIGHTS


def write(
  path, *, layout="NCHW", batch="n", side=8, outputs=("scores",), kind=TensorProto.FLOAT,
  channels=3, weights=WEIGHTS,
):  # fmt: skip
  """A file whose logits are those of mean pixels."""
  shape = [batch, channels, side, side] if layout == "NCHW" else [batch, side, side, channels]
  axes = [2, 3] if layout == "NCHW" else [1, 2]
  nodes = [
    helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["x", "axes"], ["pooled"], keepdims=0),
    helper.make_node("MatMul", ["pooled", "w"], ["scores"]),
    helper.make_node("MatMul", ["pooled", "w"], ["other"]),
    helper.make_node("Identity", ["x"], ["map"]),
  ]
  shapes = {
    "pooled": [batch, 3],
    "scores": [batch, CLASSES],
    "other": [batch, CLASSES],
    "map": shape,
  }
  graph = helper.make_graph(
    nodes,
    "net",
    [helper.make_tensor_value_info("image", kind, shape)],
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
    [numpy_helper.from_array(np.array(axes), "axes"), numpy_helper.from_array(weights, "w")],
  )
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
  onnx.save(model, path)
  return path


def near(found, expected):
  np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=2**-7, atol=5e-3)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_an_onnx_file_is_run_in_its_layout_and_batches(layout, batch, tmp_path):
  path = write(tmp_path / "a.onnx", layout=layout, batch=batch, outputs=("scores", "pooled", "map"))
  found = OnnxTeacher(path, logits="scores", pooled="pooled")(scaled(SPLIT.images))
  np.testing.assert_allclose(found.logits, logits_of(scaled(SPLIT.images)), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found.pooled, scaled(SPLIT.images).mean((1, 2)), rtol=1e-5)
  of_map = OnnxTeacher(path, logits="scores", pooled="map")(scaled(SPLIT.images))
  np.testing.assert_allclose(of_map.pooled, found.pooled, rtol=1e-5)


@pytest.mark.slow
def test_its_cache_holds_its_outputs_for_what_the_student_sees(tmp_path):
  path = write(tmp_path / "a.onnx", outputs=("scores", "pooled"))
  teacher = OnnxTeacher(path, logits="scores", pooled="pooled")
  augment = data.PerExample(data.Augment(crop=2, flip=True), seed=3)
  options = {"augment": augment, "preprocess": scaled, "cycles": 2, "batch_size": 4}
  cache = cache_teacher(tmp_path / "cache", teacher, None, SPLIT, **options)
  for position in range(5):
    batch = cache.batch_at(4, seed=1, position=position)
    seen = scaled(np.asarray(augment(jax.random.key(9), batch)["image"]))
    near(batch["teacher_logits"], logits_of(seen))
    near(batch["teacher_pooled"], seen.mean((1, 2)))
  again = cache_teacher(tmp_path / "cache", teacher, {}, SPLIT, **options)
  np.testing.assert_array_equal(again.logits, cache.logits)
  write(path, outputs=("scores", "pooled"), weights=2 * WEIGHTS)
  with pytest.raises(ValueError, match="was made with another teacher"):
    cache_teacher(
      tmp_path / "cache", OnnxTeacher(path, None, "scores", "pooled"), None, SPLIT, **options
    )


@pytest.mark.slow
def test_a_run_learns_from_an_onnx_file(tmp_path):
  teacher = OnnxTeacher(write(tmp_path / "a.onnx", weights=20 * WEIGHTS))
  cache = cache_teacher(tmp_path / "cache", teacher, None, SPLIT, augment=None, preprocess=scaled)
  recipe = Recipe(
    student=models.resnet8(CLASSES),
    teachers=(CachedTeacher(),),
    loss=distill.kd(2.0),
    preprocess=data.Preprocess(),
    optimizer=optax.sgd(0.05, momentum=0.9),
  )
  batch_at = lambda i: cache.batch_at(10, seed=0, position=i)  # noqa: E731
  state = init_state(recipe, jax.random.key(0), batch_at(0))
  losses = []
  for i in range(12):
    state, metrics = distill_step(state, batch_at(i))
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.5 * losses[0] and int(state.skipped) == 0
  with pytest.raises(
    ValueError, match=r"teachers\[0\] must be .* got a teacher that is no JAX.*cache_t"
  ):
    Recipe(student=models.resnet8(5), teachers=(teacher,), optimizer=optax.sgd(0.1))


def test_a_file_of_this_package_says_its_preprocessing(tmp_path):
  from jaxcompress import export
  from jaxcompress.nn import fold

  model, preprocess = models.resnet8(CLASSES), data.Preprocess(scale=50.0)
  variables = init_variables(model, jax.random.key(0), (8, 8, 3))
  graph = models.summarize(model, 8).graph
  path = export.onnx_float(
    graph,
    fold(graph, variables),
    tmp_path / "a.onnx",
    metadata={"preprocess": preprocess.to_metadata()},
  )
  assert OnnxTeacher(path).preprocess == preprocess
  cache = cache_teacher(tmp_path / "cache", OnnxTeacher(path), None, SPLIT, augment=None)
  near(cache.logits[0], model.apply(variables, preprocess(SPLIT.images), train=False).logits)


def test_a_file_that_reads_pixels_needs_no_preprocessing(tmp_path):
  path = write(tmp_path / "a.onnx", kind=TensorProto.UINT8)
  cache = cache_teacher(tmp_path / "cache", OnnxTeacher(path), None, SPLIT, augment=None)
  np.testing.assert_allclose(
    cache.logits[0].astype(np.float32),
    logits_of(SPLIT.images.astype(np.float32)),
    rtol=1e-2,
    atol=0.5,
  )


FILES = {
  "reads images of": {"side": 16},
  "layout: ": {"channels": "c"},
  "name the one with (batch, classes)": {"outputs": ("scores", "other")},
  "reads image ['n', 3, 8, 8] tensor(int64); it must read one array": {"kind": TensorProto.INT64},
  "'map' of": {"outputs": ("map",)},
}


@pytest.mark.parametrize("reason", FILES)
def test_a_file_that_does_not_fit_is_one_line_that_names_it(reason, tmp_path):
  path = write(tmp_path / "a.onnx", **FILES[reason])
  assert reason in refused(OnnxTeacher(path), tmp_path, path)


def refused(teacher, tmp_path, path, split=SPLIT, **options):
  options = {"augment": None, "preprocess": scaled, **options}
  if isinstance(teacher, StoredTeacher):
    del options["preprocess"]
  with pytest.raises(ValueError) as error:
    cache_teacher(tmp_path / "cache", teacher, None, split, **options)
  assert "\n" not in str(error.value) and str(path) in str(error.value)
  return str(error.value)


def test_other_mistakes_with_onnx_files_are_told(tmp_path):
  path = write(tmp_path / "a.onnx")
  for teacher, reason in (
    (OnnxTeacher(path, logits="logits"), "logits: 'logits' is no output of"),
    (OnnxTeacher(path, pooled="map"), "pooled: 'map' is no output of"),
    (OnnxTeacher(tmp_path / "b.onnx"), "cannot be read (No such file or directory)"),
  ):
    assert reason in refused(teacher, tmp_path, teacher.path)
  for content in (b"", b"half", path.read_bytes()[:-40]):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content)
    assert "cannot be opened by onnxruntime" in refused(OnnxTeacher(damaged), tmp_path, damaged)
  with pytest.raises(ValueError, match="layout: 'CHWN' must be NCHW or NHWC"):
    OnnxTeacher(path, layout="CHWN")
  assert "preprocess: " in refused(OnnxTeacher(path), tmp_path, path, preprocess=None)
  with pytest.raises(ValueError, match=r"images: shape \(8, 8, 3\) must be"):
    OnnxTeacher(path)(np.zeros((8, 8, 3), np.float32))
  with pytest.raises(
    ValueError, match="variables: an ONNX file and stored outputs have no variables"
  ):
    cache_teacher(tmp_path / "c", OnnxTeacher(path), {"w": WEIGHTS}, SPLIT, augment=None)


def test_outputs_that_are_not_finite_are_told_with_the_image(tmp_path):
  path = write(tmp_path / "a.onnx", weights=np.full_like(WEIGHTS, np.inf))
  with pytest.raises(ValueError, match="model: its logits of image 0 are not finite numbers"):
    cache_teacher(tmp_path / "c", OnnxTeacher(path), None, SPLIT, augment=None, preprocess=scaled)


LOGITS = RNG.normal(size=(COUNT, CLASSES)).astype(np.float32)
POOLED = RNG.normal(size=(COUNT, 4)).astype(np.float32)


@pytest.fixture
def stored(tmp_path):
  folder = tmp_path / "outputs"
  folder.mkdir()
  return folder


def in_two_files(folder):
  order = np.random.default_rng(1).permutation(COUNT)
  for name, part in (("a", order[:6]), ("b", order[6:])):
    np.savez(folder / f"{name}.npz", index=part, logits=LOGITS[part], pooled=POOLED[part])


def one_file_each(folder):
  for i in range(COUNT):
    np.savez(folder / f"{i:03}.npz", logits=LOGITS[i], pooled=POOLED[i])


@pytest.mark.parametrize("form", [in_two_files, one_file_each])
def test_stored_outputs_are_found_by_index(form, stored, tmp_path):
  form(stored)
  cache = cache_teacher(tmp_path / "cache", StoredTeacher(stored), None, SPLIT, augment=None)
  near(cache.logits[0], LOGITS)
  near(cache.pooled[0], POOLED)
  batch = cache.batch_at(4, seed=0, position=1)
  near(batch["teacher_logits"], LOGITS[batch["index"]])
  cache_teacher(tmp_path / "cache", StoredTeacher(stored), None, SPLIT, augment=None)
  np.savez(next(stored.iterdir()), logits=LOGITS[0], pooled=POOLED[1])
  with pytest.raises(ValueError, match="was made with another teacher"):
    cache_teacher(tmp_path / "cache", StoredTeacher(stored), None, SPLIT, augment=None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  root = tmp_path_factory.mktemp("photos")
  for label in ("cat", "dog"):
    (root / label).mkdir()
    for i in range(6):
      pixels = np.random.default_rng((i, len(label), ord(label[0]))).integers(0, 256, (30, 30, 3))
      Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{i}.png")
  return root


def of_name(name):
  return np.float32([sum(map(ord, name)), len(name), int(pathlib.PurePath(name).stem)])


@pytest.mark.parametrize("form", ["file each", "names", "names without suffix"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_stored_outputs_are_found_by_the_names_of_image_files(
  form, in_memory, photos, stored, tmp_path
):
  names = [path.relative_to(photos).as_posix() for path in photos.rglob("*.png")]
  outputs = [of_name(name) for name in names]
  if form == "file each":
    for name, logits in zip(names, outputs, strict=True):
      (stored / name).parent.mkdir(exist_ok=True)
      np.savez((stored / name).with_suffix(".npz"), logits=logits)
  else:
    kept = names if form == "names" else [name.removesuffix(".png") for name in names]
    np.savez(stored / "all.npz", name=kept, logits=outputs)
  split = read_folder(str(photos), in_memory=in_memory).train
  cache = cache_teacher(tmp_path / "cache", StoredTeacher(stored), None, split, augment=None)
  assert 0 < len(split) < len(names)  # outputs of the other parts are left out
  np.testing.assert_allclose(
    cache.logits[0].astype(np.float32), [of_name(name) for name in split.names], rtol=2**-7
  )
  assert cache.pooled is None


def test_names_of_joined_parts_stay_in_order(photos):
  loaded = read_folder(str(photos))
  joined = loaded.with_validation_trained().train
  assert list(joined.names) == [*loaded.train.names, *loaded.validation.names]
  with pytest.raises(ValueError, match="names: there are 1 for 10 images"):
    Split(SPLIT.images, SPLIT.labels, ["a"])


def save(folder, file="a", **arrays):
  everything = {"index": np.arange(COUNT), "logits": LOGITS, **arrays}
  np.savez(folder / f"{file}.npz", **{k: v for k, v in everything.items() if v is not None})


def cut(folder):
  save(folder)
  path = folder / "a.npz"
  path.write_bytes(path.read_bytes()[:-30])


def flipped(folder):
  save(folder)
  content = bytearray((folder / "a.npz").read_bytes())
  content[content.index(LOGITS[3, :2].tobytes())] ^= 4
  (folder / "a.npz").write_bytes(content)


def pickled(folder):
  save(folder, logits=np.array([{}] * COUNT, object))


MISTAKES = {
  "has no .npz files": lambda folder: None,
  "is no readable .npz file": cut,
  "a.npz is no readable .npz file": flipped,
  "Object arrays cannot be loaded": pickled,
  "no outputs of 3 of 10 images: image 7, image 8, image 9": lambda folder: save(
    folder, index=np.arange(7), logits=LOGITS[:7]
  ),
  "no outputs of 10 of 10 images: image 0, image 1, image 2, ...": lambda folder: save(
    folder, index=np.zeros(0, int), logits=LOGITS[:0]
  ),
  "image 2 has outputs in": lambda folder: save(folder, index=np.array([*range(9), 2])),
  "has outputs of image 10, and there are 0 to 9": lambda folder: save(
    folder, index=np.arange(1, COUNT + 1)
  ),
  "has outputs of image -1": lambda folder: save(folder, index=np.arange(COUNT) - 1),
  "'index' of": lambda folder: save(folder, index=np.arange(COUNT) / 2),
  "has no array 'logits'": lambda folder: save(folder, logits=None, scores=LOGITS),
  "is float32 (9, 5); it must be float (10, numbers)": lambda folder: save(folder, logits=LOGITS[:9]),
  "is int64 (10, 5)": lambda folder: save(folder, logits=np.zeros((COUNT, CLASSES), np.int64)),
  "has both 'index' and 'name'": lambda folder: save(folder, name=["a"] * COUNT),
  "is by file names, which these images do not have": lambda folder: save(
    folder, index=None, name=list("abcdefghij")
  ),
}  # fmt: skip


@pytest.mark.parametrize("reason", MISTAKES)
def test_stored_outputs_that_cannot_be_used_are_one_line(reason, stored, tmp_path):
  MISTAKES[reason](stored)
  assert reason in refused(StoredTeacher(stored), tmp_path, stored)


SHAPES = {
  "its logits of image 9 have shape (4,) and those of others (5,)": {"logits": LOGITS[9:, :4]},
  "its logits of image 9 are not finite numbers": {"logits": np.full((1, CLASSES), np.nan)},
  "it has 'pooled' of some images and not of image 9": {"pooled": None},
}


@pytest.mark.parametrize("reason", SHAPES)
def test_stored_outputs_that_differ_are_told(reason, stored, tmp_path):
  save(stored, index=np.arange(9), logits=LOGITS[:9], pooled=POOLED[:9])
  last = {"index": np.array([9]), "logits": LOGITS[9:], "pooled": POOLED[9:], **SHAPES[reason]}
  save(stored, "b", **last)
  with pytest.raises(ValueError) as error:
    cache_teacher(tmp_path / "cache", StoredTeacher(stored), None, SPLIT, augment=None)
  assert reason in str(error.value)
  cache_path = tmp_path / "cache"
  save(stored, "b", index=np.array([9]), logits=LOGITS[9:], pooled=POOLED[9:])
  mended = cache_teacher(cache_path, StoredTeacher(stored), None, SPLIT, augment=None)
  near(mended.pooled[0], POOLED)


def test_stored_outputs_are_of_images_as_they_are(stored, tmp_path):
  save(stored)
  for options, argument in (
    ({"augment": data.PerExample(data.Augment(crop=2))}, "augment"),
    ({"preprocess": scaled}, "preprocess"),
    ({"cycles": 2}, "cycles"),
  ):
    with pytest.raises(ValueError, match=f"^{argument}: stored outputs are of images as they are"):
      cache_teacher(
        tmp_path / "cache", StoredTeacher(stored), None, SPLIT, **{"augment": None, **options}
      )
  for path in (stored / "a.npz", stored / "missing"):
    with pytest.raises(ValueError, match="path: the folder"):
      cache_teacher(tmp_path / "cache", StoredTeacher(path), None, SPLIT, augment=None)


def test_the_cache_of_stored_outputs_notices_damage(stored, tmp_path):
  save(stored)
  make = lambda: cache_teacher(tmp_path / "cache", StoredTeacher(stored), None, SPLIT, augment=None)  # noqa: E731
  whole = np.array(make().logits)
  path = tmp_path / "cache" / "logits"
  content = bytearray(path.read_bytes())
  content[7] ^= 64
  path.write_bytes(content)
  np.testing.assert_array_equal(make().logits, whole)
  assert not zipfile.is_zipfile(path)
