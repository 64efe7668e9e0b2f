"""``python -m jaxcompress.cli``."""

from jaxcompress.cli.entry import start

start()
