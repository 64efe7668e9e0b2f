"""What a run found, as report.json, report.html, plots and tables in the terminal."""

from jaxcompress.report.analysis import (
  analysis_finding,
  analysis_json,
  analysis_plot,
  analysis_table,
  analysis_text,
)
from jaxcompress.report.candidates import (
  allocation_table,
  candidates_plot,
  trial_table,
)
from jaxcompress.report.confusion import count_confusion
from jaxcompress.report.findings import headline
from jaxcompress.report.layers import layer_rows, model_bytes, range_rows
from jaxcompress.report.metrics import MetricsWriter, curves, read_metrics
from jaxcompress.report.plots import write_plots
from jaxcompress.report.results import (
  Entry,
  Layer,
  Point,
  Results,
  Run,
  Sample,
  Search,
  Spread,
  TensorRange,
)
from jaxcompress.report.snippet import device_program
from jaxcompress.report.tables import (
  finding_table,
  latency_table,
  layer_table,
  method_table,
  model_table,
  result_table,
)
from jaxcompress.report.write import from_json, to_json, write_report

__all__ = [
  "Entry",
  "Layer",
  "MetricsWriter",
  "Point",
  "Results",
  "Run",
  "Sample",
  "Search",
  "Spread",
  "TensorRange",
  "allocation_table",
  "analysis_finding",
  "analysis_json",
  "analysis_plot",
  "analysis_table",
  "analysis_text",
  "candidates_plot",
  "count_confusion",
  "curves",
  "device_program",
  "finding_table",
  "from_json",
  "headline",
  "latency_table",
  "layer_rows",
  "layer_table",
  "method_table",
  "model_bytes",
  "model_table",
  "range_rows",
  "read_metrics",
  "result_table",
  "to_json",
  "trial_table",
  "write_plots",
  "write_report",
]
