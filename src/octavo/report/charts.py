"""The page's charts, as Plotly figures in JSON. Names come from model files, so they are escaped for Plotly's markup.

Text and lines have no colour here: the page sets them, for light, dark and paper.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.text import printable

# Okabe and Ito's palette, which people with any colour vision can tell apart.
PRECISIONS = {
    "int8": "#0072b2",
    "uint8": "#56b4e9",
    "int16": "#009e73",
    "int4": "#cc79a7",
    "hybrid": "#e69f00",
    "float32": "#d55e00",
    "float16": "#d55e00",
    "conversion": "#8a8a8a",
    "indices": "#b5b5b5",
}
KINDS = {
    "weights": "#0072b2",
    "biases": "#56b4e9",
    "constants": "#009e73",
    "metadata": "#cc79a7",
    "structure": "#999999",
}
# Of the variants: the palette again, less its yellow, which no white paper shows.
VARIANTS = ("#d55e00", "#e69f00", "#009e73", "#56b4e9", "#0072b2", "#cc79a7", "#999999")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
OWN, INHERITED, ACCENT = "#d55e00", "#56b4e9", "#0072b2"
FLOOR = 0.5  # where the grid stands below a histogram, on a logarithmic axis of counts
LEVEL = 30  # pixels between two levels of the graph


def size_and_accuracy(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Size against accuracy, the Pareto line through the variants that none beats. None without accuracies."""
    rows = [row for row in data["rows"] if row["accuracy"] is not None]
    if not rows:
        return None
    go = _plotly()
    factor, unit = (100, " %") if rows[0]["is_share"] else (1, "")
    by_name = {row["name"]: row for row in rows}
    front = [by_name[name] for name in map(printable, data["pareto"]) if name in by_name]
    figure = go.Figure()
    figure.add_scatter(
        x=[row["bytes"] for row in front], y=[factor * row["accuracy"] for row in front], mode="lines",
        line={"dash": "dot", "width": 2, "color": "#999999"}, name="Pareto line", hoverinfo="skip",
    )  # fmt: skip
    for number, row in enumerate(rows):
        figure.add_scatter(
            x=[row["bytes"]], y=[factor * row["accuracy"]], mode="markers", name=_text(row["name"]),
            error_y=_bars(row, factor),
            marker={"size": 12, "color": VARIANTS[number % len(VARIANTS)], "symbol": SYMBOLS[number % len(SYMBOLS)]},
            hovertemplate="<b>%{fullData.name}</b><br>%{x:,} bytes<br>%{y:.2f}" + unit + "<extra></extra>",
        )  # fmt: skip
    figure.update_layout(height=400, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    figure.update_xaxes(title="bytes", rangemode="tozero")
    figure.update_yaxes(title=f"{_text(data['comparison']['metric'])}{unit}")
    return _json(figure)


def _bars(row: Mapping[str, Any], factor: float) -> dict[str, Any] | None:
    """The confidence interval around a variant's accuracy."""
    if row["accuracy_low"] is None:
        return None
    above = factor * (row["accuracy_high"] - row["accuracy"])
    below = factor * (row["accuracy"] - row["accuracy_low"])
    return {"array": [above], "arrayminus": [below], "thickness": 1, "color": "rgba(128,128,128,.6)"}


def bytes_by_kind(data: Mapping[str, Any]) -> dict[str, Any]:
    """One bar for each variant, split by what the bytes are."""
    go = _plotly()
    rows = list(reversed(data["rows"]))
    figure = go.Figure()
    for kind, colour in KINDS.items():
        figure.add_bar(
            y=[_text(row["name"]) for row in rows], x=[row["bytes_by_kind"][kind] for row in rows], orientation="h",
            name=kind, marker={"color": colour}, hovertemplate="%{y}: %{x:,} bytes of " + kind + "<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        barmode="stack", height=100 + 38 * len(rows), legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}
    )
    figure.update_xaxes(title="bytes")
    figure.update_yaxes(automargin=True)
    return _json(figure)


def error_by_layer(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each layer adds itself and what it inherits, in the order of the file."""
    go = _plotly()
    names = [_text(_shorten(layer["layer"] or layer["kind"], 60)) for layer in layers]
    about = [
        (name, _text(layer["kind"]), layer["index"], f"<br>{_text(layer['cause'])}" if layer["cause"] else "")
        for name, layer in zip(names, layers, strict=True)
    ]
    figure = go.Figure()
    for key, title, colour in (("own", "adds itself", OWN), ("inherited", "inherits", INHERITED)):
        figure.add_bar(
            x=list(range(len(layers))), y=[100 * (layer[key] or 0) for layer in layers], name=title,
            marker={"color": colour}, customdata=about,
            hovertemplate="<b>%{customdata[0]}</b> (%{customdata[1]})<br>" + title + " %{y:.3g} %%{customdata[3]}"
            "<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="group", height=360, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    few = len(layers) <= 24
    ticks = [_shorten(name) for name in names]
    figure.update_xaxes(
        tickvals=list(range(len(layers))) if few else None, ticktext=ticks if few else None, tickangle=-40,
        title=None if few else "op, in the order of the file", automargin=True,
    )  # fmt: skip
    figure.update_yaxes(title="error, % of the output", rangemode="tozero")
    return _json(figure)


def histogram(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The float values of one layer, and what its scale can hold."""
    go = _plotly()
    found = layer["histogram"]
    width = (found["high"] - found["low"]) / len(found["counts"])
    centres = [found["low"] + (i + 0.5) * width for i in range(len(found["counts"]))]
    figure = go.Figure()
    figure.add_bar(
        x=centres, y=found["counts"], width=width, marker={"color": ACCENT}, name="values",
        hovertemplate="near %{x:.4g}: %{y:,} values<extra></extra>",
    )  # fmt: skip
    if layer["scale"] is not None and layer["dtype"] in ("int8", "uint8"):
        lowest = -128 if layer["dtype"] == "int8" else 0
        codes = range(lowest, lowest + 256)
        grid = [layer["scale"] * (code - layer["zero_point"]) for code in codes]
        figure.add_scatter(
            x=grid, y=[FLOOR] * len(grid), mode="markers", marker={"symbol": "line-ns-open", "size": 8, "color": OWN},
            name="grid", hovertemplate="code %{customdata} = %{x:.4g}<extra></extra>", customdata=list(codes),
        )  # fmt: skip
    figure.update_layout(showlegend=False, height=210, margin={"t": 8, "b": 36, "l": 48, "r": 8}, bargap=0)
    top = math.log10(max(*found["counts"], 10))
    figure.update_yaxes(type="log", title="values", dtick=1, range=[math.log10(FLOOR) - 0.15, top + 0.1])
    return _json(figure)


def graph(found: Mapping[str, Any]) -> dict[str, Any]:
    """The ops from top to bottom, coloured by precision; the node's number is its customdata."""
    go = _plotly()
    nodes = found["nodes"]
    figure = go.Figure()
    xs: list[float | None] = []
    ys: list[float | None] = []
    for start, end in found["edges"]:
        (x1, y1), (x2, y2) = ((nodes[i]["x"], nodes[i]["y"]) for i in (start, end))
        # A longer way in one lane would run behind the nodes between: it goes around them, on the side without names.
        around = [(x1 - 0.3, y1 + 0.6), (x1 - 0.3, y2 - 0.6)] if x1 == x2 and y2 - y1 > 1 else []
        for x, y in [(x1, y1), *around, (x2, y2)]:
            xs.append(x)
            ys.append(y)
        xs.append(None)
        ys.append(None)
    figure.add_scatter(
        x=xs, y=ys, mode="lines", line={"width": 1, "color": "rgba(128,128,128,.7)"}, hoverinfo="skip", showlegend=False
    )
    crowded = len({node["x"] for node in nodes}) > 3
    for name in dict.fromkeys(node["precision"] for node in nodes):
        mine = [(i, node) for i, node in enumerate(nodes) if node["precision"] == name]
        figure.add_scatter(
            x=[node["x"] for _, node in mine], y=[node["y"] for _, node in mine], customdata=[i for i, _ in mine],
            mode="markers" if crowded else "markers+text", text=[_text(node["kind"]) for _, node in mine],
            textposition="middle right",
            hovertext=[f"{_text(node['kind'])}<br>{_text(node['facts']['layer'])}" for _, node in mine], name=name,
            marker={"symbol": "square", "size": 14, "color": PRECISIONS.get(name, "#666666")},
            hovertemplate="%{hovertext}<extra>" + name + "</extra>",
        )  # fmt: skip
    levels = 1 + max((node["y"] for node in nodes), default=0)
    lanes = [node["x"] for node in nodes] or [0]
    figure.update_layout(
        height=90 + LEVEL * levels, legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 50, "b": 10, "l": 10, "r": 10}, hovermode="closest",
    )  # fmt: skip
    figure.update_xaxes(
        visible=False, range=[min(lanes) - 0.6, max(lanes) + (0.6 if crowded else 1.6)], fixedrange=True
    )
    figure.update_yaxes(visible=False, range=[levels - 0.4, -0.6], fixedrange=True)
    return _json(figure)


def _plotly() -> Any:
    import plotly.graph_objects as go

    return go


def _json(figure: Any) -> dict[str, Any]:
    """The figure as JSON has it, without Plotly's default look."""
    figure.layout.template = None
    figure.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"family": "inherit"})
    if figure.layout.margin.t is None:
        figure.update_layout(margin={"t": 24, "b": 48, "l": 60, "r": 16})
    return json.loads(figure.to_json())


def _text(value: Any) -> str:
    """Plotly reads a little HTML in texts; a name is only a name."""
    return html.escape(printable(str(value)), quote=False)


def _shorten(name: str, length: int = 22) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]
