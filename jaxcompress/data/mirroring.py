"""Whether a mirrored image keeps its class, as far as the classes' names tell."""

import dataclasses
import re
import string
from collections.abc import Iterable

from jaxcompress.data.dataset import Dataset
from jaxcompress.data.walk import normal, printable

SIDES = (
  "left leftward leftwards right rightward rightwards clockwise anticlockwise counterclockwise cw ccw"
  " east eastbound west westbound arrow arrows turn l r lh rh lhs rhs"
  " links rechts rechtsherum linksherum pfeil ost westen osten abbiegen"
  " gauche droite droit fleche flèche est ouest"
  " izquierda izquierdo derecha derecho flecha este oeste"
  " sinistra sinistro destra destro freccia esquerda esquerdo direita direito seta"
  " pijl lewo lewa lewy prawo prawa prawy strzałka vänster höger pil"
  " лево левый налево право правый направо стрелка"
)
WRITING = (
  "letter letters lowercase uppercase character characters char alphabet glyph digit digits number"
  " numbers numeral text texts word words handwriting handwritten signature sign signs barcode limit"
  " buchstabe ziffer zahl schild lettre chiffre panneau letra cifra numero número señal"
  " zero one two three four five six seven eight nine ten"
  " null eins zwei drei vier fünf sechs sieben acht neun zehn"
)
KINDS = {word: "a direction" for word in SIDES.split()} | {
  word: "writing" for word in WRITING.split()
}
PARTS = {  # of names in scripts that do not part words
  "左": "a direction",
  "右": "a direction",
  "왼": "a direction",
  "오른": "a direction",
}
PLAIN = frozenset(["class", "label", "category", "id", "type", "no", "nr", "klasse", "classe"])
WORDS = re.compile(r"[^\W_]+")
CAMEL = re.compile(r"(?<=[a-zß-öø-ÿ])(?=[A-Z])")


def unsafe_to_mirror(classes: Iterable[str]) -> tuple[str, str] | None:
  """The first class whose name looks like one that a mirror changes.

  Directions in some languages, digits, letters, and words for writing, such as "left", "arrow_l",
  "7", "six", "b" or "stop sign". That nothing is found is no proof.

  Args:
    classes: names.

  Returns:
    The name and what it looks like, or None.

  Examples:
    >>> unsafe_to_mirror(["cat", "turnLeft"]), unsafe_to_mirror(["0", "1"])
    (('turnLeft', 'a direction'), ('0', 'a number'))
    >>> unsafe_to_mirror(["cat", "bright copper", "001.Sparrow"])
  """
  for name in classes:
    if kind := _looks_like(name):
      return name, kind
  return None


def _looks_like(name: str) -> str | None:
  """Returns the kind of a class, by its name, whose pictures mirroring changes; None if it does not."""
  plain = normal(name).strip()
  if len(plain) == 1:
    return "a number" if plain.isdigit() else "a letter"
  for part, part_kind in PARTS.items():
    if part in plain:
      return part_kind
  words = [word.lower() for word in WORDS.findall(CAMEL.sub(" ", plain))]
  if not words:
    return "writing"
  for word in words:
    if kind := KINDS.get(word.rstrip(string.digits)):
      return kind
  if any(len(word) == 1 and word.isalpha() for word in words):
    return "a letter"
  if all(word.isdigit() or word.rstrip(string.digits) in PLAIN for word in words):
    return "a number" if plain[-1].isdigit() else None
  return None


def decide_flip(data: Dataset, asked: bool = False) -> Dataset:
  """Decides whether images are mirrored in training, where the set leaves that open.

  They are if mirroring was asked for and no class's name looks like a direction, a number or writing.

  Args:
    data: with a ``flip`` of True, False or None, which is open.
    asked: whether mirrored images are wanted where that is safe, as part of an augmentation.

  Returns:
    The set with a ``flip`` of True or False, and a line in ``notes`` that says which, and why.

  Examples:
    >>> import numpy as np
    >>> from jaxcompress.data import Split
    >>> part = Split(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2, dtype=np.int32))
    >>> names = ("left", "right")
    >>> data = Dataset(name="x", classes=names, train=part, validation=part, test=part)
    >>> found = decide_flip(data, asked=True)
    >>> found.flip, found.notes
    (False, ("images are not mirrored in training: the class 'left' looks like a direction (flip decides)",))
  """
  flip, why = data.flip, ""
  if flip is None:
    unsafe = unsafe_to_mirror(data.classes)
    flip = asked and unsafe is None
    if asked:
      why = "no class has a name that looks like a direction, a number or writing"
      if unsafe:
        why = f"the class '{printable(unsafe[0])}' looks like {unsafe[1]}"
    why = f"{': ' if why else ''}{why} (flip decides)"
  note = f"images are {'' if flip else 'not '}mirrored in training{why}"
  return dataclasses.replace(data, flip=flip, notes=(*data.notes, note))
