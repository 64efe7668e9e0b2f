"""Hashes of a run's images and initial weights, by which a resumed run recognizes them."""

import pathlib
from collections.abc import Mapping

from jaxcompress.data.dataset import Dataset
from jaxcompress.files.records import read_record, write_record
from jaxcompress.pipeline.folders import CONTENTS_FILE
from jaxcompress.pipeline.given import GivenNetwork, hash_of_data, hash_of_network
from jaxcompress.pipeline.options import CompressOptions
from jaxcompress.pipeline.pretrained import Start
from jaxcompress.training import processes


def check_contents(
  folder: pathlib.Path, options: CompressOptions, data: Dataset, starts: Mapping[str, Start | None]
) -> None:
  """Checks that a resumed run has the images and weights that it began with; a new one notes them.

  Args:
    folder: of the run.
    options: of the run.
    data: its images.
    starts: what its networks start from, by their roles.

  Raises:
    ValueError: on every process, if images or weights are others than they were.
  """
  wrong = None
  if processes.is_first():
    try:
      _check(folder, options, _contents(data, starts))
    except ValueError as error:
      wrong = str(error)
  wrong = processes.shared(wrong)
  if wrong is not None:
    raise ValueError(wrong)


def _contents(data: Dataset, starts: Mapping[str, Start | None]) -> dict[str, str]:
  """Hashes, by what they are of."""
  found = {"data": hash_of_data(data)}
  for role, start in starts.items():
    if start is not None:
      given = GivenNetwork(start.network.module, start.variables, start.new_head)
      found[f"{role}_weights"] = hash_of_network(given)
  return found


def _check(folder: pathlib.Path, options: CompressOptions, found: dict[str, str]) -> None:
  path = folder / CONTENTS_FILE
  if not path.exists():  # a new run, or one of a version that did not write it
    write_record(path, found)
    return
  began = read_record(path, dict[str, str], "start anew")
  for name in ("student_weights", "teacher_weights", "data"):  # weights say how images are read
    if began.get(name) != found.get(name):
      what = "has other images or classes" if name == "data" else "holds others"
      raise ValueError(
        f"{name}: {getattr(options, name)} {what} than when the run in {folder} was started; put back what"
        " was there, or start another run."
      )
