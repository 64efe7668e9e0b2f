"""Plots of every kind of results; what they draw is read back from the figures."""

import dataclasses
import itertools
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxcompress.report import plots, style
from jaxcompress.report.network_plots import activation_ranges, confusion_matrix, weight_ranges
from jaxcompress.report.results import Entry, Spread, TensorRange


def texts(figure):
  return [t.get_text() for t in figure.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize("plot", plots.PLOTS, ids=lambda plot: plot.name)
def test_every_plot_is_a_figure_titled_with_its_finding(full, plot):
  figure = plot.make(full)
  assert isinstance(figure, Figure)
  assert figure.get_suptitle().replace("\n", " ") == plot.finding(full)


@pytest.mark.parametrize("plot", plots.PLOTS, ids=lambda plot: plot.name)
@pytest.mark.parametrize("names", [("cat", "dog"), tuple(f"class {i}" for i in range(150))])
def test_narrow_plots_have_no_title_and_show_as_much(make_results, plot, names):
  results = make_results(names=names, images=20 * len(names))
  wide, narrow = plot.make(results), plot.make(results, style.NARROW)
  assert narrow.get_size_inches()[0] == style.NARROW and not narrow.get_suptitle()
  assert len(narrow.axes) == len(wide.axes)
  lines = [[len(line.get_xdata()) for line in ax.lines] for ax in (*wide.axes, *narrow.axes)]
  assert lines[: len(wide.axes)] == lines[len(wide.axes) :]


@pytest.mark.slow
def test_all_plots_are_png(make_results):
  drawn = plots.render_plots(make_results(names=("cat", "dog"), images=200, count=4))
  assert set(drawn) == {plot.name for plot in plots.PLOTS}
  assert all(data.startswith(b"\x89PNG") for data in drawn.values())


def test_plots_without_data_are_left_out(full):
  entries = {
    key: Entry(e.model, e.top1, e.parameters, e.macs, e.bytes) for key, e in full.entries.items()
  }
  emptied = {"curves": {}, "confusion": None, "layers": (), "ranges": (), "search": None}
  bare = dataclasses.replace(full, entries=entries, **emptied)
  present = [plot.name for plot in plots.PLOTS if plot.present(bare)]
  assert present == ["accuracy_against_size", "costs"]


def test_a_phase_without_curve_or_with_gaps_is_drawn_without_it(full):
  curves = {"alone": [{"step": 1, "loss": None}, {"step": 2, "loss": 1.5, "top1": 0.5}], "int8": []}
  figure = plots.training_curves(dataclasses.replace(full, curves=curves))
  left, right = figure.axes
  assert [len(line.get_xdata()) for line in left.lines] == [1, 0]
  assert left.lines[0].get_marker() == "o"  # a line of one point is not seen
  assert "circles: held-out images" in right.get_title("left")


def test_no_score_beyond_all_images_is_on_an_axis(full):
  entries = {key: dataclasses.replace(one, top1=1.0) for key, one in full.entries.items()}
  figure = plots.accuracy_against_size(dataclasses.replace(full, entries=entries))
  ticks = figure.axes[0].get_yticks()
  assert len(ticks) > 1 and max(ticks) == pytest.approx(1.0)


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 61, 150])
def test_the_confusion_matrix_takes_any_number_of_classes(make_results, classes):
  names = tuple(f"class {i}" for i in range(classes))
  figure = confusion_matrix(make_results(names=names, images=20 * classes, count=1))
  axis = figure.axes[0]
  assert axis.images[0].get_array().shape[:2] == (classes, classes)
  assert 1 <= len(axis.get_yticks()) <= 100


@pytest.mark.parametrize("width", [style.WIDTH, 4.2])
@pytest.mark.parametrize(
  "names",
  [
    ("Blüte", "Katze", "Tempel groß", "astronaut", "coffee cup", "grass"),
    ("cat", "dog"),
    tuple("0123456789"),
    tuple(f"bird {i}" for i in range(18)),
    tuple(f"bird {i}" for i in range(47)),
  ],
  ids=len,
)
def test_names_below_the_confusion_matrix_do_not_meet(make_results, names, width):
  figure = confusion_matrix(make_results(names=names, images=20 * len(names), count=1), width)
  figure.canvas.draw()
  boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
  assert all(one.x1 < other.x0 + 1 for one, other in itertools.pairwise(boxes))


@pytest.mark.slow
def test_class_names_are_drawn_as_they_are_or_by_number(full):
  names = ("$x$", "a" * 40, "猫", "", *full.run.classes[4:])
  results = dataclasses.replace(full, run=dataclasses.replace(full.run, classes=names))
  labels = [t.get_text() for t in confusion_matrix(results).axes[0].get_yticklabels()]
  assert labels[:4] == ["$x$", "a" * 13 + "…", "#2", "#3"]
  assert style.png(confusion_matrix(results)).startswith(b"\x89PNG")


def test_an_empty_row_of_the_matrix_divides_by_nothing(full):
  confusion_matrix(dataclasses.replace(full, confusion=np.zeros((47, 47), np.int64)))


def test_extreme_ranges_and_dead_channels_are_drawn(full):
  ranges = (*full.ranges, TensorRange("huge", -1000.0, 2000.0, 3000 / 255, 0))
  layers = (dataclasses.replace(full.layers[0], weights=Spread(0.0, 0.0, 0.0)), *full.layers)
  results = dataclasses.replace(full, ranges=ranges, layers=layers)
  assert activation_ranges(results).axes[0].get_yscale() == "symlog"
  assert "all-zero channels" in weight_ranges(results).get_suptitle()
  style.png(weight_ranges(dataclasses.replace(full, layers=layers[:1])))


def test_equal_results_give_equal_bytes(full):
  assert style.png(plots.costs(full)) == style.png(plots.costs(full))


def test_the_users_style_is_neither_used_nor_changed(full):
  with matplotlib.rc_context({"figure.facecolor": "black", "text.color": "red"}):
    figure = plots.costs(full)
    assert matplotlib.rcParams["figure.facecolor"] == "black"
  assert matplotlib.colors.to_hex(figure.get_facecolor()) == style.PAPER
  assert all(t.get_color() != "red" for t in figure.findobj(matplotlib.text.Text))


def test_labels_at_one_place_are_moved_apart():
  moved = style.spread([0.5, 0.5, 0.5], [10, 10, 10], 0.1)
  assert np.diff(sorted(moved)) == pytest.approx([0.1, 0.1], abs=1e-3)


def test_pyplot_is_never_imported_by_the_package():
  import subprocess

  code = "import sys, jaxcompress.report; sys.exit('matplotlib.pyplot' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
