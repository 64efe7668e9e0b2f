"""Forms of stored weights: each gives everything back, and takes the bytes that it says."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcompress.export.packing import Blob, pack_weights, unpack_weights
from jaxcompress.quantize.storage import (
  FORMS,
  bits_of,
  forms_of,
  restore_weights,
  store_weights,
  weight_bytes,
)

SHAPES = st.sampled_from([(3, 3, 4, 6), (5, 3), (1, 1, 8, 1), (3, 3, 1, 9), (1, 1)])


@st.composite
def kernels(draw):
  """Few or many values, some or all of them zero, and channels with either sign."""
  shape, seed = draw(SHAPES), draw(st.integers(0, 999))
  rng = np.random.default_rng(seed)
  values = rng.integers(-127, 128, draw(st.sampled_from([1, 2, 5, 300]))).astype(np.int8)
  weights = rng.choice(values, shape) * rng.choice(np.int8([-1, 1]), shape[-1])
  return weights * (rng.random(shape) >= draw(st.sampled_from([0, 0.5, 0.9, 1])))


@settings(max_examples=60)
@given(kernels())
def test_every_form_gives_the_weights_back(weights):
  for form, stored in forms_of(weights).items():
    np.testing.assert_array_equal(restore_weights(stored, weights.shape), weights, form)
  blob, data = pack_weights(weights)
  assert data.size <= weight_bytes(weights)
  np.testing.assert_array_equal(unpack_weights(blob, data, weights.shape), weights)


@settings(max_examples=60)
@given(kernels())
def test_bytes_are_counted_from_zeros_and_values(weights):
  alive = weights[weights != 0]
  dense, sparse, clustered, both = (store_weights(weights, form).nbytes for form in FORMS)
  bitmap = math.ceil(weights.size / 8)
  assert dense == math.ceil(weights.size * bits_of(weights) / 8)
  assert sparse == bitmap + math.ceil(alive.size * bits_of(alive) / 8)
  for found, values, extra in ((clustered, weights, 0), (both, alive, bitmap)):
    entries = len(np.unique(values))
    bits = max(1, math.ceil(math.log2(max(1, entries))))
    assert found <= extra + entries + math.ceil(values.size * bits / 8) + weights.shape[-1]


def test_channels_of_either_sign_share_a_codebook():
  rng = np.random.default_rng(0)
  codebook = np.append(rng.choice(np.arange(1, 128), 31, replace=False), 0).astype(np.int8)
  weights = rng.choice(codebook, (3, 3, 32, 8)) * np.int8([1, -1, -1, 1, 1, 1, -1, 1])
  stored = store_weights(weights, "clustered")
  assert (stored.codebook.size, stored.bits) == (32, 5)
  assert stored.nbytes == 1 + 32 + weights.size * 5 // 8
  np.testing.assert_array_equal(restore_weights(stored, weights.shape), weights)


def test_two_of_four_takes_less_than_a_bitmap():
  rng = np.random.default_rng(0)
  weights = rng.integers(1, 128, (3, 3, 64, 64)).astype(np.int8)
  order = rng.random((3, 3, 16, 4, 64)).argsort(axis=3).reshape(weights.shape)
  blob, data = pack_weights(np.where(order < 2, weights, 0).astype(np.int8))
  assert blob.bitmap < 0.7 * weights.size / 8  # log2(6) / 4 = 0.65
  assert data.size == blob.bitmap + blob.values < 0.6 * weights.size


@pytest.mark.parametrize(
  "forged",
  [
    Blob(8, 0, 0, 0, 3),
    Blob(9, 0, 0, 0, 4),
    Blob(8, -1, 0, 0, 5),
    Blob(2, 0, 0, 3, 1),
    Blob(8, 2, 0, 0, 2),
  ],
)
def test_parts_that_do_not_fit_are_refused(forged):
  with pytest.raises((ValueError, zlib.error), match=r"cannot hold|are not|beyond|incorrect"):
    unpack_weights(forged, np.uint8([255, 0, 0, 255]), (4, 1))
