"""Results of a long benchmark as lines of JSON: a run that was stopped goes on where it was."""

import json


def read(path, **settings):
  """Rows of a file that were measured with these settings; a line cut off by a kill is none.

  Args:
    path: of the file, or None for none.
    **settings: values that rows must share to be compared.
  """
  found = []
  for line in path.read_text().splitlines() if path and path.exists() else ():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if settings.items() <= row.items():
      found.append(row)
  return found


def append(path, row):
  """Adds a row to a file; to None, nothing."""
  if path:
    with path.open("a") as file:
      file.write(json.dumps(row) + "\n")
