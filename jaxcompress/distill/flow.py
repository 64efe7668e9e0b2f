"""Losses that compare how features change from one map to the next."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcompress.arguments import check_whole
from jaxcompress.distill.base import LossTransform
from jaxcompress.distill.layers import EXACT, mean_square, unit
from jaxcompress.distill.maps import (
  Pair,
  Places,
  check_channels,
  matched,
  on_maps,
)


def fsp(*, maps: Places | None = None) -> LossTransform:
  """Flow of the solution procedure: products of each map's channels with the next one's.

  The sum over consecutive maps of ``mean (F_t - F_s)**2``, where ``F`` (batch, channels of the
  next, channels) is the mean over pixels of the products of the two maps' channels; the larger of
  the two is pooled to the smaller.

  Args:
    maps: places in both networks' maps, in order, or pairs of places; by default all, the stem's
      too, of equal number from the end.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``fsp``. It reads ``maps`` of any
    heights and widths, whose channels are the same in both networks. The method trains the
    student's maps with it first, and then the whole student on labels.

  Raises:
    ValueError: if ``maps`` are no places; on ``init``, if there is no teacher, there are fewer
      than two maps, or channels differ.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, maps=(jnp.ones((2, 4, 4, 3)), jnp.ones((2, 2, 2, 8))))
    >>> float(fsp().update((), (), same, (same,), {})[0])
    0.0

  References:
    Yim et al., `A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
    Transfer Learning
    <https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html>`_,
    2017, section 3.
  """

  def flow(first, second):
    first, second = matched(first, second)
    pixels = first.shape[1] * first.shape[2]
    return jnp.einsum("bhwi,bhwo->boi", first, second, precision=EXACT) / pixels

  def compute(pairs):
    check_channels("fsp", pairs)
    return sum(
      mean_square(flow(s, next_s) - flow(t, next_t))
      for (s, t), (next_s, next_t) in _consecutive("fsp", pairs)
    )

  return on_maps("fsp", maps, compute, skip=0, by_example=True)


def kdsvd(rank: int = 1, *, maps: Places | None = None) -> LossTransform:
  """Singular vectors of feature maps, and how they relate from one map to the next.

  A map of an example is a (pixels, channels) matrix. The teacher's first ``rank`` right singular
  vectors ``t``, and for each the one of the student's first ``rank + 3`` whose cosine with it is
  largest in size, turned to the same side, ``s``, are multiplied with the teacher's singular values
  over their length. The loss is the sum over consecutive maps, pairs of channels and vectors of
  ``(R(s, s') - R(t, t'))**2 / batch``, with ``R(v, v')_ij = exp(-(v_i - v'_j)**2 / 8)``.

  Where singular values are equal, their vectors are not determined; the gradient leaves out what
  would turn one into the other. The vectors' sign is that of LAPACK; the loss depends on it.

  Args:
    rank: number of vectors.
    maps: places in both networks' maps, in order, or pairs of places; by default all but the
      stem's.

  Returns:
    A :class:`LossTransform` without parameters or state; metric ``kdsvd``. It reads ``maps`` of any
    heights and widths, whose channels are the same in both networks.

  Raises:
    ValueError: if ``rank`` is not positive or ``maps`` are no places; on ``init``, if there is no
      teacher, there are fewer than two maps, or channels differ.

  Examples:
    >>> from jaxcompress.nn import Endpoints
    >>> same = Endpoints(None, maps=(jnp.eye(4).reshape(1, 4, 4, 1),) * 2)
    >>> float(kdsvd(maps=(0, 1)).update((), (), same, (same,), {})[0])
    0.0

  References:
    Lee et al., `Self-supervised Knowledge Distillation Using Singular Value Decomposition
    <https://arxiv.org/abs/1807.06819>`_, 2018, section 3; as in Tian et al., 2020.
  """
  check_whole("rank", rank, 1)

  def vectors(s, t):
    of_teacher = right_singular(_matrices(t))
    values = unit(of_teacher.values[:, :rank], epsilon=1e-12)[:, None]
    v_t = of_teacher.vectors[:, :, :rank]
    v_s = right_singular(_matrices(s)).vectors[:, :, : rank + 3]
    cosines = jnp.einsum("bcs,bct->bst", v_s, v_t, precision=EXACT)
    nearest = jax.nn.one_hot(jnp.argmax(jnp.abs(cosines), axis=1), v_s.shape[-1], axis=1)
    chosen = jax.lax.stop_gradient(nearest * jnp.sign(cosines))
    aligned = jnp.einsum("bcs,bst->bct", v_s, chosen, precision=EXACT)
    return aligned * values, v_t * values

  def relation(v, following):
    return jnp.exp(-jnp.square(following[:, :, None] - v[:, None]) / 8)

  def compute(pairs):
    check_channels("kdsvd", pairs)
    found = _consecutive("kdsvd", tuple(vectors(s, t) for s, t in pairs))
    return sum(
      jnp.sum(jnp.square(relation(s, next_s) - relation(t, next_t))) / len(s)
      for (s, t), (next_s, next_t) in found
    )

  return on_maps("kdsvd", maps, compute, by_example=True)


class Singular(NamedTuple):
  """Singular values and right singular vectors.

  Attributes:
    values: (..., k), descending.
    vectors: (..., columns, k).
  """

  values: jax.Array
  vectors: jax.Array


@jax.custom_jvp
def right_singular(x: jax.Array) -> Singular:
  """Singular values and right singular vectors of matrices, with gradients that stay finite.

  Their sign, which the mathematics leave open, is that of LAPACK's bidiagonalization on CPUs, as in
  PyTorch. Below 6/11 of the columns in rows, LAPACK factors the matrix first, which turns signs;
  rows of zeros prevent that.

  Args:
    x: (..., rows, columns); ``k`` is the smaller of the two.

  Examples:
    >>> values, vectors = right_singular(jnp.diag(jnp.array([3.0, 2.0])))
    >>> values.tolist(), jnp.abs(vectors).tolist()
    ([3.0, 2.0], [[1.0, 0.0], [0.0, 1.0]])
  """
  *batch, rows, columns = x.shape
  count, enough = min(rows, columns), -(-6 * (columns + 1) // 11)
  missing = jnp.zeros((*batch, max(enough - rows, 0), columns), x.dtype)
  _, values, vectors = jnp.linalg.svd(jnp.concatenate([x, missing], -2), full_matrices=False)
  return Singular(values[..., :count], jnp.swapaxes(vectors, -1, -2)[..., :count])


@right_singular.defjvp
def _jvp(primals, tangents):
  """Eigenvectors of ``x'x``: ``dv_i = sum_j v_j <v_j, d(x'x) v_i> / (s_i**2 - s_j**2)``.

  Where x has fewer rows than columns, the directions outside of all v have the value 0.
  """
  (x,), (dx,) = primals, tangents
  values, v = right_singular(x)
  product = lambda *args: jnp.einsum(*args, precision=EXACT)  # noqa: E731
  xv, dxv = product("...rc,...ci->...ri", x, v), product("...rc,...ci->...ri", dx, v)
  turn = product("...rj,...ri->...ji", dxv, xv) + product("...rj,...ri->...ji", xv, dxv)
  gap = (values[..., None, :] - values[..., :, None]) * (
    values[..., None, :] + values[..., :, None]
  )
  largest = values[..., :1, None]
  clear = jnp.abs(gap) > 1e-6 * jnp.square(largest)
  turn = jnp.where(clear, turn / jnp.where(clear, gap, 1.0), 0.0)
  dv = product("...cj,...ji->...ci", v, turn)
  if x.shape[-2] < x.shape[-1]:
    outward = product("...rc,...ri->...ci", dx, xv)
    outward -= product("...cj,...dj,...di->...ci", v, v, outward)
    square = jnp.square(values)[..., None, :]
    clear = square > 1e-6 * jnp.square(largest)
    dv += jnp.where(clear, outward / jnp.where(clear, square, 1.0), 0.0)
  dvalues = jnp.where(values > 0, jnp.sum(xv * dxv, -2) / jnp.where(values > 0, values, 1.0), 0.0)
  return Singular(values, v), Singular(dvalues, dv)


def _matrices(x: jax.Array) -> jax.Array:
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _consecutive(name: str, pairs: tuple[Pair, ...]) -> list[tuple[Pair, Pair]]:
  if len(pairs) < 2:
    raise ValueError(
      f"maps: {name} compares each map with the next and there is only {len(pairs)}; name two or"
      " more."
    )
  return list(itertools.pairwise(pairs))
