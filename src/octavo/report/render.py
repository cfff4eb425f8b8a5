"""The page: data in, one HTML file out. It holds its own scripts and styles, and nothing in it leads outside."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import resources
from typing import Any

from octavo.errors import MissingDependencyError
from octavo.report import charts
from octavo.report.terminal import NOTHING


def check_installed() -> None:
    """Ask before the work that a page needs, not after it.

    Raises:
      MissingDependencyError: Jinja2, Plotly or Pillow isn't installed.
    """
    missing = [name for name in ("jinja2", "plotly", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"the report needs {', '.join(missing)}: install what draws it with pip install 'octavo[report]'"
        )


def render(data: Mapping[str, Any]) -> str:
    """The page of `octavo.report.data.page_data`.

    Raises:
      MissingDependencyError: what draws it isn't installed.
    """
    check_installed()
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, number=_number, count=_count)
    files = resources.files("octavo.report")
    template = environment.from_string((files / "page.html").read_text("utf-8"))
    parts = {name: (files / name).read_text("utf-8") for name in ("page.css", "page.js")}
    return template.render(
        data=data,
        figures=_figures(data),
        details={name: [node["facts"] for node in graph["nodes"]] for name, graph in data["graphs"].items()},
        style=jinja2_safe(parts["page.css"]),
        script=jinja2_safe(parts["page.js"]),
        plotly=jinja2_safe(get_plotlyjs()),
    )


def jinja2_safe(text: str) -> Any:
    """Our own scripts and styles, which stand in the page as they are."""
    from markupsafe import Markup

    return Markup(text)


def _figures(data: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by the id of the element that shows them."""
    figures: dict[str, Any] = {"bytes": charts.bytes_by_kind(data)}
    front = charts.size_and_accuracy(data)
    if front is not None:
        figures["pareto"] = front
    for number, found in enumerate(data["layers"].values()):
        figures[f"layers-{number}"] = charts.error_by_layer(found["layers"])
        for layer in found["layers"]:
            if layer["histogram"] is not None:
                figures[f"histogram-{number}-{layer['index']}"] = charts.histogram(layer)
    for number, graph in enumerate(data["graphs"].values()):
        figures[f"graph-{number}"] = charts.graph(graph)
    return figures


def _percent(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None, form: str = ".4g") -> str:
    return NOTHING if value is None else format(value, form)


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"
