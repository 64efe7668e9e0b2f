"""The Python blocks of every page run one after the other, on less data and for fewer steps."""

import re
import shutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import jaxcompress as jc
from tests.golden.parity import weights as parity
from tests.pipeline.stripes import stripes
from tests.programs import ROOT, programs_of, run

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.usefixtures("programs_forgotten")


class Page(NamedTuple):
  """How the blocks of a page run."""

  given: str = ""
  """Names that the page takes for granted, of the fixture ``prelude``."""
  files: str = ""
  """Files and folders that lie in the working directory, of ``FILES``."""
  changes: Mapping[str, str] = MappingProxyType({})
  """Text that makes the programs small, by the text that it replaces wherever that occurs."""
  left_out: Mapping[str, str] = MappingProxyType({})
  """Why a block is compiled alone, by a text that only this block has."""
  then: str = ""
  """A program that runs after the page, with what the page only defines."""


def elsewhere(test):
  """A page all of whose blocks another test runs."""
  return Page(left_out={"": f"tests/docs/{test}.py runs it"})


PAGES = {
  "index.md": Page(left_out={"": "tests/test_readme.py runs it: it is the README's"}),
  "tutorial.md": Page(
    changes={
      'load("glyphs")': 'load("glyphs", limit=200)',
      "data.train, 64": "data.train, 16",
      "steps = 900": "steps = 2",
      'mobilenet_v2(47, 0.75, layout="short", padding="SAME")': "resnet8(47)",
      'mobilenet_v2(47, 0.25, layout="short", padding="SAME"), 180': "resnet8(47), 2",
    },
    then="assert result.bit_equal == 1.0 and int(state.step) == 4",
  ),
  "explanation/exactness.md": Page(
    given="jc quantized images",
    files="model.tflite",
    changes={', processor="cortex-a53"': ""},  # the emulator is not everywhere
  ),
  "how-to/certify.md": Page(
    given="quantized images",
    files="net.tflite net_c OUT photos",
    changes={'certify_model("OUT")': 'certify_model("OUT", "photos", processors="none")'},
    then="assert certificate.verdict == 'equal' and found.equal",
  ),
  "how-to/data.md": Page(),
  "how-to/distil.md": Page(
    changes={
      "limit=300": "limit=64",
      "_step=400": "_step=1",
      "steps=500": "steps=2",
      "steps=60": "steps=1",
    },
    then="""
state = jc.init_state(staged, jax.random.key(0), batch_at(0), teacher_variables=(trained,))
state = jc.training.fit(state, batch_at, steps=2)
""",
  ),
  "how-to/export.md": Page(),
  "how-to/from-python.md": Page(
    changes={"epochs=4": "epochs=1"},
    left_out={
      "teacher_variables=variables": "tests/pipeline/test_from_python.py runs such a one",
      'predict(["photo.jpg"])': "tests/test_readme.py runs it",
    },
  ),
  "how-to/layers.md": Page(
    given="np",
    changes={
      "mobilenet_v2(10, width=0.5": "mobilenet_v2(10, width=0.1",
      'layers="stage5|last"': 'layers="last"',
      'layers="!first|last"': 'layers="last"',
    },
    then="""
images = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
batch = {"image": images, "label": np.arange(4)}
pruned = jc.Recipe(student=model, quantize=plan, optimizer=optimizer)
for each in (pruned, recipe, fine_tuned):
  state = jc.init_state(each, jax.random.key(0), batch)
variables = state.variables
look(jc.quantize.post_training(model, variables, images, method="minmax"), variables, images)
""",
  ),
  "how-to/locate.md": Page(given="jc quantized images", files="student.tflite dump"),
  "how-to/low-bits.md": Page(
    given="jax np",
    then="""
import optax
batch = {"image": np.zeros((4, 16, 16, 3), np.float32), "label": np.arange(4)}
gradual = q.Quantization(weights=falling, activations=q.ema_range(8), rules=rules)
for each in (plan, gradual):
  model = jc.models.mobilenet_v2(10, width=0.1)
  recipe = jc.Recipe(student=model, quantize=each, optimizer=optax.sgd(0.1))
  jc.init_state(recipe, jax.random.key(0), batch)
""",
  ),
  "how-to/own-loss.md": Page(
    then="""
one = jc.nn.Endpoints(logits=jnp.eye(3), pooled=jnp.ones((3, 4)))
batch = {"label": jnp.arange(3), "trust": jnp.ones(3)}
for each in (guess_features(), trusting(), loss):
  params, state = each.init(jax.random.key(0), one, (one,), batch)
  assert jnp.isfinite(each.update(params, state, one, (one,), batch)[0]).all()
""",
  ),
  "how-to/own-quantizer.md": Page(
    given="images labels",
    then="""
import optax
batch = {"image": images, "label": labels}
recipe = jc.Recipe(
  student=jc.models.resnet8(10),
  quantize=plan,
  preprocess=jc.data.Preprocess(),
  optimizer=optax.sgd(0.1),
)
state, _ = jc.train_step(jc.init_state(recipe, jax.random.key(0), batch), batch)
path = jc.export.tflite(state.quantized(), "own.tflite")
assert jc.export.verify(path, state.quantized(), images).bit_equal == 1.0
""",
  ),
  "how-to/post-training.md": Page(
    given="state_dict",
    files="photos checkpoint.safetensors",
    changes={
      "timm/mobilenetv3_small_100": "crd/resnet8",
      "reader.preprocess)\njc.export": 'reader.preprocess, method="minmax")\njc.export',
      'method="qdrop"': 'method="minmax"',
      "rules=rules)": 'rules=rules, method="minmax")',
      "1_500_000": "60_000",
    },
    then="""
assert weights.keys() == state_dict.keys()
assert jc.models.load("mobilenet_v3_small.safetensors")[0] == model
assert jc.quantize.model_bytes(smaller) <= 60_000
""",
  ),
  "how-to/predict.md": Page(
    files="OUT PHOTOS NEW a.jpg b.png",
    changes={'open("OUT")': 'open("OUT/student.tflite")'},  # the folder is that of no whole run
  ),
  "how-to/pruning.md": Page(
    given="jc jax model variables images labels",
    left_out={"agp_within(800)": "tests/docs/test_programs.py runs it"},
    then="""
import optax
pixels = jc.data.Preprocess()(images)
small, weights = smaller(model, variables, pixels, labels, lambda model, variables: variables)
assert jc.models.summarize(small, 32).macs <= 4_000_000 < jc.models.summarize(model, 32).macs
light = jc.models.mobilenet_v2(10, width=0.1)
batch = {"image": pixels, "label": labels}
pruned = jc.prune.magnitude(optax.sgd(0.1), sparsity=0.8, rules=rules)
for each in ({"optimizer": pruned}, {"optimizer": optax.sgd(0.1), "quantize": plan}):
  jc.init_state(jc.Recipe(student=light, **each), jax.random.key(0), batch)
""",
  ),
  "how-to/scale-out.md": Page(then="assert int(state.step) == 5 and state.placement.mesh == mesh"),
  "how-to/microcontroller.md": elsewhere("test_microcontroller"),
  "how-to/own-loop.md": elsewhere("test_own_loop"),
  "how-to/own-model.md": elsewhere("test_own_model"),
}


def blocks_of(page):
  return BLOCK.findall((ROOT / "docs" / page).read_text())


@pytest.fixture(scope="module")
def prelude():
  """What a reader of any page has: a trained network, images, and the network in integers."""
  data, model = jc.data.load("digits", limit=8), jc.models.resnet8(10)
  variables = jc.init_variables(model, jax.random.key(0), data.image_shape)
  images, labels = data.train.images, data.train.labels
  quantized = jc.quantize.post_training(
    model, variables, images, preprocess=jc.data.Preprocess(), method="minmax"
  )
  state_dict = dict(parity.state_dict("crd/resnet8"))
  return {"jc": jc, "jax": jax, "np": np, **locals()}


def photos(path, names):
  split = stripes(20, 0)
  for place, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
    folder = path / ("lying", "standing")[label]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{place}.png")


def photo(path, names):
  Image.fromarray(stripes(1, 0).images[0]).save(path)


def tflite(path, names):
  jc.export.tflite(names["quantized"], path)


def dump(path, names):
  tflite(path.with_suffix(".tflite"), names)
  codes = names["quantized"].quantize_input(names["images"])
  jc.export.dump(path.with_suffix(".tflite"), codes, path, kernels="reference")


def finished(path, names):
  path.mkdir()
  classes = ["lying", "standing", *map(str, range(8))]
  facts = {"classes": classes, **jc.data.ImageReader(32).to_metadata()}
  jc.export.tflite(names["quantized"], path / "student.tflite", metadata=facts)
  jc.export.packed(names["quantized"], path / "student.jcz", metadata=facts)


FILES = {  # how each is made
  "a.jpg": photo,
  "b.png": photo,
  "checkpoint.safetensors": lambda path, names: save_file(names["state_dict"], path),
  "dump": dump,
  "model.tflite": tflite,
  "net.tflite": tflite,
  "net_c": lambda path, names: jc.export.c(names["quantized"], path, name="net"),
  "student.tflite": tflite,
  **dict.fromkeys(("photos", "NEW", "PHOTOS"), photos),
  "OUT": finished,
}


@pytest.fixture(scope="module")
def lay(tmp_path_factory, prelude):
  """Copies a file of ``FILES`` to the working directory."""
  made = tmp_path_factory.mktemp("made")

  def copy(name):
    if not (made / name).exists():
      FILES[name](made / name, prelude)
    (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, name)

  return copy


def test_every_page_with_programs_is_here():
  pages = (path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
  assert set(PAGES) == {page for page in pages if blocks_of(page)}


def test_the_first_page_shows_a_program_of_the_readme():
  (block,) = blocks_of("index.md")
  assert block in programs_of("README.md").values()


@pytest.mark.parametrize("page", PAGES)
def test_what_does_not_run_is_python(page):
  for text in PAGES[page].left_out:
    found = [block for block in blocks_of(page) if text in block]
    assert found if text == "" else len(found) == 1
    for block in found:
      compile(block, page, "exec")


@pytest.mark.parametrize("page", [page for page in PAGES if "" not in PAGES[page].left_out])
def test_programs_of_a_page_run_in_its_order(page, prelude, lay, tmp_path, monkeypatch):
  how = PAGES[page]
  monkeypatch.chdir(tmp_path)
  for name in how.files.split():
    lay(name)
  blocks = [block for block in blocks_of(page) if not any(text in block for text in how.left_out)]
  program = "\n".join(blocks)
  for old, new in how.changes.items():
    assert old in program
    program = program.replace(old, new)
  run(program + how.then, **{name: prelude[name] for name in how.given.split()})
