"""Plots as SVG images, the same bytes for the same data.

Figures are narrow enough for a phone's screen; wider screens show two of them in a row.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MissingExtraError

# Okabe and Ito's colors, which color-blind people can tell apart; the first is a dark grey.
COLORS = ("#444444", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800")
MARKERS = "osD^vP*X"
WIDTH, HEIGHT = 4.8, 3.3  # inches; 72 pixels each
STYLE: Any = {  # matplotlib types its keys one by one
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "fedrouter",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
}

Series = Mapping[str, Sequence[tuple[float, float]]]


def lines(series: Series, x: str, y: str, *, whole: bool = True) -> str:
    """A curve for each series of (x, y) points, as HTML.

    Args:
        series: name -> points.
        x: what the horizontal axis is.
        y: what the vertical axis is.
        whole: whether x is a whole number, such as a round.
    """
    figure, axes = _axes(legend=len(series))
    for (name, points), look in zip(series.items(), _looks(), strict=False):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, label=name, marker="o", markersize=3, color=look[0], linestyle=look[2])
    if whole:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return _image(figure, axes, x, y, legend=len(series))


def bars(groups: Sequence[str], series: Mapping[str, Sequence[float]], x: str) -> str:
    """Horizontal bars: for each group one of each series, as HTML.

    Args:
        groups: labels from top to bottom.
        series: name -> a value for each group.
        x: what the values are; none is below 0.
    """
    figure, axes = _axes(legend=len(series), rows=len(groups) * (len(series) + 1))
    thickness = 0.85 / len(series)
    for i, ((name, values), look) in enumerate(zip(series.items(), _looks(), strict=False)):
        positions = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * thickness
        axes.barh(positions, values, thickness, label=name, color=look[0])
    longest = max((value for values in series.values() for value in values), default=0)
    axes.set_xlim(0, 1.05 * longest or 1)  # where nothing is above 0, as well
    axes.set_yticks(range(len(groups)), [_short(group) for group in groups])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return _image(figure, axes, x, "", legend=len(series))


def matrix(counts: Mapping[str, Mapping[str, int]], x: str, y: str) -> str:
    """A table of counts as shades, each row in shares of its sum, as HTML.

    Args:
        counts: row -> column -> number.
        x: what the columns are.
        y: what the rows are.
    """
    rows, columns = list(counts), sorted({name for row in counts.values() for name in row})
    table = np.array([[counts[row].get(column, 0) for column in columns] for row in rows])
    figure, axes = _axes(rows=2 * len(rows) + 8)
    axes.grid(visible=False)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(table):
        dark = count > table[i].sum() / 2
        if count:
            axes.text(j, i, str(count), ha="center", va="center", color="w" if dark else "k")
    labels = [_short(column) for column in columns]
    axes.set_xticks(range(len(columns)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    return _image(figure, axes, x, y)


def scatter(points: NDArray[np.floating[Any]], labels: Sequence[str], centres: Series) -> str:
    """Points in two dimensions, colored by label, with named centres as crosses, as HTML."""
    names = sorted(set(labels))
    figure, axes = _axes(legend=len(names), rows=16)
    own = np.array(labels)
    for name, (color, marker, _) in zip(names, _looks(), strict=False):
        chosen = points[own == name]
        axes.scatter(*chosen.T, s=6, c=color, marker=marker, label=name, alpha=0.6, linewidths=0)
    for name, centroids in centres.items():
        for x, y in centroids:
            axes.scatter([x], [y], s=60, c="k", marker="x")
            axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    return _image(figure, axes, "first principal component", "second", legend=len(names))


def _looks() -> Any:
    """An endless iterator over different combinations of color, marker and line style."""
    styles = [style for style in ("-", "--", ":") for _ in COLORS]
    return zip(cycle(COLORS), cycle([*MARKERS, *MARKERS[::-1]]), cycle(styles), strict=False)


def _axes(legend: int = 0, rows: int = 0) -> tuple[Any, Any]:
    """A figure with axes; room for a legend's lines and for rows of bars or cells."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a report", "report") from error
    below = 0.17 * ((legend + 2) // 3) if legend > 1 else 0.0
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, max(HEIGHT, 0.13 * rows) + below), layout="constrained")
        return figure, figure.add_subplot()


def _image(figure: Any, axes: Any, x: str, y: str, legend: int = 0) -> str:
    from matplotlib import rc_context

    with rc_context(STYLE):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if legend > 1:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8, markerscale=2)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return f'<img alt="" src="data:image/svg+xml;base64,{b64encode(out.getvalue()).decode()}">'


def _short(text: str, width: int = 22) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
