"""Sentences say what the numbers say, and nothing more."""

import dataclasses

import numpy as np
import pytest

from jaxcompress.report import findings, text
from jaxcompress.report.findings import headline


def change(results, key, **fields):
  entries = {**results.entries, key: dataclasses.replace(results.entries[key], **fields)}
  return dataclasses.replace(results, entries=entries)


def test_the_headline_names_size_accuracy_and_bit_equality(full):
  assert headline(full) == (
    "An 88 k-parameter MobileNetV2 x0.25 reaches 90.3 % top-1 on glyphs at int8, in 128 kB; "
    "188,000 of 188,000 logits are bit-equal on LiteRT/XNNPACK."
  )


def test_the_headline_leaves_out_what_was_not_verified(full):
  assert headline(change(full, "int8", bit_equal=None)).endswith("in 128 kB.")
  assert "100 % of the logits" in headline(change(full, "int8", logits=None))


@pytest.mark.parametrize("share", [1 - 1e-9, 0.9999999])
def test_one_wrong_logit_is_never_rounded_away(full, share):
  results = change(full, "int8", bit_equal=share)
  assert "187,999 of 188,000" in headline(results)
  assert text.percent_down(share) == "99.99 %"


@pytest.mark.parametrize(
  ("top1", "words"), [(0.92, "lifts"), (0.80, "lowers"), (0.8790, "equal within the noise")]
)
def test_the_gain_is_told_as_it_is(full, top1, words):
  assert words in findings.distillation(change(full, "distilled", top1=top1))


def test_equal_steps_are_claimed_only_where_they_are_equal(full):
  assert findings.distillation(full).endswith("at equal steps")
  assert "equal steps" not in findings.distillation(change(full, "alone", steps=1200))


@pytest.mark.parametrize(
  ("top1", "words"),
  [
    (0.9032, "0.3 points below it"),
    (0.9158, "1.0 points above it"),
    (0.9058, "as accurate as it"),
  ],
)
def test_the_cost_of_the_integers_is_told_as_it_is(full, top1, words):
  assert findings.compression(change(full, "int8", top1=top1)).endswith(words)


def test_a_larger_student_is_called_larger(full):
  sentence = findings.costs(change(full, "teacher", parameters=44_216, bytes=64_200))
  assert "2.0x more parameters" in sentence
  assert "2.0x larger file" in sentence


def test_a_student_of_the_teachers_size_is_not_called_smaller(full):
  small = full.entries["int8"]
  same = {"parameters": small.parameters, "macs": small.macs, "bytes": small.bytes}
  sentence = findings.costs(change(full, "teacher", **same))
  assert sentence.endswith("as many parameters, as many multiply-adds, a file of the same size")


def test_slower_integers_are_called_slower(full):
  assert "2.0x slower than float" in findings.latency(change(full, "int8", latency_ms=1.82))


def test_a_perfect_matrix_has_nothing_confused(full):
  perfect = dataclasses.replace(full, confusion=np.eye(47, dtype=int))
  assert findings.confusion(perfect) == "47 of 47 test images are right"
