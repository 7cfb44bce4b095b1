"""The pictures of the reports as matplotlib axes.

Each function takes a table as it was read (or the whole Analysis), draws on `ax` or on a new figure, and returns the axes;
none shows anything or changes global settings. `style` is the style sheet of new figures, for
`matplotlib.pyplot.style.use(plot.style)`; `one_column` and `two_columns` are widths in inches.

>>> from signalbox import plot
>>> tables = signalbox.read_analysis("out/trace")
>>> plot.save(plot.usage(tables), "out/usage.svg")
"""

# matplotlib's own types leave the keywords of most drawing methods open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm

from .analysis import Analysis
from .run import Run
from .trace import Trace

if TYPE_CHECKING:
    import pandas as pd

style = str(Path(__file__).parent / "signalbox.mplstyle")
one_column, two_columns = 3.35, 6.9

_blue, _orange, _grey = "#0072B2", "#D55E00", "#8a8a8a"
# Blue for positive, orange for negative values, as in the reports.
_diverging = LinearSegmentedColormap.from_list("signalbox_diverging", [_orange, "#ffffff", _blue])
_sequential = LinearSegmentedColormap.from_list("signalbox_sequential", ["#ffffff", "#56B4E9", _blue, "#00304d"])
_significant = 0.05


P = ParamSpec("P")


def _styled(draw: Callable[P, Axes]) -> Callable[P, Axes]:
    """Draws in the style of this package where it makes the figure, and in the caller's where axes are given."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Axes:
        if kwargs.get("ax") is not None:
            return draw(*args, **kwargs)
        with plt.style.context(style):
            return draw(*args, **kwargs)

    return styled


@_styled
def domains(
    table: Analysis | pd.DataFrame, layer: int, *, difference: bool = False, order: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Which domain uses which expert: domains downwards, experts across, colour the share of the domain's tokens that select
    the expert (usage.csv). `difference`: minus the share over all records. `order`: the domains, from above.

    >>> plot.domains(signalbox.read_analysis("out/trace"), layer=3).get_xlabel()
    'expert'
    """
    usage_table = _table(table, "usage")
    rows = _of_layer(usage_table, layer)
    matrix = rows[rows.domain.notna()].pivot(index="domain", columns="expert", values="share")
    if matrix.empty:
        raise ValueError("domains: expected records with a key domain, found none")
    if order is not None:
        matrix = matrix.loc[list(order)]
    title = f"layer {layer}: share of a domain's tokens"
    if difference:
        matrix = matrix - rows[rows.domain.isna()].set_index("expert").share
        title += " minus that of all"
    axes = _axes(ax, two_columns, 0.9 + 0.28 * len(matrix))
    _heat(axes, matrix.to_numpy(), diverging=difference)
    axes.set_yticks(range(len(matrix)), list(matrix.index))
    _expert_ticks(axes, matrix.columns)
    axes.set_title(title)
    return axes


@_styled
def usage(table: Analysis | pd.DataFrame, *, domain: str | None = None, ax: Axes | None = None) -> Axes:
    """How often each expert is used: layers downwards, experts across. Blue: by more tokens than the mean of its layer; orange:
    by fewer. The number is the percentage of tokens (usage.csv)."""
    rows = _table(table, "usage")
    rows = rows[rows.domain.isna()] if domain is None else rows[rows.domain == domain]
    if rows.empty:
        raise ValueError(f"usage: expected a domain of the table, found {domain!r}")
    share = rows.pivot(index="layer", columns="expert", values="share")
    axes = _map(ax, share.sub(share.mean(axis=1), axis=0), numbers=100 * share)
    axes.set_title("tokens that select the expert, %" + (f", {domain}" if domain else ""))
    return axes


@_styled
def rd(table: Analysis | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The risk difference of every expert: layers downwards, experts across, in percentage points. Blue: used more under the
    first condition; orange: under the second. A dot: q < 0.05 (rd.csv)."""
    rows = _table(table, "rd")
    values = rows.pivot(index="layer", columns="expert", values="rd")
    axes = _map(ax, values, numbers=100 * values, signs=True, dots=rows.pivot(index="layer", columns="expert", values="q") < _significant)
    contrast = table.summary.get("contrast") if isinstance(table, Analysis) else None
    axes.set_title(f"{contrast['a']} minus {contrast['b']}, percentage points" if contrast else "risk difference, percentage points")
    return axes


@_styled
def transitions(table: Analysis | pd.DataFrame, layer: int, *, ax: Axes | None = None) -> Axes:
    """Which expert follows which: probability of the next token's first expert (across) given this one's (downwards); pairs
    that never meet are 0 (transitions.csv)."""
    rows = _of_layer(_table(table, "transitions"), layer)
    experts = np.arange(int(max(rows["from"].max(), rows["to"].max())) + 1)
    matrix = rows.pivot(index="from", columns="to", values="probability").reindex(index=experts, columns=experts).fillna(0)
    axes = _axes(ax, 4.2, 3.8)
    _heat(axes, matrix.to_numpy(), label="probability")
    _expert_ticks(axes, experts)
    _expert_ticks(axes, experts, vertical=True)
    axes.set_xlabel("expert of the next token")
    axes.set_ylabel("expert of a token")
    axes.set_title(f"layer {layer}")
    return axes


@_styled
def autocorrelation(table: Analysis | pd.DataFrame, layer: int, experts: Sequence[int] | None = None, *, ax: Axes | None = None) -> Axes:
    """Does the same expert come back: correlation of an expert's use with itself some tokens later, a line for each of
    `experts` (default: all, thin, and their mean) (autocorrelation.csv)."""
    rows = _of_layer(_table(table, "autocorrelation"), layer)
    lines = rows.pivot(index="lag", columns="expert", values="r")
    axes = _axes(ax, one_column, 2.4)
    if experts is None:
        axes.plot(lines.index, lines.to_numpy(), color=_grey, linewidth=0.5, alpha=0.6)
        axes.plot(lines.index, lines.mean(axis=1), color=_blue, label="mean over experts")
    else:
        for expert in experts:
            axes.plot(lines.index, lines[expert], label=f"expert {expert}")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel("lag, tokens")
    axes.set_ylabel("correlation")
    axes.set_title(f"layer {layer}")
    axes.legend()
    return axes


@_styled
def tokens(trace: Trace, sample: int | str, layer: int, *, start: int = 0, stop: int | None = None, ax: Axes | None = None) -> Axes:
    """The route of one text: tokens across, experts downwards, colour the weight. A line stands before the first generated
    token. `start`, `stop`: positions.

    >>> plot.tokens(trace, "delcru", layer=3, stop=20).get_ylabel()
    'expert'
    """
    where = list(trace.layers).index(layer) if layer in trace.layers else None
    if where is None:
        raise ValueError(f"tokens: expected a recorded layer of {trace!r}, found {layer}")
    rows = trace.rows(sample)
    rows = slice(min(rows.start + start, rows.stop), rows.stop if stop is None else min(rows.start + stop, rows.stop))
    n_tokens = rows.stop - rows.start
    ids, weights = np.ma.asarray(trace.ids[rows, where]), trace.weights[rows, where]
    matrix = np.zeros((trace.n_experts, n_tokens))
    token, slot = np.nonzero(~np.ma.getmaskarray(ids))
    matrix[np.ma.getdata(ids)[token, slot], token] = weights[token, slot]
    axes = _axes(ax, max(one_column, 1.2 + 0.17 * n_tokens), 1.3 + 0.1 * trace.n_experts)
    _heat(axes, matrix, label="weight")
    pieces = [_shown(piece) for piece in trace.pieces[rows]]
    axes.set_xticks(range(n_tokens), pieces, rotation=90, fontsize=7)
    _expert_ticks(axes, range(trace.n_experts), vertical=True)
    generated = np.flatnonzero(trace.phase[rows])
    if len(generated):
        axes.axvline(generated[0] - 0.5, color="black", linewidth=0.8)
    name = trace.samples[sample] if isinstance(sample, int) else sample
    axes.set_ylabel("expert")
    axes.set_title(f"{name}, layer {layer}")
    return axes


@_styled
def forest(
    run: Run | pd.DataFrame, metric: str, *, condition: str | None = None, interventions: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """What each intervention changed: difference to the baseline with its 95 % interval, filled where q (or p, without a q) is
    below 0.05; the grey band and ticks are its random controls. `condition`: of these records alone.

    >>> plot.forest(signalbox.read_run("out/run"), "em").get_xlabel()
    'em, difference to the baseline'
    """
    every = run.contrasts if isinstance(run, Run) else run
    found = every[(every.metric == metric) & (every.condition.isna() if condition is None else every.condition == condition)]
    rows = found[found.control_of.isna()]
    if interventions is not None:
        rows = rows.set_index("intervention").loc[list(interventions)].reset_index()
    if rows.empty:
        raise ValueError(f"forest: expected a metric and a condition of the run, found {metric!r}, {condition!r}")
    axes = _axes(ax, two_columns, 0.8 + 0.3 * len(rows))
    axes.axvline(0, color="black", linewidth=0.6)
    for y, row in enumerate(rows.to_dict("records")):
        if row["n_controls"] > 0:
            axes.fill_betweenx([y - 0.3, y + 0.3], row["control_lo"], row["control_hi"], color="#dddddd", linewidth=0)
        controls: pd.Series[float] = found.loc[(found.control_of == row["intervention"]) & (found.control == "random"), "diff"]
        axes.plot(controls, np.full(len(controls), y), "|", color=_grey, markersize=9, markeredgewidth=0.8)
        decides = row["q"] if row["q"] == row["q"] else row["p"]
        axes.plot([row["ci_lo"], row["ci_hi"]], [y, y], color=_blue)
        axes.plot(row["diff"], y, "o", color=_blue, markerfacecolor=_blue if decides < _significant else "white", markersize=5)
    axes.set_yticks(range(len(rows)), list(rows.intervention))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}, difference to the baseline")
    if condition is not None:
        axes.set_title(condition)
    return axes


@_styled
def dose(run: Run | pd.DataFrame, metric: str, key: str, *, condition: str | None = None, baseline: str = "baseline", ax: Axes | None = None) -> Axes:
    """Dose and response: the mean of a metric with its 95 % interval at each value of a grid's `key`; a line for each
    combination of the other keys; dashed: the baseline."""
    every = run.metrics if isinstance(run, Run) else run
    if isinstance(run, Run):
        baseline = run.findings["baseline"]
    rows = every[(every.metric == metric) & (every.condition.isna() if condition is None else every.condition == condition)]
    column = f"grid.{key}"
    if column not in rows or rows[column].notna().sum() < 2:
        keys = [name.removeprefix("grid.") for name in map(str, rows) if name.startswith("grid.")]
        raise ValueError(f"dose: expected a key of a grid with two values ({', '.join(keys) or 'none there'}), found {key!r}")
    points = rows[rows[column].notna() & rows.control_of.isna()]
    lines: dict[str, list[Mapping[Any, Any]]] = {}
    for row in points.sort_values(column, kind="stable").to_dict("records"):
        entry = str(row["intervention"]).split("/")[0]
        others = [f"{name.removeprefix('grid.')} = {row[name]}" for name in map(str, row) if name.startswith("grid.") and name != column and row[name] == row[name]]
        lines.setdefault(", ".join([entry, *others]), []).append(row)
    axes = _axes(ax, one_column, 2.6)
    for name, line in lines.items():
        mean = np.array([row["mean"] for row in line])
        below, above = mean - [row["ci_lo"] for row in line], [row["ci_hi"] for row in line] - mean
        axes.errorbar([row[column] for row in line], mean, yerr=np.maximum([below, above], 0), marker="o", markersize=4, capsize=2, label=name)
    reference = rows[rows.intervention == baseline]["mean"]
    if len(reference):
        axes.axhline(reference.iloc[0], color=_grey, linestyle="--", linewidth=0.8, label=baseline)
    axes.set_xlabel(key)
    axes.set_ylabel(metric)
    axes.set_title(condition or "")
    axes.legend()
    return axes


def save(axes: Axes, path: str | os.PathLike[str]) -> None:
    """Writes the figure as its name ends (.svg, .pdf, .png), text as text, and the same bytes each time; makes the folder."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure: Any = axes.figure.figure  # the whole one, also of axes in a part of it
    with plt.style.context([style, {"svg.hashsalt": file.name}]):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


# ---- what they share


def _table(table: Analysis | pd.DataFrame, name: str) -> Any:
    return table[name] if isinstance(table, Analysis) else table


def _of_layer(table: Any, layer: int) -> Any:
    rows = table[table.layer == layer]
    if rows.empty:
        raise ValueError(f"plot: expected a layer of {sorted(table.layer.unique())}, found {layer}")
    return rows


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=(width, height))[1]


def _heat(axes: Axes, matrix: Any, *, diverging: bool = False, label: str = "share", norm: Normalize | None = None) -> Any:
    if norm is None:
        largest = float(np.nanmax(np.abs(matrix), initial=0)) or 1.0
        norm = TwoSlopeNorm(0, -largest, largest) if diverging else Normalize(0, largest)
    image = axes.imshow(matrix, aspect="auto", cmap=_diverging if diverging else _sequential, norm=norm, interpolation="nearest")
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, label="difference" if diverging else label)
    bar.outline.set_linewidth(0.5)
    return image


def _map(ax: Axes | None, values: Any, *, numbers: Any, signs: bool = False, dots: Any = None) -> Axes:
    n_layers, n_experts = values.shape
    axes = _axes(ax, max(two_columns, 0.9 + 0.24 * n_experts), 1.0 + 0.24 * n_layers)
    matrix = values.to_numpy()
    _heat(axes, matrix, diverging=True)
    largest = float(np.nanmax(np.abs(matrix), initial=0)) or 1.0
    if n_experts <= 40:
        for y, row in enumerate(numbers.to_numpy()):
            for x, number in enumerate(row):
                if number == number:
                    dark = abs(matrix[y, x]) > 0.6 * largest
                    axes.text(x, y, f"{number:+.0f}" if signs else f"{number:.0f}", ha="center", va="center", fontsize=5.5,
                              color="white" if dark else "black")  # fmt: skip
    if dots is not None:
        down, across = np.nonzero(dots.to_numpy())
        axes.plot(across + 0.36, down - 0.32, ".", color="black", markersize=2)
    axes.set_yticks(range(n_layers), [str(layer) for layer in values.index])
    axes.set_ylabel("layer")
    _expert_ticks(axes, values.columns)
    return axes


def _expert_ticks(axes: Axes, experts: Any, *, vertical: bool = False) -> None:
    step = 1
    while len(experts) / step > 16:
        step *= 2
    places = list(range(0, len(experts), step))
    labels = [str(experts[i]) for i in places]
    if vertical:
        axes.set_yticks(places, labels)
    else:
        axes.set_xticks(places, labels)
        axes.set_xlabel("expert")


def _shown(piece: str | None) -> str:
    """A piece as a label: what vocabularies write for a blank and a line's end, written plainly."""
    text = "" if piece is None else piece.replace("\u0120", " ").replace("\u2581", " ").replace("\u010a", "\\n").replace("\n", "\\n")
    return text.replace("$", r"\$")
