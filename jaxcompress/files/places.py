"""Places of files: on this machine, or in a bucket behind an address such as ``gs://bucket/run``."""

import os
import re
from collections.abc import Iterator

from etils import epath

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):(/+)")  # one letter is a drive of Windows
BUCKET = "gs"  # etils reads others, but orbax does not


def place_of(argument: str, path: str | os.PathLike) -> epath.Path:
  """A folder for reading and writing: absolute on this machine, or in a bucket.

  Args:
    argument: its name.
    path: text, or a path; ``pathlib.Path`` has no addresses.

  Raises:
    ValueError: if it is an address of another kind, or has lost a slash.

  Examples:
    >>> str(place_of("folder", "gs://bucket/run") / "1")
    'gs://bucket/run/1'
    >>> place_of("folder", "run").is_absolute()
    True
    >>> import pathlib
    >>> place_of("folder", pathlib.Path("gs://bucket/run"))
    Traceback (most recent call last):
    ValueError: folder: gs:/bucket/run has lost a slash, as in pathlib.Path; give it as text, gs://bucket/run.
  """
  text = os.fspath(path)
  scheme, slashes = _address(text)
  if not scheme:
    return epath.Path(os.path.abspath(text))
  if len(slashes) == 1:
    raise ValueError(
      f"{argument}: {text} has lost a slash, as in pathlib.Path; give it as text,"
      f" {text.replace(':/', '://', 1)}."
    )
  if scheme != BUCKET:
    raise ValueError(
      f"{argument}: {text} must be a path of this machine, or begin with {BUCKET}://; mount the bucket,"
      " and name its folder."
    )
  return epath.Path(text)


def check_local(argument: str, path: str | os.PathLike, why: str) -> None:
  """Checks that a path is of this machine.

  Args:
    argument: its name.
    path: text, or a path.
    why: what is done there that a bucket cannot do.

  Raises:
    ValueError: if it is an address.

  Examples:
    >>> check_local("out", "runs/a", "it is locked")
    >>> check_local("out", "gs://bucket/a", "a run locks its folder")
    Traceback (most recent call last):
    ValueError: out: gs://bucket/a is in a bucket, and a run locks its folder; name a folder of this machine, and copy it afterwards.
  """
  text = os.fspath(path)
  if isinstance(text, str) and _address(text)[0]:
    raise ValueError(
      f"{argument}: {text} is in a bucket, and {why}; name a folder of this machine, and copy it"
      " afterwards."
    )


def files_below(folder: epath.Path, *, without: str | None = None) -> Iterator[epath.Path]:
  """All files in a folder and in those in it, but for folders of a name.

  Examples:
    >>> import tempfile
    >>> folder = epath.Path(tempfile.mkdtemp())
    >>> (folder / "a" / "d").mkdir(parents=True)
    >>> _ = [(folder / name).write_text("") for name in ("a/b", "a/d/c")]
    >>> [path.name for path in files_below(folder, without="d")]
    ['b']
  """
  for path in folder.iterdir():
    if not path.is_dir():
      yield path
    elif path.name != without:
      yield from files_below(path, without=without)


def _address(text: str) -> tuple[str, str]:
  found = ADDRESS.match(text)
  return (found[1], found[2]) if found else ("", "")
