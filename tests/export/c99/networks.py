"""Random small networks of operations, and a machine that walks a plan on names instead of numbers."""

import numpy as np
from hypothesis import strategies as st

from jaxcompress.export.c99.emitted import PADDING, Emitted, Network, Table, Tensor, Whole, Window

INT8 = np.dtype(np.int8)
UNKNOWN = None  # what a byte holds that nobody wrote


def row_operation(name, inputs, reads, outputs, **options):
  return Emitted(name, "none", None, tuple(inputs), tuple(reads), tuple(outputs), **options)


@st.composite
def networks(draw):
  """Chains with branches: windows, in place, folds, views, tables, several outputs."""
  height, width = draw(st.integers(1, 9)), draw(st.integers(1, 4))
  tensors = {"input": Tensor("input", (height, width, draw(st.integers(1, 5))), INT8)}
  operations = []

  def add(shape):
    name = f"t{len(tensors)}"
    tensors[name] = Tensor(name, shape, INT8)
    return name

  for i in range(draw(st.integers(1, 9))):
    source = draw(st.sampled_from(list(tensors)))
    shape = tensors[source].shape
    rows = tensors[source].rows
    inner = shape[1:] if len(shape) > 1 else shape
    kind = draw(st.sampled_from(["window", "pair", "fold", "whole", "view", "table", "split"]))
    scratch = draw(st.sampled_from([0, 0, 4, 12]))
    if kind == "window":
      reads = Window(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(-1, 2)),
        draw(st.integers(1, 2)),
      )
      count = draw(st.integers(1, max(1, rows // reads.stride)))
      outputs = [add((count, *inner[:-1], draw(st.integers(1, 6))))]
      made = row_operation(f"o{i}", [source], [reads], outputs, scratch=scratch)
    elif kind == "pair":
      alike = [name for name, tensor in tensors.items() if tensor.shape == shape]
      other = draw(st.sampled_from(alike))
      outputs = [add(shape)]
      over = draw(st.sampled_from([(), (0,), (1,), (0, 1)]))
      reads = [Window()] * 2
      made = row_operation(f"o{i}", [source, other], reads, outputs, overwrites=over)
    elif kind == "fold":
      outputs = [add((1, *inner))]
      made = row_operation(f"o{i}", [source], [Window()], outputs, kind="fold", scratch=8)
    elif kind == "whole":
      other = draw(st.sampled_from(list(tensors)))
      outputs = [add((draw(st.integers(1, 3)), draw(st.integers(1, 6))))]
      made = row_operation(
        f"o{i}", [source, other], [Whole(), Whole()], outputs, kind="whole", scratch=scratch
      )
    elif kind == "view":
      outputs = [add((tensors[source].size,))]
      made = row_operation(
        f"o{i}", [source], [Whole()], outputs, kind="whole", overwrites=(0,), is_view=True
      )
    elif kind == "table":
      count, reach = draw(st.integers(1, 6)), draw(st.integers(1, 2))
      places = st.tuples(*[st.integers(PADDING, rows - 1)] * reach)
      table = Table(tuple(draw(st.lists(places, min_size=count, max_size=count))))
      outputs = [add((count, *inner))]
      made = row_operation(f"o{i}", [source], [table], outputs)
    else:
      outputs = [add((rows, 2)), add((rows, 3))]
      made = row_operation(f"o{i}", [source], [Window()], outputs)
    operations.append(made)
  read = {name for emitted in operations for name in emitted.inputs}
  ends = [name for name in tensors if name not in read]
  kept = draw(st.lists(st.sampled_from(list(tensors)), max_size=2))
  names = dict.fromkeys([*draw(st.lists(st.sampled_from(ends), min_size=1)), *kept])
  outputs = tuple((f"out{i}", name) for i, name in enumerate(names))
  return Network(tuple(operations), tensors, "input", outputs)


class Machine:
  """Memory whose bytes say which byte of which tensor they are; it does what walk.c does."""

  def __init__(self, network, plan):
    self.network, self.plan = network, plan
    self.bytes = [UNKNOWN] * plan.arena
    self.made_by = {name: -1 for name in network.tensors}
    self.made_by |= {
      network.whole(name): i for i, e in enumerate(network.operations) for name in e.outputs
    }
    self.calls = 0
    self.own = {}  # of a view that is left out its source
    for emitted, is_left_out in zip(network.operations, plan.left_out, strict=True):
      if is_left_out:
        self.own[emitted.outputs[0]] = self.root(emitted.inputs[0])

  def root(self, name):
    return self.own.get(name, name)

  def span(self, name, row):
    whole = self.network.tensors[self.network.whole(name)]
    first, kept = self.plan.kept[name]
    start = first + row % kept * whole.row_bytes
    return range(start, start + self.network.tensors[name].row_bytes)

  def content(self, name, row):
    """Returns the contents of a row; a part of columns has those of the whole tensor."""
    whole, own = self.network.whole(name), self.network.tensors[name].row_bytes
    first = self.network.parts[name].first if name in self.network.parts else 0
    start = row * self.network.tensors[whole].row_bytes + first
    return [(self.root(whole), at) for at in range(start, start + own)]

  def write(self, name, row):
    for byte, token in zip(self.span(name, row), self.content(name, row), strict=True):
      self.bytes[byte] = token

  def check(self, name, row):
    for byte, token in zip(self.span(name, row), self.content(name, row), strict=True):
      assert self.bytes[byte] == token, (name, row)

  def rows_read(self, emitted, k, call):
    rows = self.network.tensors[emitted.inputs[k]].rows
    if isinstance(emitted.reads[k], Whole) or emitted.kind == "whole":
      return range(rows)
    return [row for row in emitted.reads[k].of(call, rows) if row != PADDING]

  def total(self, emitted):
    if emitted.kind == "whole":
      return 1
    name = emitted.inputs[0] if emitted.kind == "fold" else emitted.outputs[0]
    return self.network.tensors[name].rows

  def missing(self, place, start):
    emitted = self.network.operations[place]
    for k, name in enumerate(emitted.inputs):
      maker, rows = (
        self.made_by[self.network.whole(name)],
        self.rows_read(emitted, k, self.done[place]),
      )
      if maker < start or not rows:
        continue
      makes = self.network.operations[maker]
      needed = max(rows) + 1 if makes.kind == "rows" else self.total(makes)
      if self.done[maker] < needed:
        return maker
    return None

  def call(self, place):
    emitted, call = self.network.operations[place], self.done[place]
    rows = [
      (k, name, row)
      for k, name in enumerate(emitted.inputs)
      for row in self.rows_read(emitted, k, call)
    ]
    for _, name, row in rows:
      self.check(name, row)
    if self.plan.left_out[place]:
      return
    first = self.plan.scratch[place]
    scratch = range(first, first + emitted.scratch)
    if emitted.kind == "fold" and call:
      assert all(self.bytes[byte] == (emitted.name, "scratch") for byte in scratch)
    written = []
    if emitted.kind == "rows":
      written = [(name, call) for name in emitted.outputs]
    elif call == self.total(emitted) - 1:
      written = [
        (name, row) for name in emitted.outputs for row in range(self.network.tensors[name].rows)
      ]
    taken = set(scratch)
    for name, row in written:
      assert taken.isdisjoint(self.span(name, row)), "outputs and scratch lie apart"
      taken |= set(self.span(name, row))
    for k, name, row in rows:
      is_upon = k in emitted.overwrites and (
        emitted.kind == "whole"
        or (row == call and self.span(name, row) == self.span(emitted.outputs[0], row))
      )
      allowed = set()
      if is_upon and self.plan.kept[name].first == self.plan.kept[emitted.outputs[0]].first:
        allowed = set(self.span(name, row))
      assert not (taken - allowed) & set(self.span(name, row)), "read while it is overwritten"
    for byte in scratch:
      self.bytes[byte] = (emitted.name, "scratch")
    for name, row in written:
      self.write(name, row)

  def run(self, targets):
    """Computes one image; ``targets`` says which operations of a stage are brought to their end."""
    source = self.network.tensors[self.network.input]
    for row in range(source.rows):
      self.write(source.name, row)
    self.done = [0] * len(self.network.operations)
    for start, stop in self.plan.stages:
      for target in targets(start, stop):
        while self.done[target] < self.total(self.network.operations[target]):
          place = target
          while (before := self.missing(place, start)) is not None:
            place = before
          self.call(place)
          self.done[place] += 1
          self.calls += 1
    for _, name in self.network.outputs:
      for row in range(self.network.tensors[name].rows):
        self.check(name, row)
