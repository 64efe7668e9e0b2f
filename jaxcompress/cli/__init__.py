"""The command line: commands, which import what they need when they run, and how the program ends."""

from jaxcompress.cli.entry import app, main, start

__all__ = ["app", "main", "start"]
