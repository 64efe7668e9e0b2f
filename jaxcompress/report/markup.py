"""Pieces of a page of HTML; every string that comes from outside is escaped here."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from jaxcompress.files.records import plain
from jaxcompress.report import text
from jaxcompress.report.layout import DASH, Column


class Html(str):
  """Text that is HTML already."""


def safe(sentence: str) -> str:
  """Escapes a sentence; numbers keep their units on one line."""
  return escape(text.unbroken(sentence))


def join(separator: str, parts: Iterable[str]) -> str:
  """Escapes the parts that are not empty, and joins them."""
  return separator.join(escape(part) for part in parts if part)


def section(anchor: str, title: str, body: str) -> str:
  """A section of the page; nothing without a body."""
  return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>' if body else ""


def source(png: bytes) -> str:
  """A picture as the page holds it."""
  return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def table(columns: Iterable[Column], rows: Sequence[Any], kind: str = "") -> str:
  """A table without columns that no row has; on phones each row is a list of its figures."""

  def html(cell: str | None) -> str:
    if not cell:
      return f'<span class="none">{DASH}</span>'
    return cell if isinstance(cell, Html) else escape(cell)

  found = [(column.title, [column.cell(row) for row in rows]) for column in columns]
  shown = [(str(title), cells) for title, cells in found if any(cells)]
  head = "".join(f"<th scope=col>{escape(title)}</th>" for title, _ in shown)
  body = []
  for first, *others in zip(*(cells for _, cells in shown), strict=True):
    titles = (title for title, _ in shown[1:])
    rest = "".join(
      f'<td data-title="{escape(title)}">{html(cell)}</td>'
      for title, cell in zip(titles, others, strict=True)
    )
    body.append(f"<tr><th scope=row>{html(first)}</th>{rest}</tr>")
  return (
    f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
    f"<tbody>{''.join(body)}</tbody></table></div>"
  )


def setting(value: Any) -> str:
  """A cell of facts: a mapping or several values in one line."""
  if isinstance(value, Mapping):
    return join(", ", (f"{name} {item}" for name, item in plain(value).items()))
  if isinstance(value, list | tuple):
    return join(", ", map(str, value))
  return value if isinstance(value, Html) else escape(str(value))
