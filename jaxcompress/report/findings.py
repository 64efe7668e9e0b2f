"""Findings in sentences: the headline, and the titles of the plots."""

import math
from collections.abc import Sequence

import numpy as np

from jaxcompress.quantize.analysis.findings import Analysis
from jaxcompress.report import text
from jaxcompress.report.classes import balanced_accuracy, class_figures, confused_pairs
from jaxcompress.report.results import Entry, Point, Results

UNEVEN = 1.5  # times as many images in the largest class as in the smallest
MOST_NAMED = 3  # layers that are blamed
HOW = {"alone": ", trained alone,", "distilled": ", distilled,"}  # a student was trained


def standard_error(first: float, second: float, images: int) -> float:
  """Standard error of the difference of two shares, each of the same number of images.

  Examples:
    >>> round(standard_error(0.9, 0.9, 4000), 4)
    0.0067
  """
  return math.sqrt((first * (1 - first) + second * (1 - second)) / max(images, 1))


def headline(results: Results) -> str:
  """The result in one sentence.

  Examples:
    >>> from jaxcompress.report.results import COMPARED, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> headline(Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200), entries))
    'A 78 k-parameter resnet8 reaches 90.0 % top-1 on digits at int8, in 80.0 kB.'
  """
  entry = results.entries["int8"]
  number = text.count(entry.parameters)
  bits = "int8" if entry.weight_bits in (8, 32) else f"{entry.weight_bits}-bit weights"
  how = HOW.get(entry.made_from or "", "")
  sentence = (
    f"{text.article(number)} {number}-parameter {entry.model}{how} reaches {text.percent(entry.top1)} "
    f"top-1 on {results.run.data} at {bits}, in {text.size(entry.bytes)}"
  )
  if entry.bit_equal is None:
    return sentence + "."
  return f"{sentence}; {bit_equality(entry)} on {results.run.runtime}."


def bit_equality(entry: Entry) -> str:
  """How many logits are bit-equal, as a clause; never rounded up.

  Examples:
    >>> bit_equality(Entry("m", 0.9, 1, 1, 1, bit_equal=1.0, logits=188_000))
    '188,000 of 188,000 logits are bit-equal'
  """
  share = 0.0 if entry.bit_equal is None else entry.bit_equal
  if entry.logits is None:
    return f"{text.percent_down(share)} of the logits are bit-equal"
  equal = entry.logits if share >= 1 else round(share * entry.logits)
  equal = max(min(equal, entry.logits - (share < 1)), 0)
  return f"{equal:,} of {entry.logits:,} logits are bit-equal"


def shipped(results: Results) -> Entry:
  """The float network that the integers were made from."""
  return results.entries[results.entries["int8"].made_from or "distilled"]


def choice(results: Results) -> str:
  """Says which student is shipped, and why; nothing where that is not known.

  Examples:
    >>> from jaxcompress.report.results import Run
    >>> scored = lambda top1: Entry("m", 0.9, 1, 1, 1, validation_top1=top1, made_from="alone")
    >>> entries = {"alone": scored(0.95), "distilled": scored(0.92), "int8": scored(None)}
    >>> run = Run("digits", ("odd", "even"), (8, 8, 3), 1000, 200, validation_images=100)
    >>> choice(Results(run, entries))
    'shipped: the student alone, which gets 95.0 % of 100 validation images right, +3.0 points over the distilled one (standard error 3.5)'
  """
  key = results.entries["int8"].made_from
  if key not in ("alone", "distilled"):
    return ""
  names = {"alone": "the student alone", "distilled": "the distilled student"}
  other = "distilled" if key == "alone" else "alone"
  ours, theirs = (results.entries[name].validation_top1 for name in (key, other))
  count = results.run.validation_images
  if ours is None or theirs is None or not count:
    return f"shipped: {names[key]}"
  sentence = (
    f"shipped: {names[key]}, which gets {text.percent(ours)} of {count:,} validation images right"
  )
  if ours < theirs:
    return f"{sentence}; the preset's protocol has it so"
  rival = "the distilled one" if key == "alone" else "the one alone"
  if ours == theirs:
    return f"{sentence}, as many as {rival}"
  error = 100 * standard_error(ours, theirs, count)
  return f"{sentence}, {text.points(ours - theirs)} over {rival} (standard error {error:.1f})"


def right_and_wrong(confusion: np.ndarray) -> dict[str, int]:
  """How many images were ``right`` and ``wrong``.

  Examples:
    >>> right_and_wrong(np.array([[8, 2], [0, 9]]))
    {'right': 17, 'wrong': 2}
  """
  right = int(np.trace(confusion))
  return {"right": right, "wrong": int(np.sum(confusion)) - right}


def balance(confusion: np.ndarray) -> str:
  """Says what share is right where classes count alike; nothing where they are of one size.

  Examples:
    >>> balance(np.array([[90, 10], [5, 5]]))
    'Classes have 10 to 100 test images: 86.4 % of all are right, and 70.0 % on average over the classes (balanced accuracy)'
    >>> balance(np.array([[9, 1], [5, 5]]))
    ''
  """
  figures = class_figures(confusion)
  sizes = [one.support for one in figures if one.support]
  balanced = balanced_accuracy(figures)
  if balanced is None or max(sizes) < UNEVEN * min(sizes):
    return ""
  right = right_and_wrong(confusion)["right"] / sum(sizes)
  return (
    f"Classes have {min(sizes):,} to {max(sizes):,} test images: {text.percent(right)} of all are"
    f" right, and {text.percent(balanced)} on average over the classes (balanced accuracy)"
  )


def distillation(results: Results) -> str:
  """Says what the teacher brought."""
  alone, distilled = results.entries["alone"], results.entries["distilled"]
  steps = " at equal steps" if alone.steps == distilled.steps > 0 else ""
  before, after = text.percent(alone.top1), text.percent(distilled.top1)
  if within_noise(results):
    return f"Distilled and alone are equal within the noise{steps}: {after} and {before}"
  verb = "lifts" if distilled.top1 > alone.top1 else "lowers"
  return f"Distillation {verb} the student from {before} to {after} top-1{steps}"


def within_noise(results: Results) -> str:
  """Returns the note on a gain from distillation that is within its standard error, given in points.

  Examples:
    >>> from jaxcompress.report.results import COMPARED, Run
    >>> entries = dict.fromkeys(COMPARED, Entry("resnet8", 0.9, 77_850, 12_501_632, 80_000))
    >>> within_noise(Results(Run("digits", ("odd", "even"), (8, 8, 3), 1000, 4000), entries))
    ', within the noise (0.7)'
  """
  alone, distilled = (results.entries[key].top1 for key in ("alone", "distilled"))
  error = standard_error(alone, distilled, results.run.test_images)
  return f", within the noise ({100 * error:.1f})" if abs(distilled - alone) <= error else ""


def compression(results: Results) -> str:
  """Says what the integers cost and save."""
  small, large = results.entries["int8"], shipped(results)
  change = round(100 * (small.top1 - large.top1), 1)
  side = "below" if change < 0 else "above"
  against = f"{abs(change):.1f} points {side} it" if change else "as accurate as it"
  name = "int8" if small.weight_bits in (8, 32) else f"{small.weight_bits} bit"
  return (
    f"{name} reaches {text.percent(small.top1)} top-1 in {text.size(small.bytes)}: "
    f"{small.bytes / max(large.bytes, 1):.2f} of the float file, {against}"
  )


def costs(results: Results) -> str:
  """How much smaller the student is than its teacher."""
  teacher, small = results.entries.get("teacher"), results.entries["int8"]
  if teacher is None:
    return "What each network costs"
  return (
    f"Against the teacher: {_fewer(teacher.parameters, small.parameters)} parameters, "
    f"{_fewer(teacher.macs, small.macs)} multiply-adds, "
    f"{_smaller(teacher.bytes, small.bytes)}"
  )


def _fewer(large: float, small: float) -> str:
  if text.times(large / max(small, 1)) == text.times(1):
    return "as many"
  if small > large:
    return f"{text.times(small / max(large, 1))} more"
  return f"{text.times(large / max(small, 1))} fewer"


def _smaller(large: float, small: float) -> str:
  words = _fewer(large, small)
  if words == "as many":
    return "a file of the same size"
  return f"a {words.replace('fewer', 'smaller').replace('more', 'larger')} file"


def latency(results: Results) -> str:
  """How fast the device runs the integers."""
  small, large = results.entries["int8"], shipped(results)
  if small.latency_ms is None:
    return f"Latency on {results.run.runtime}"
  sentence = f"int8 takes {text.milliseconds(small.latency_ms)} an image on one thread"
  if not large.latency_ms:
    return sentence
  ratio = large.latency_ms / small.latency_ms
  word = "faster" if ratio >= 1 else "slower"
  return f"{sentence}, {text.times(max(ratio, 1 / ratio))} {word} than float"


def confusion(results: Results) -> str:
  """How many are right, and what is mixed up most."""
  matrix, names = np.asarray(results.confusion), results.run.classes
  right = int(np.trace(matrix))
  sentence = f"{right:,} of {int(matrix.sum()):,} test images are right"
  pairs = confused_pairs(matrix, 1)
  if not pairs:
    return sentence
  (pair,) = pairs
  true, predicted = text.clip(names[pair.true], 20), text.clip(names[pair.predicted], 20)
  return f"{sentence}; most often {true} is taken for {predicted} ({pair.count} of {pair.total})"


def activations(results: Results) -> str:
  """The widest tensor, which has the coarsest grid."""
  widest = max(results.ranges, key=lambda r: r.scale)
  return (
    f"The coarsest grid is that of {text.clip(widest.tensor, 40)}: "
    f"{text.significant(widest.low)} to {text.significant(widest.high)} "
    f"in steps of {text.significant(widest.scale)}"
  )


def weights(results: Results) -> str:
  """The layer whose channels differ most, which per-channel scales help most."""
  found = [(layer.weights, layer.name) for layer in results.layers if layer.weights is not None]
  dead = sum(weights.low <= 0 for weights, _ in found)
  finite = [(weights.ratio, name) for weights, name in found if math.isfinite(weights.ratio)]
  if not finite:
    return "Largest weight of each layer's channels"
  ratio, worst = max(finite, key=lambda pair: pair[0])
  sentence = (
    f"Channels differ most in {text.clip(worst, 40)}: "
    f"{text.times(ratio)} between their largest weights"
  )
  return f"{sentence}; {dead} layers have all-zero channels" if dead else sentence


def candidates(
  points: Sequence[Point], reference: float, compared_with: str = "float network"
) -> str:
  """Which network is best in its size, in a sentence.

  Examples:
    >>> candidates([Point("8 bits", 1000, 0.9), Point("mixed", 600, 0.89, True)], 0.9)
    'mixed: 89.0 % in 600 B, -1.0 points beside the float network.'
  """
  chosen = next((one for one in points if one.chosen), None)
  chosen = chosen or next((one for one in points if one.mixed), None)
  chosen = chosen or max(points, key=lambda one: one.score)
  return (
    f"{chosen.name}: {text.percent(chosen.score)} in {text.size(chosen.bytes)},"
    f" {text.points(chosen.score - reference)} beside the {compared_with}."
  )


def analysis(found: Analysis) -> str:
  """Says what an analysis found.

  Examples:
    >>> analysis(Analysis((), 30.0, 0.0, 1.0, 8))
    'The integer network decides as the float one on 100 % of 8 images; no layer stands out.'
  """
  start = (
    f"The integer network decides as the float one on {text.percent_down(found.agreement)} of"
    f" {found.images:,} images; "
  )
  total = sum(layer.isolated_kl for layer in found.layers)
  blamed = found.blamed()[:MOST_NAMED]
  if not blamed:
    return start + "no layer stands out."
  share = sum(layer.isolated_kl for layer in blamed) / total
  *names, last = (layer.name for layer in blamed)
  who = f"{', '.join(names)} and {last} make" if names else f"{last} makes"
  return f"{start}{who} {text.percent(share, 0)} of the isolated error."
