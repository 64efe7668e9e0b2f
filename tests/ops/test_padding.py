"""Padding by name against the frameworks' definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from jaxcompress import ops
from jaxcompress.ops.padding import output_size, resolve_padding

small = st.integers(1, 12)


@given(
  height=small,
  width=small,
  kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
  stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
  dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_same_is_tensorflows(height, width, kernel, stride, dilation):
  pads = resolve_padding("SAME", (height, width), kernel, stride, dilation)
  sides = tuple((k - 1) * step + 1 for k, step in zip(kernel, dilation, strict=True))
  expected = lax.padtype_to_pads((height, width), sides, stride, "SAME")
  assert pads == tuple(expected)
  size = output_size((height, width), kernel, stride, pads, dilation)
  assert size == (-(-height // stride[0]), -(-width // stride[1]))


def test_symmetric_padding_is_half_of_what_a_dilated_kernel_spans():
  assert resolve_padding("SYMMETRIC", (8, 9), (3, 1), 1, (2, 5)) == ((2, 2), (0, 0))


@pytest.mark.parametrize(("kernel", "pads"), [(3, (1, 1)), (5, (2, 2)), (1, (0, 0))])
def test_symmetric_is_half_the_kernel_on_every_side(kernel, pads):
  assert resolve_padding("SYMMETRIC", (8, 9), kernel, 2) == (pads, pads)


def test_kernels_need_not_be_square():
  assert resolve_padding("SAME", (8, 8), (3, 5), 1) == ((1, 1), (2, 2))
  y = ops.conv(jnp.ones((1, 8, 8, 2)), jnp.ones((3, 1, 1, 2)), padding="SYMMETRIC", groups=2)
  assert y[0, :, 0, 0].tolist() == [2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0]


def test_explicit_pairs_pass_through_as_tuples():
  assert resolve_padding([[0, 1], [2, 0]], (8, 8), 3, 1) == ((0, 1), (2, 0))


@pytest.mark.parametrize("padding", [((-1, 0), (0, 0)), ((0, 0), (0, -2))])
def test_negative_numbers_are_refused(padding):
  with pytest.raises(ValueError, match=r"padding: \(.*\) must not be negative"):
    resolve_padding(padding, (8, 8), 3, 1)


def test_numbers_of_numpy_are_numbers():
  assert resolve_padding("SAME", (8, 8), np.int64(3), np.int32(2)) == ((0, 1), (0, 1))
  assert output_size((8, 8), (3, 3), np.int32(2), ((0, 1), (0, 1))) == (4, 4)
