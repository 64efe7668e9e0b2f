"""Numbers as people read them; shared by the terminal, the plots and the page."""

import math
import re

from rich import filesize

UNITS = r"(?<=\d) (?=(?:%|B|kB|MB|ms|s|min|h|k|M|G|points|steps|x)\b|%)"


def percent(share: float, digits: int = 1) -> str:
  """A share as a percentage.

  Examples:
    >>> percent(0.9032), percent(1.0)
    ('90.3 %', '100.0 %')
  """
  return f"{100 * share:.{digits}f} %"


def percent_down(share: float) -> str:
  """A share as a percentage that says 100 % only when all is meant.

  Examples:
    >>> percent_down(1.0), percent_down(0.9999999), percent_down(0.5)
    ('100 %', '99.99 %', '50.00 %')
  """
  return "100 %" if share >= 1 else f"{math.floor(share * 10_000 + 1e-9) / 100:.2f} %"


def points(difference: float) -> str:
  """A difference of two shares in percentage points, with its sign.

  Examples:
    >>> points(0.028), points(-0.0026)
    ('+2.8 points', '-0.3 points')
  """
  return f"{100 * difference:+.1f} points"


def count(number: float) -> str:
  """A count in thousands, millions or billions.

  Examples:
    >>> count(950), count(9_540), count(88_431), count(3_504_872), count(5_910_000_000)
    ('950', '9.5 k', '88 k', '3.5 M', '5.9 G')
  """
  for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
    if number >= 0.9995 * size:
      value = number / size
      return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
  return f"{number:.0f}"


def size(number: float) -> str:
  """Bytes in decimal units, with two or three digits.

  Examples:
    >>> size(640), size(1_790), size(13_400), size(134_000), size(999_700), size(13_970_000)
    ('640 B', '1.8 kB', '13.4 kB', '134 kB', '1.00 MB', '14.0 MB')
  """
  rounded = int(float(f"{number:.3g}"))
  digits = min(2 - (len(str(rounded)) - 1) % 3, 1 if rounded < 1e6 else 2)
  return filesize.decimal(rounded, precision=digits).replace(" bytes", " B")


def milliseconds(number: float) -> str:
  """A latency with two or three digits, of which at most four are decimals.

  Examples:
    >>> milliseconds(0.0453), milliseconds(0.453), milliseconds(12.34), milliseconds(1234.5)
    ('0.045 ms', '0.45 ms', '12.3 ms', '1234 ms')
    >>> milliseconds(0.0004)
    '0.0004 ms'
  """
  if 0 < number < 0.001:
    return f"{number:.4f} ms"
  digits = 3 if number < 0.1 else 2 if number < 10 else 1 if number < 100 else 0
  return f"{number:.{digits}f} ms"


def duration(seconds: float) -> str:
  """A span of time.

  Examples:
    >>> duration(4.21), duration(75), duration(7500)
    ('4.2 s', '1 min 15 s', '2 h 5 min')
  """
  if seconds < 59.5:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
  whole = round(seconds)
  if whole < 3600:
    return f"{whole // 60} min {whole % 60} s"
  return f"{whole // 3600} h {whole % 3600 // 60} min"


def times(ratio: float) -> str:
  """A ratio as a factor.

  Examples:
    >>> times(3.58), times(41.4)
    ('3.6x', '41x')
  """
  return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:.0f}x"


def significant(number: float, digits: int = 3) -> str:
  """A real number with a few significant digits, without an exponent where that reads well.

  Examples:
    >>> significant(0.0723941), significant(12.3456), significant(0.0), significant(3.2e-7)
    ('0.0724', '12.3', '0', '3.2e-07')
  """
  return f"{number:.{digits}g}"


def shape(dimensions: tuple[int, ...]) -> str:
  """A shape without its batch.

  Examples:
    >>> shape((16, 16, 24)), shape((47,))
    ('16 x 16 x 24', '47')
  """
  return " x ".join(map(str, dimensions))


def clip(label: str, length: int) -> str:
  """A label cut to a length, with an ellipsis where something is missing.

  Examples:
    >>> clip("sunflower", 6), clip("rose", 6)
    ('sunfl…', 'rose')
  """
  return label if len(label) <= length else label[: length - 1] + "…"


def unbroken(sentence: str) -> str:
  """A sentence whose numbers stay on one line with their units, by no-break spaces.

  Examples:
    >>> unbroken("90.3 % in 0.13 MB").split(" ")
    ['90.3\\xa0%', 'in', '0.13\\xa0MB']
  """
  return re.sub(UNITS, "\N{NO-BREAK SPACE}", sentence)


def article(number: str) -> str:
  """The indefinite article before a number that :func:`count` made.

  Examples:
    >>> article("88 k"), article("11 k"), article("3.5 M"), article("180 k")
    ('An', 'An', 'A', 'A')
  """
  whole = number.split()[0].split(".")[0]
  return "An" if whole.startswith("8") or whole in ("11", "18") else "A"
