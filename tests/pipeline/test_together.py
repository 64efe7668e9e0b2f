"""Refusals of a run on several processes."""

import jax
import pytest

from jaxcompress.pipeline import run
from jaxcompress.pipeline.options import CompressOptions


def test_a_search_is_refused_where_its_measurements_could_differ(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match="tried on one process, and this is one of 2"):
    run._all_devices(CompressOptions(max_macs="10M"))
