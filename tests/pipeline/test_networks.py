"""Folders of networks: damaged or impossible ones are one line that names the file."""

import json
import shutil

import jax
import pytest

from jaxcompress import data, models
from jaxcompress.nn import init_variables
from jaxcompress.pipeline import networks, pretrained

CLASSES = ("ash", "elm", "fir", "oak")
SHAPE = (12, 12, 3)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
  network = networks.build("resnet8", 4, SHAPE, None, None, {})
  variables = init_variables(network.module, jax.random.key(0), SHAPE)
  folder = tmp_path_factory.mktemp("out") / "teacher"
  networks.save_network(
    folder, networks.TrainedNetwork(network, variables), CLASSES, data.ImageReader(SHAPE[:2])
  )
  return folder


@pytest.fixture
def folder(sound, tmp_path):
  return shutil.copytree(sound, tmp_path / "teacher")


def load(folder):
  return pretrained.open_start(None, str(folder), CLASSES, SHAPE, role="teacher")


def changed(folder, **facts):
  """Writes a file without a checksum, as earlier versions did, that says something else."""
  path = folder / "model.json"
  old = json.loads(path.read_text())
  del old["seal"]
  path.write_text(json.dumps({**old, **facts}))


def refused(read, folder):
  with pytest.raises(ValueError) as error:
    read(folder)
  message = str(error.value)
  assert "\n" not in message and str(folder / "model.json") in message
  return message


def test_a_sound_folder_is_read_by_both_readers(folder):
  saved, (network, variables, new_head, _) = networks.read_network(folder), load(folder)
  assert (saved.classes, saved.image_shape) == (CLASSES, SHAPE)
  assert saved.reader.preprocess == data.Preprocess()
  assert network.module == saved.module and not new_head
  assert jax.tree.structure(variables) == jax.tree.structure(saved.variables)


def test_a_folder_of_before_is_read(folder):
  changed(folder)
  (folder / "variables" / "checksums.json").unlink()
  assert networks.read_network(folder).classes == CLASSES
  load(folder)


BOTH = {
  "number Infinity": {"width": float("inf")},
  "number NaN": {"image_shape": [float("nan"), 16, 3]},
  "nested more than 64 deep": {"preprocess": json.loads("[" * 80 + "]" * 80)},
  "1 names for 4 logits": {"classes": ["ash"]},
  "5 names for 4 logits": {"classes": [*CLASSES, "yew"]},
  "must be a list of names": {"classes": "oaks"},
  "its image_shape cannot be used ([0, 16, 3]": {"image_shape": [0, 16, 3]},
  "its image_shape cannot be used (0 must": {"image_shape": 0},
  "its image_shape cannot be used ([16, 16]": {"image_shape": [16, 16]},
  "its image_shape cannot be used ([12, -16, 3]": {"image_shape": [12, -16, 3]},
  "its image_shape cannot be used ([12, 1048576, 3]": {"image_shape": [12, 2**20, 3]},
  "its image_shape cannot be used ([12, 16.5, 3]": {"image_shape": [12, 16.5, 3]},
  "its name cannot be used (7": {"name": 7},
  "its width cannot be used": {"width": "wide"},
  "its config cannot be used": {"config": 3},
  "its config cannot be used ({} must": {"config": {}},
}


@pytest.mark.parametrize("reader", [networks.read_network, load])
@pytest.mark.parametrize("reason", BOTH)
def test_what_cannot_be_is_one_line_that_names_the_file(reason, reader, folder):
  changed(folder, **BOTH[reason])
  assert reason in refused(reader, folder)


@pytest.mark.parametrize("reader", [networks.read_network, load])
@pytest.mark.parametrize("text", ["null", "[]", "", "{", "[" * 10**5, '"model"', "1e999", "{}"])
def test_a_file_that_describes_nothing_is_one_line(text, reader, folder):
  (folder / "model.json").write_text(text)
  refused(reader, folder)


def test_a_folder_of_the_first_versions_serves_as_teacher(folder):
  changed(folder, config=None)
  saved = pretrained.read_weights_for(None, str(folder), role="teacher", wanted={})
  assert saved.module == models.resnet8(4)


READ = {
  "it lacks config": {"config": None},
  "its reader cannot be used (black images": {
    "preprocess": {"center": 1e38, "scale": 1e-38, "per_image": False, "epsilon": 0.1}
  },
  "its reader cannot be used": {"preprocess": 5},
  "its reader cannot be used (": {
    "preprocess": {"center": [1, 2], "scale": 64.0, "per_image": True, "epsilon": 0.1}
  },
  "format 2 and this version reads 1 to 1; update": {
    "config": {"format": 2, "model": "resnet8", "num_classes": 4, "options": {}}
  },
  "names a network that cannot be built": {
    "config": {"format": 1, "model": "resnet9", "num_classes": 4, "options": {}}
  },
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("reason", READ)
def test_what_only_one_reader_needs_is_one_line(reason, folder):
  changed(folder, **READ[reason])
  assert reason in refused(networks.read_network, folder)


@pytest.mark.parametrize(
  ("facts", "reason"),
  [
    ({"classes": ["ash"]}, "its classes cannot be used (1 names for 4 logits"),
    ({"image_shape": [0, 8, 3]}, "its image_shape cannot be used"),
    ({"preprocess": [1]}, "its reader cannot be used"),
  ],
)
def test_a_file_of_models_save_is_looked_at_alike(facts, reason, sound, tmp_path):
  saved = networks.read_network(sound)
  path = models.save(tmp_path / "a.safetensors", saved.module, saved.variables, metadata=facts)
  with pytest.raises(ValueError) as error:
    networks.read_network(path)
  assert reason in str(error.value) and str(path) in str(error.value)
