"""Reports of runs, as report.json, report.html, plots and tables in the terminal."""

from jaxcompress.report.analysis import analysis_table
from jaxcompress.report.network_plots import analysis_plot
from jaxcompress.report.results import Entry, Results, Run
from jaxcompress.report.snippet import device_program
from jaxcompress.report.tables import layer_table
from jaxcompress.report.write import write_report

__all__ = [
  "Entry",
  "Results",
  "Run",
  "analysis_plot",
  "analysis_table",
  "device_program",
  "layer_table",
  "write_report",
]
