"""A teacher in an .onnx file, of any framework, run by onnxruntime."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from jaxcompress.data.preprocess import Preprocess
from jaxcompress.files.checksums import read_sealed
from jaxcompress.files.extras import require
from jaxcompress.files.values import one_line, parse_json
from jaxcompress.nn import Endpoints
from jaxcompress.nn.graph import LOGITS

LAYOUTS = {"NCHW": 1, "NHWC": 3}  # axis of the channels
INPUTS = {
  "tensor(float)": np.dtype(np.float32),
  "tensor(float16)": np.dtype(np.float16),
  "tensor(uint8)": np.dtype(np.uint8),
}
ENTRY = "jaxcompress"  # of metadata in files of this package
FATAL = 4  # of what onnxruntime logs


@dataclasses.dataclass(frozen=True)
class OnnxTeacher:
  """A network in an .onnx file as a teacher; its outputs come to a run by :func:`cache_teacher`.

  Called on images as the file reads them but for their layout, (batch, height, width, channels), it
  gives :class:`~jaxcompress.nn.Endpoints` of NumPy arrays. A file for a fixed number of images is run
  as often as that takes.

  Attributes:
    path: of the file; it reads one array of images, float32, float16 or uint8.
    layout: of its images, ``"NCHW"`` or ``"NHWC"``; None: as the number of channels that it declares
      says.
    logits: name of the output with the logits, (batch, classes); None: ``"logits"``, or the only one
      that can be.
    pooled: name of the output with the penultimate features, (batch, features), or a map of them,
      which is averaged over its pixels; None: the file has none.

  Raises:
    MissingExtraError: when used, if the ``edge`` extra is not installed.
    ValueError: if ``layout`` is another; when used, if the file cannot be read, has another input or
      no such outputs, or reads images of another size.

  Examples:
    >>> import jax, tempfile
    >>> from jaxcompress import export, models
    >>> from jaxcompress.nn import fold, init_variables
    >>> model = models.resnet8(10)
    >>> variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    >>> graph = models.summarize(model).graph
    >>> path = export.onnx_float(graph, fold(graph, variables), tempfile.mkdtemp() + "/teacher.onnx")
    >>> OnnxTeacher(path)(np.ones((2, 32, 32, 3), np.float32)).logits.shape
    (2, 10)
  """

  path: str | os.PathLike
  layout: str | None = None
  logits: str | None = None
  pooled: str | None = None

  def __post_init__(self):
    object.__setattr__(self, "path", pathlib.Path(self.path))
    if self.layout not in (None, *LAYOUTS):
      raise ValueError(f"layout: {self.layout!r} must be NCHW or NHWC, or None.")

  @functools.cached_property
  def _session(self) -> Any:
    self._check_there()
    require("onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    try:  # by its path, since large files keep their weights in others beside them
      session = onnxruntime.InferenceSession(
        str(self.path), options, providers=["CPUExecutionProvider"]
      )
    except Exception as error:  # onnxruntime's have no common base
      raise ValueError(
        f"{self._what} cannot be opened by onnxruntime ({one_line(error)})."
      ) from error
    ends = session.get_inputs()
    if len(ends) != 1 or len(ends[0].shape) != 4 or ends[0].type not in INPUTS:
      found = ", ".join(f"{end.name} {end.shape} {end.type}" for end in ends) or "nothing"
      raise ValueError(
        f"{self._what} reads {found}; it must read one array of images with four axes, float32, float16"
        " or uint8."
      )
    return session

  @property
  def _what(self) -> str:
    return f"path: {self.path}"

  def _check_there(self) -> str:
    """The checksum of the file, which is as it was written."""
    content, _ = read_sealed(self.path, self._what, rewritable=True)
    return hashlib.blake2b(content, digest_size=16).hexdigest()

  @property
  def fingerprint(self) -> str:
    """A hash of the file and of how it is read, which tells its stored outputs from those of others."""
    return f"{self._check_there()} {self.layout} {self.logits} {self.pooled}"

  @property
  def dtype(self) -> Any:
    """The dtype of the images that the file reads."""
    return INPUTS[self._session.get_inputs()[0].type]

  @functools.cached_property
  def preprocess(self) -> Preprocess | None:
    """The preprocessing that the file's metadata state, as files of this package do; else None."""
    texts = self._session.get_modelmeta().custom_metadata_map
    if ENTRY not in texts:
      return None
    try:
      values = parse_json(texts[ENTRY]).get("preprocess")
      return None if values is None else Preprocess.from_metadata(values)
    except (AttributeError, TypeError, ValueError) as error:
      raise ValueError(
        f"{self._what} has metadata that are damaged ({one_line(error)})."
      ) from error

  def __call__(self, images: Any) -> Endpoints:
    """The outputs for images as the file reads them, (batch, height, width, channels)."""
    images = np.asarray(images)
    session, end = self._session, self._session.get_inputs()[0]
    axis = self._channel_axis(end.shape, images.shape)
    if images.dtype != self.dtype and not (
      np.issubdtype(images.dtype, np.floating) and np.issubdtype(self.dtype, np.floating)
    ):
      raise ValueError(
        f"{self._what} reads {self.dtype.name} and the images are {images.dtype.name}; give"
        " preprocess, which maps them to what it reads."
      )
    fed = images.astype(self.dtype, copy=False)
    fed = np.ascontiguousarray(fed.transpose(0, 3, 1, 2)) if axis == 1 else fed
    declared = [size for size in end.shape[1:] if isinstance(size, int)]
    wrong = [
      a for a, b in zip(end.shape[1:], fed.shape[1:], strict=True) if isinstance(a, int) and a != b
    ]
    if declared and wrong:
      raise ValueError(
        f"{self._what} reads images of {tuple(end.shape[1:])} and these are {fed.shape[1:]}; bring them"
        " to its size with preprocess."
      )
    names = [self._logits_name()] + (
      [] if self.pooled is None else [self._known("pooled", self.pooled)]
    )
    found = self._run(session, end, fed, names)
    pooled: Any
    logits, pooled = found[0], None if self.pooled is None else found[1]
    if logits.ndim != 2 or len(logits) != len(images):
      raise ValueError(
        f"logits: {names[0]!r} of {self.path} has shape {logits.shape} for {len(images)} images; it must"
        " be (batch, classes)."
      )
    if pooled is not None:
      pooled = self._averaged(pooled, axis, len(images))
    ends: Any = (logits, pooled)
    return Endpoints(*ends)

  def _run(self, session: Any, end: Any, fed: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """The outputs, in as many runs as a fixed number of images takes."""
    size = end.shape[0] if isinstance(end.shape[0], int) else len(fed)
    runs = []
    for start in range(0, len(fed), size):
      part = fed[start : start + size]
      whole = part if len(part) == size else np.resize(part, (size, *part.shape[1:]))
      try:
        found = session.run(names, {end.name: whole})
      except Exception as error:  # as above
        raise ValueError(f"{self._what} cannot be run ({one_line(error)}).") from error
      runs.append([np.asarray(x)[: len(part)] for x in found])
    return [np.concatenate(parts).astype(np.float32) for parts in zip(*runs, strict=True)]

  def _channel_axis(self, declared: list[Any], shape: tuple[int, ...]) -> int:
    if len(shape) != 4 or 0 in shape:
      raise ValueError(
        f"images: shape {shape} must be (batch, height, width, channels), each at least 1."
      )
    if self.layout is not None:
      return LAYOUTS[self.layout]
    fitting = [axis for axis in LAYOUTS.values() if declared[axis] == shape[3]]
    if len(fitting) != 1:
      raise ValueError(
        f"layout: {self.path} reads {declared}, which does not say where the {shape[3]} channels are;"
        " give layout='NCHW' or 'NHWC'."
      )
    return fitting[0]

  def _outputs(self) -> dict[str, Any]:
    return {end.name: list(end.shape) for end in self._session.get_outputs()}

  def _known(self, argument: str, name: str) -> str:
    if name not in self._outputs():
      raise ValueError(
        f"{argument}: {name!r} is no output of {self.path}; it has {', '.join(self._outputs())}."
      )
    return name

  def _logits_name(self) -> str:
    outputs = self._outputs()
    if self.logits is not None:
      return self._known("logits", self.logits)
    candidates = [
      name for name, shape in outputs.items() if len(shape) == 2 and name != self.pooled
    ]
    if LOGITS in outputs or len(candidates or outputs) == 1:
      return LOGITS if LOGITS in outputs else next(iter(candidates or outputs))
    shown = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
    raise ValueError(
      f"logits: {self.path} has the outputs {shown}; name the one with (batch, classes)."
    )

  def _averaged(self, pooled: np.ndarray, axis: int, count: int) -> np.ndarray:
    if pooled.ndim == 4:
      pooled = pooled.mean((2, 3) if axis == 1 else (1, 2))
    if pooled.ndim != 2 or len(pooled) != count:
      raise ValueError(
        f"pooled: {self.pooled!r} of {self.path} has shape {pooled.shape} for {count} images; it must be"
        " (batch, features), or a map."
      )
    return pooled
