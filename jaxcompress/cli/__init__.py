"""The command line: one module for each command, which imports what it needs when it runs."""

from jaxcompress.cli.entry import app, main, start

__all__ = ["app", "main", "start"]
