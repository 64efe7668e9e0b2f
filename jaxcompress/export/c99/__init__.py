"""Networks as C99 sources that need no interpreter."""

from jaxcompress.export.c99.writing import c

__all__ = ["c"]
