"""Writes a network in C as a folder, with all that stands around the sources."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxcompress.export.c99.manifest import (
  MANIFEST,
  SOURCES,
  Calls,
  Sizes,
  end_bytes,
  ends_of,
  is_c,
  manifest_text,
  read_manifest,
)
from jaxcompress.export.c99.pictures import (
  PIXEL_KINDS,
  c_string,
  check_files,
  picture_files,
  reads_pixels,
  scored_output,
)
from jaxcompress.export.c99.readme import readme
from jaxcompress.export.c99.templates import fill
from jaxcompress.export.interpreters import End
from jaxcompress.export.metadata import own_version, with_preprocess
from jaxcompress.files.writing import temporary_beside
from jaxcompress.quantize import QuantizedModel


def write_folder(
  folder: str | os.PathLike,
  quantized: QuantizedModel,
  sources: Mapping[str, str],
  *,
  name: str,
  calls: Calls,
  sizes: Sizes,
  metadata: Mapping[str, Any] | None = None,
  force: bool = False,
) -> pathlib.Path:
  """Writes a folder of C; what a folder of ours held before is replaced.

  Args:
    folder: is made if it is not there; the one above it must be there.
    quantized: the network that the sources compute.
    sources: texts of C by name of the file.
    name: with which all names in C begin.
    calls: how the network is called.
    sizes: what it takes.
    metadata: JSON values kept in it.
    force: whether files of the same names are replaced in a folder that export.c did not write, or was
      changed.

  Returns:
    The folder.

  Raises:
    ValueError: if the folder holds other files or was changed, or cannot be written; or the metadata is
      no JSON.
  """
  folder = pathlib.Path(os.path.abspath(folder))  # "." has no name
  check_free(folder, force=force)
  texts = all_files(quantized, sources, folder.name, name, calls, sizes, metadata)
  files = {path: text.encode() for path, text in texts.items()}
  check_places(folder, (*files, MANIFEST), force=force)
  manifest = manifest_text(quantized, name, calls, sizes, files, metadata)
  temporary = temporary_beside(folder)
  try:
    for path, content in {**files, MANIFEST: manifest}.items():
      (temporary / path).parent.mkdir(parents=True, exist_ok=True)
      (temporary / path).write_bytes(content)
    replace_folder(temporary, folder)
  except OSError as error:
    raise ValueError(f"folder: {folder} cannot be written ({error.strerror}).") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return folder


def replace_folder(source: pathlib.Path, target: pathlib.Path) -> None:
  """Moves a folder that was written to its place; files of others that are there stay.

  Where one of ours was there, its manifest goes first and the new one comes last: a folder that a kill
  leaves half is refused.

  Raises:
    OSError: if it cannot be written.
  """
  old: set[str] = set()
  if is_c(target):
    with contextlib.suppress(ValueError):  # it was changed
      old = set(read_manifest(target).entry["c"]["files"])
    (target / MANIFEST).unlink()
  paths = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
  for name in old - set(map(str, paths)):
    (target / name).unlink(missing_ok=True)
  for path in sorted(paths, key=lambda path: str(path) == MANIFEST):
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    os.replace(source / path, target / path)


def all_files(
  quantized: QuantizedModel,
  sources: Mapping[str, str],
  folder: str,
  name: str,
  calls: Calls,
  sizes: Sizes,
  metadata: Mapping[str, Any] | None,
) -> dict[str, str]:
  """Texts of all files but the manifest, by their paths; arguments as of :func:`write_folder`."""
  entry = with_preprocess(quantized, metadata)
  source, outputs = ends = ends_of(quantized)
  pictures = picture_files(quantized, name, calls, entry)
  own = {**sources, **pictures, **check_files(quantized, name, calls)}
  compiled = "\n".join(f"  {SOURCES}/{path}" for path in sorted(own) if path.endswith(".c"))
  pixels, scored = reads_pixels(quantized), scored_output(quantized)
  values: dict[str, Any] = {
    "name": name,
    "NAME": name.upper(),
    "header": calls.header,
    "version": own_version(),
  }
  values |= {"input": calls.input, "run": calls.run, "count": int(np.prod(source.shape))}
  values["rows"], values["columns"], values["channels"] = source.shape[1:]
  size = f"{source.shape[1]} x {source.shape[2]}"
  return {
    **{f"{SOURCES}/{path}": text for path, text in own.items()},
    "main.c": main_text(values, source, outputs, calls, pixels=pixels, scored=scored),
    "Makefile": fill("Makefile", **values),
    "CMakeLists.txt": fill("CMakeLists.txt", sources=compiled, **values),
    "library.properties": fill(
      "library.properties",
      sentence=f"A quantized network for pictures of {size} pixels.",
      arena=sizes.ram,
      weights=sizes.weights,
      **values,
    ),
    f"examples/{name}/{name}.ino": sketch_text(
      values, source, calls, pixels=pixels, scored=scored is not None
    ),
    "README.md": readme(quantized, name, folder, calls, sizes, ends, entry, sources),
  }


def main_text(
  values: Mapping[str, Any],
  source: End,
  outputs: tuple[End, ...],
  calls: Calls,
  *,
  pixels: bool,
  scored: int | None,
) -> str:
  """The program for computers."""
  kind, digit = PIXEL_KINDS.get(source.shape[-1], ("", "")) if pixels else ("", "")
  read = fill("read_picture.c", kind=kind, digit=digit, **values) if kind else fill("no_picture.c")
  places = range(len(outputs)) if scored is None else (scored,)
  prints = [
    fill(
      "print_integers.c" if scored is None else "print_classes.c",
      **{
        **values,
        "type": f"{outputs[i].dtype}_t",
        "output": calls.outputs[i],
        "label": c_string(outputs[i].name)[1:-1],
        "count": int(np.prod(outputs[i].shape)),
      },
    )
    for i in places
  ]
  size = end_bytes(source)
  return fill(
    "main.c", read_picture=read, print="".join(prints).rstrip("\n"), input_bytes=size, **values
  )


def sketch_text(
  values: Mapping[str, Any], source: End, calls: Calls, *, pixels: bool, scored: bool
) -> str:
  """The example for Arduino."""
  body = ""
  if pixels:
    in_place = source.dtype == "int8"
    buffer = f"reinterpret_cast<uint8_t *>({calls.input})"
    colours = {1: "", 3: " (red, green and blue)"}.get(source.shape[-1], " of all channels")
    static = f"  static uint8_t picture[{values['count']}];\n"
    body += "" if in_place else static
    body += fill(
      "sketch_pixels.ino", colours=colours, buffer=buffer if in_place else "picture", **values
    )
  else:
    body += fill("sketch_integers.ino", type=f"{source.dtype}_t", **values)
  body += f"  {calls.run};\n"
  if scored:
    body += fill("sketch_scores.ino", **values)
  else:
    body += f"  Serial.println({calls.outputs[0]}[0]);\n"
  return fill("sketch.ino", body=body, **values)


def check_places(folder: pathlib.Path, paths: Iterable[str], *, force: bool) -> None:
  """Checks that files may be written where they go: what the folder was not written with is the user's.

  Args:
    folder: that will be written.
    paths: of the files within it.
    force: whether files of others are replaced.

  Raises:
    ValueError: if a file of others, or without ``force`` one of the user's, is in the way.
  """
  own = {MANIFEST}
  if not force and is_c(folder):
    own |= set(read_manifest(folder).entry["c"]["files"])
  for path in paths:
    above = list(pathlib.PurePath(path).parents)[:-1]
    wrong = [
      place for place in above if os.path.lexists(folder / place) and not (folder / place).is_dir()
    ]
    if wrong:
      raise ValueError(
        f"folder: {folder / wrong[0]} must be a folder; name another one, or move it."
      )
    place = folder / path
    if place.is_dir():
      raise ValueError(
        f"folder: {place} is a folder where a file goes; name another one, or move it."
      )
    if not force and path not in own and os.path.lexists(place):
      raise ValueError(
        f"folder: {place} is not one of the files that it was written with; move it, or pass force=True to"
        " replace it."
      )


def check_free(folder: pathlib.Path, *, force: bool = False) -> None:
  """Checks that a folder may be written: it is not there, empty, or as it was written before.

  Args:
    folder: that will be written.
    force: whether it may also be another one.

  Raises:
    ValueError: if it may not.
  """
  if not folder.parent.is_dir():
    raise ValueError(f"folder: {folder.parent} does not exist; make it, or name another.")
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"folder: {folder} is a file; name another.")
  if force:
    return
  if is_c(folder):
    read_manifest(folder)
  elif folder.is_dir() and any(folder.iterdir()):
    raise ValueError(
      f"folder: {folder} has other files; name another, or pass force=True to write beside them."
    )
