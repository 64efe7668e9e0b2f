"""Readers of windows and of sums and maxima over axes."""

from collections.abc import Callable, Mapping

from jaxcompress.models.imported import views
from jaxcompress.models.imported.axes import NAMES, plain, role_of
from jaxcompress.models.imported.problems import EVALUATE, Unreadable
from jaxcompress.models.imported.reading import Call, Value
from jaxcompress.models.imported.values import Op, Tensor


def _window(kind: str, **fields: float) -> Callable[..., Value]:
  def read(call: Call, x: Tensor, *_: Value) -> Value:
    x = plain(call, x)
    roles = [role_of(x, axis) for axis in range(len(x.view))]
    params = call.params
    single = [role for role in "HW" if role not in roles]  # height or width of one
    for axis, size in enumerate(params["window_dimensions"]):
      if size != 1 and not x.view[axis] and single:
        roles[axis] = single.pop(0)
    for name in ("base_dilation", "window_dilation"):
      if set(params[name]) != {1}:
        raise Unreadable("pooling with a dilation", "use one without")
    found = {
      name: dict(zip(roles, params[name], strict=True))
      for name in ("window_dimensions", "window_strides", "padding")
    }
    for role, size in zip(roles, params["window_dimensions"], strict=True):
      if size != 1 and role not in ("H", "W"):
        raise Unreadable(f"pooling over the {NAMES.get(role, 'joined axes')}")
    sizes = dict(zip(roles, call.shapes[0], strict=True))
    shape = tuple(sizes.get(role, 1) for role in views.ROLES)
    window = {
      "kernel": tuple(found["window_dimensions"].get(role, 1) for role in "HW"),
      "stride": tuple(found["window_strides"].get(role, 1) for role in "HW"),
      "padding": tuple(tuple(found["padding"].get(role, (0, 0))) for role in "HW"),
    }
    return Tensor(call.op(kind, [x.op], shape, **window, **fields), views.straight(shape, roles))

  return read


def _reduced(call: Call, x: Tensor) -> tuple[frozenset[str], Op, views.View, views.Shape]:
  """The roles that are reduced, the tensor, and view and shape of the result."""
  axes = set(call.params["axes"])
  if any(atom.role == "N" for axis in axes for atom in x.view[axis]):
    raise Unreadable(
      "statistics of the batch, as a normalization computes them in training", EVALUATE
    )
  x = plain(call, x)
  gone = [atom for axis in sorted(axes) for atom in x.view[axis]]
  roles = {atom.role for atom in gone}
  if not roles <= set("HWC"):
    raise Unreadable("a sum or maximum over axes that are not understood")
  for role in roles:
    size = x.op.shape[views.ROLES.index(role)]
    if views.positions([tuple(a for a in gone if a.role == role)], role, size) is None:
      raise Unreadable("a sum or maximum over a part of an axis, as in a group normalization")
  shape = tuple(1 if r in roles else n for r, n in zip(views.ROLES, x.op.shape, strict=True))
  view = tuple(axis for i, axis in enumerate(x.view) if i not in axes)
  return frozenset(roles), x.op, view, shape


def _sum(call: Call, x: Tensor) -> Value:
  roles, op, view, shape = _reduced(call, x)
  if not roles:
    return Tensor(op, view)
  factor = 1.0
  if op.kind == "sum":  # one axis after another
    roles, factor, (op,) = roles | op.fields["roles"], op.fields["factor"], op.inputs
  return Tensor(call.op("sum", [op], shape, roles=roles, factor=factor), view)


def _largest(call: Call, x: Tensor) -> Value:
  roles, op, view, shape = _reduced(call, x)
  if not roles:
    return Tensor(op, view)
  if op.kind == "largest":
    roles, (op,) = roles | op.fields["roles"], op.inputs
  return Tensor(call.op("largest", [op], shape, roles=roles), view)


READERS: Mapping[str, Callable[..., Value]] = {
  "reduce_window_max": _window("window_max"),
  "reduce_window_sum": _window("window_sum", factor=1.0),
  "reduce_sum": _sum,
  "reduce_max": _largest,
}
