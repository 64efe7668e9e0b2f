"""Figures of classes beside scikit-learn's."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from jaxcompress.report import classes

CLASSES = 5


@st.composite
def predicted(draw):
  """Labels and predictions, of which some classes may be absent."""
  count = draw(st.integers(1, 40))
  some = st.lists(st.integers(0, draw(st.integers(0, CLASSES - 1))), min_size=count, max_size=count)
  return np.array(draw(some)), np.array(draw(some))


@given(predicted())
def test_figures_are_those_of_scikit_learn(case):
  labels, predictions = case
  confusion = classes.confusion_of(labels, predictions, CLASSES)
  every = list(range(CLASSES))
  np.testing.assert_array_equal(
    confusion, metrics.confusion_matrix(labels, predictions, labels=every)
  )
  found = classes.class_figures(confusion)
  theirs = metrics.precision_recall_fscore_support(
    labels, predictions, labels=every, zero_division=np.nan
  )
  ours = [[one.precision, one.recall, one.f1, one.support] for one in found]
  np.testing.assert_allclose(np.array(ours, np.float64).T, np.array(theirs, np.float64))
  with warnings.catch_warnings(action="ignore"):  # of classes that are predicted and not there
    wanted = metrics.balanced_accuracy_score(labels, predictions)
  assert classes.balanced_accuracy(found) == pytest.approx(wanted)
  assert classes.macro_f1(found) == pytest.approx(
    metrics.f1_score(labels, predictions, average="macro")
  )


@given(st.integers(1, CLASSES), st.integers(0, 99))
def test_top_k_is_that_of_scikit_learn_where_no_scores_are_equal(k, seed):
  rng = np.random.default_rng(seed)
  scores = rng.permuted(np.tile(np.arange(CLASSES), (30, 1)), axis=1)
  labels = rng.integers(0, CLASSES, 30)
  with warnings.catch_warnings(action="ignore"):  # of k so large that all are right
    wanted = metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(CLASSES))
  assert classes.top_share(scores, labels, k) == pytest.approx(wanted)


@given(st.integers(0, 99), st.sampled_from([np.int8, np.int16, np.uint8, np.float32]))
def test_the_first_of_equal_scores_is_the_best_as_argmax_has_it(seed, dtype):
  scores = np.random.default_rng(seed).integers(0, 4, (20, CLASSES)).astype(dtype)
  scores[0] = np.iinfo(np.int8).min if dtype == np.int8 else 0
  order = classes.ranked(scores)
  np.testing.assert_array_equal(order[:, 0], scores.argmax(axis=1))
  for row, places in zip(scores, order, strict=True):
    assert sorted(places) == list(range(CLASSES))
    pairs = itertools.pairwise(places)
    assert all((row[i], -i) > (row[j], -j) for i, j in pairs)


def test_confused_pairs_ignore_the_diagonal_and_empty_cells():
  matrix = np.array([[50, 3, 0], [9, 40, 0], [0, 0, 7]])
  pairs = classes.confused_pairs(matrix)
  assert [(p.true, p.predicted, p.count, p.total) for p in pairs] == [(1, 0, 9, 49), (0, 1, 3, 53)]
  assert matrix[0, 0] == 50


def test_what_has_no_examples_has_no_share():
  found = classes.class_figures(np.array([[3, 0, 1], [0, 0, 0], [0, 0, 0]]))
  assert [(one.precision, one.recall, one.f1) for one in found] == [
    (1.0, 0.75, pytest.approx(6 / 7)),
    (None, None, None),
    (0.0, None, 0.0),
  ]
  assert classes.balanced_accuracy(classes.class_figures(np.zeros((2, 2), int))) is None
