"""The result of locating a device's fault, and its text."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxcompress.export.faults.dump import MOST_NAMED
from jaxcompress.export.faults.search import Explanation, grouped


class Located(NamedTuple):
  """The first tensor in which a device computed other integers.

  Attributes:
    layer: name of the operation, ``"input"`` for what the network reads; None: nothing differs.
    op: its kind, such as ``"ConvNorm"``.
    tensor: that differs.
    share: of its integers that differ from what exact evaluation makes of the operation's inputs.
    most_steps: of the largest difference.
    mean: of the differences over all of its integers, the device's less ours.
    where: ``(row, column, channel)`` of the first one; of vectors ``(channel,)``.
    image: of the first one.
    explanation: all rules that give the very integers of the device, in all images.
    nearest: what comes nearest where there are none.
    nearest_share: of the integers that it gives, in the image of the first difference.
    among: names of the operations of which it is one: where results before it were not printed.
    untried: how many of these no rule was tried on.
    tried: on how many later operations the rules that explain the first one were tried, too.
    also: names of later operations whose integers are not what their own inputs make, either.
    kernels: runtimes by whose rules all that was printed is equal.
    checked: names of the tensors that were compared.
    missing: tensors of the model that were not printed.
    skipped: what was printed that is no tensor of the model.
    images: how many.
  """

  layer: str | None = None
  op: str | None = None
  tensor: str | None = None
  share: float = 0.0
  most_steps: int = 0
  mean: float = 0.0
  where: tuple[int, ...] = ()
  image: int = 0
  explanation: tuple[Explanation, ...] = ()
  nearest: Explanation | None = None
  nearest_share: float = 0.0
  among: tuple[str, ...] = ()
  untried: int = 0
  tried: int = 0
  also: tuple[str, ...] = ()
  kernels: tuple[str, ...] = ()
  checked: tuple[str, ...] = ()
  missing: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  images: int = 0

  @property
  def is_equal(self) -> bool:
    """Whether nothing differs."""
    return self.layer is None

  def __str__(self) -> str:
    return "\n".join(f"{name}: {words}" if name else words for name, words in self.rows())

  def rows(self) -> list[tuple[str, str]]:
    """Returns the lines of the result, (title, text) each."""
    total = len(self.checked) + len(self.missing)
    rows = []
    if self.layer is None:
      rows.append(("equal", f"all {len(self.checked)} tensors that were printed, of {total}"))
    else:
      place = f"at {self._place()} of image {self.image}"
      rows += [
        ("first fault", f"{self.layer} ({self.op})"),
        ("tensor", f"{self.tensor}"),
        ("differs", f"{self.share:.3%} of its integers, by up to {self.most_steps} steps"),
        ("mean", f"{self.mean:+.4g} steps, the device's less ours"),
        ("first place", place),
      ]
      rows += [("explained by", words) for words in grouped(self.explanation, self.tried)]
      if not self.explanation:
        rows.append(("explained by", "no rule that is known gives these integers"))
      if self.nearest is not None:
        words = f"{self.nearest}, which gives {self.nearest_share:.3%} of the integers"
        rows.append(("nearest", words))
      if len(self.among) > 1:
        rows.append(("or one before", f"{listed(self.among[:-1])}, whose results were not printed"))
      if self.untried:
        rows.append(("not tried", f"rules on {self.untried} of these operations"))
      if self.also:
        rows.append(("also differ", f"{len(self.also)} later operations: {listed(self.also)}"))
      if self.kernels:
        rows.append(("all is equal", f"by the kernels of {', '.join(self.kernels)}"))
      rows.append(("checked", f"{len(self.checked)} of {total} tensors, {self.images} images"))
    if self.missing:
      rows.append(("not printed", f"{len(self.missing)}: {listed(self.missing)}"))
    if self.skipped:
      rows.append(("skipped", f"{len(self.skipped)} that are no tensors: {listed(self.skipped)}"))
    return rows

  def _place(self) -> str:
    names = ("row", "column", "channel")[-len(self.where) :] if len(self.where) != 2 else ()
    if not names:
      return f"{self.where}"
    return ", ".join(f"{name} {at}" for name, at in zip(names, self.where, strict=True))


def listed(names: Sequence[str]) -> str:
  """Names, the first few of many.

  Examples:
    >>> listed(["a", "b"])
    'a, b'
  """
  rest = len(names) - MOST_NAMED
  return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
