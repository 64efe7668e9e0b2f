"""Reports of runs, as report.json, report.html, plots and tables in the terminal."""

from typing import TYPE_CHECKING

from jaxcompress.on_demand import import_on_demand

if TYPE_CHECKING:
  from jaxcompress.report.analysis import analysis_table
  from jaxcompress.report.evaluation import Evaluation
  from jaxcompress.report.network_plots import analysis_plot
  from jaxcompress.report.predictions import Prediction
  from jaxcompress.report.results import Entry, Results, Run
  from jaxcompress.report.snippet import device_program, program
  from jaxcompress.report.tables import layer_table
  from jaxcompress.report.write import write_report

__all__ = [
  "Entry",
  "Evaluation",
  "Prediction",
  "Results",
  "Run",
  "analysis_plot",
  "analysis_table",
  "device_program",
  "layer_table",
  "program",
  "write_report",
]

import_on_demand(__name__)
