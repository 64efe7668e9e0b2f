"""The C of a walk over all operations of a network: tables of a plan, and what goes through them."""

from collections.abc import Iterable

from jaxcompress.export.c99.emitted import Emitted, Network, Reads, Table, Whole
from jaxcompress.export.c99.kernels import PREFIX, read_source
from jaxcompress.export.c99.plan import Plan
from jaxcompress.export.c99.schedule import count_calls, flow_of, targets

LARGEST = 2**15 - 1  # number in a table

Row = tuple[int | str, ...]


def walk_text(network: Network, plan: Plan, prefix: str) -> str:
  """``static void walk(void)``, which calls all functions, on ``arena`` with ``params_0`` and so on.

  Args:
    network: of which it is.
    plan: of its memory.
    prefix: of the functions.

  Raises:
    ValueError: if a tensor has more rows than the tables hold.
  """
  flow = flow_of(network)
  goals = [targets(flow, *stage) for stage in plan.stages]
  sizes = {
    "MOST_READ": max(sum(map(_pointers, e.reads)) for e in network.operations),
    "MOST_WRITTEN": max(len(emitted.outputs) for emitted in network.operations),
    "LONGEST_STAGE": max(stop - start for start, stop in plan.stages),
    "STAGES": len(plan.stages),
  }
  numbers = {name: number for number, name in enumerate(network.tensors)}
  reads, tables = _reads(network, numbers)
  parts = [
    "".join(f"#define {name} {value}\n" for name, value in sizes.items()),
    read_source("walk.h"),
    *tables,
    _array(f"struct {PREFIX}tensor tensors", _tensors(network, plan, flow.producers)),
    _array(f"struct {PREFIX}reads reads", reads),
    _array("int16_t outputs", [numbers[name] for e in network.operations for name in e.outputs]),
    _array(f"struct {PREFIX}operation operations", _operations(network, plan)),
    _array("int16_t targets", [goal for found in goals for goal in found]),
    _array(f"struct {PREFIX}stage stages", _with_ranges(plan.stages, map(len, goals))),
    read_source("walk.c"),
  ]
  return "\n".join(parts).replace(PREFIX, prefix)


def _array(name: str, rows: Iterable[Row | int]) -> str:
  texts = (
    f"{{{', '.join(map(str, row))}}}" if isinstance(row, tuple) else str(row) for row in rows
  )
  return f"static const {name}[] = {{\n  " + ",\n  ".join(texts) + "\n};\n"


def _with_ranges(rows: Iterable[Row], *counts: Iterable[int]) -> list[Row]:
  """Rows that end with where their parts of other tables begin and end."""
  ends = [0] * len(counts)
  found = []
  for row, *sizes in zip(rows, *counts, strict=True):
    for i, size in enumerate(sizes):
      row += (ends[i], ends[i] + size)
      ends[i] += size
    found.append(row)
  return found


def _tensors(network: Network, plan: Plan, producers: dict[str, int]) -> list[Row]:
  rows: list[Row] = []
  for name, tensor in network.tensors.items():
    if tensor.rows > LARGEST:
      raise ValueError(
        f"model: {name!r} has {tensor.rows:,} rows, and the tables of C hold {LARGEST:,}; give it"
        " smaller images."
      )
    first, kept = plan.kept[name]
    whole = network.whole(name)
    rows.append((first, network.tensors[whole].row_bytes, tensor.rows, kept, producers[whole]))
  return rows


def _operations(network: Network, plan: Plan) -> list[Row]:
  rows: list[Row] = []
  for i, (emitted, is_left_out) in enumerate(zip(network.operations, plan.left_out, strict=True)):
    function = "NULL" if is_left_out else PREFIX + emitted.function
    params = "NULL" if is_left_out or emitted.params is None else f"&params_{i}"
    calls, grows = count_calls(network, emitted), int(emitted.kind == "rows")
    rows.append((function, params, plan.scratch[i], calls, grows))
  counts = ([len(getattr(e, ends)) for e in network.operations] for ends in ("inputs", "outputs"))
  return _with_ranges(rows, *counts)


def _reads(network: Network, numbers: dict[str, int]) -> tuple[list[Row], list[str]]:
  """The table of what is read, and tables of rows to which it points."""
  rows: list[Row] = []
  tables = []
  for i, emitted in enumerate(network.operations):
    for k, (name, reads) in enumerate(zip(emitted.inputs, emitted.reads, strict=True)):
      if _is_whole(emitted, reads):
        rows.append(("NULL", numbers[name], 0, 0, 0, 0))
      elif isinstance(reads, Table):
        flat = ", ".join(str(row) for places in reads.places for row in places)
        tables.append(f"static const int16_t rows_{i}_{k}[] = {{{flat}}};\n")
        rows.append((f"rows_{i}_{k}", numbers[name], reads.rows, 0, 0, 0))
      else:
        rows.append(("NULL", numbers[name], *reads))
  return rows, tables


def _is_whole(emitted: Emitted, reads: Reads) -> bool:
  return isinstance(reads, Whole) or emitted.kind == "whole"


def _pointers(reads: Reads) -> int:
  return 1 if isinstance(reads, Whole) else reads.rows
