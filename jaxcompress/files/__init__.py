"""What all files of jaxcompress have in common: checksums, and JSON that is read within bounds."""

from jaxcompress.files.checksums import (
  FOLDER_FILE,
  UNSEALED,
  ZEROS,
  check_seal,
  digest,
  find_damage,
  seal,
  write_checksums,
)
from jaxcompress.files.values import (
  MOST_BYTES,
  SEAL,
  check_depth,
  check_format,
  one_line,
  parse_json,
  read_json,
  sealed_json,
  without_seal,
)
from jaxcompress.files.writing import sweep, temporary_beside, write_atomically

__all__ = [
  "FOLDER_FILE",
  "MOST_BYTES",
  "SEAL",
  "UNSEALED",
  "ZEROS",
  "check_depth",
  "check_format",
  "check_seal",
  "digest",
  "find_damage",
  "one_line",
  "parse_json",
  "read_json",
  "seal",
  "sealed_json",
  "sweep",
  "temporary_beside",
  "without_seal",
  "write_atomically",
  "write_checksums",
]
