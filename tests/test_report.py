"""The page: what it says, that nothing in it leads outside, and (where Chromium is installed) that it works."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.compare import Comparison, Variant, compare
from octavo.errors import ModelFileError
from octavo.inspect import inspect
from octavo.model import Model
from octavo.qtypes import QParams
from octavo.report.data import graph_data, page_data, pareto, precision, thumbnail, verdict
from octavo.runtime.parity import parity

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
LARGEST = 6_000_000  # bytes
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def network(evil: str = "") -> Model:
    build = Builder()
    x = build.input("image", (1, 10, 10, 1))
    y = build.conv(x, f"stem{evil}", 6, act=1)
    z = build.conv(y, f"left{evil}", 6, act=1)
    y = build.op("ADD", [y, z], f"sum{evil}", y.shape, "AddOptions", fusedActivationFunction=0)
    axes = build.const("axes", np.array([1, 2], np.int32))
    y = build.op("MEAN", [y, axes], f"pool{evil}", (1, 6), "ReducerOptions", keepDims=False)
    return Model(build.program(build.dense(y, f"logits{evil}", 5)))


def coarse(small: Model) -> Model:
    """The model with the last weights' scale wrong, so that samples flip."""
    program = small.program.clone()
    weights = next(op for op in program.main.ops if op.code == "FULLY_CONNECTED").inputs[1]
    factors = np.where(np.arange(weights.qparams.scale.size) % 2 == 0, 1.5, 0.6).astype(np.float32)
    weights.qparams = QParams(weights.qparams.scale * factors, weights.qparams.zero_point, weights.qparams.axis)
    return Model(program)


def comparison(evil: str = "") -> Comparison:
    model = network(evil)
    x = np.random.default_rng(3).normal(size=(120, 10, 10, 1)).astype(np.float32)
    y = np.argmax(octavo.Runner(model)(x), axis=1)
    small = octavo.quantize(model, octavo.integer(), x)
    made = {"float32": model, f"int8{evil}": small, "spoiled": coarse(small)}
    return compare(made, x, y)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    found = comparison(EVIL)
    name = f"int8{EVIL}"
    kernels = {name: parity(found.subject.models[name], found.subject.x, kernels=("xnnpack", "reference"))}
    return found, found.to_html(
        path, f"A model {EVIL}", kernels, dataset=EVIL, seed=7, command=f"octavo compare {EVIL}"
    )


class Tags(HTMLParser):
    """Tags with their attributes, the text between, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        (self.scripts if self._open in ("script", "style") else self.texts).append(data)


def test_nothing_leads_outside(page):
    found = Tags(page[1].read_text("utf-8"))
    assert not {"link", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert not {"onerror", "onload", "onclick", "href", "action"} & set(attributes)
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    own = [script for script in found.scripts if len(script) < 1_000_000]
    assert not re.search(r"https?:|@import|url\(", "".join(own))
    assert page[1].stat().st_size < LARGEST


def test_names_are_escaped(page):
    parsed = Tags(page[1].read_text("utf-8"))
    assert [tag for tag, _ in parsed.tags].count("script") == 4
    assert all(a.get("src") != "x" for _, a in parsed.tags)
    assert any(f"A model {EVIL}" in text for text in parsed.texts)
    figures = next(json.loads(s) for s in parsed.scripts if s.startswith('{"bytes"'))
    # Plotly reads a little HTML in texts; none of it may come from a name.
    assert "<img" not in json.dumps(figures)
    assert "<script" not in json.dumps(figures)
    assert "&lt;img" in json.dumps(figures)


def test_what_the_page_says(page):
    found, path = page
    texts = " ".join(" ".join(Tags(path.read_text("utf-8")).texts).split())
    assert verdict(found) in texts
    for row in found:
        assert f"{row.bytes:,}" in texts
    assert f"{found['spoiled'].lost} lost" in texts
    assert "its weights are off by" in texts
    assert "Kernels" in texts
    assert "octavo compare" in texts
    assert octavo.__version__ in texts


def test_pictures_are_small_and_only_of_flipped_samples(page):
    found, path = page
    pictures = [a for tag, a in Tags(path.read_text("utf-8")).tags if tag == "img"]
    shown = {flip.sample for flip in found.flips}
    assert pictures
    assert {int(a["alt"].split()[1]) for a in pictures} <= shown
    assert all(a["src"].startswith("data:image/png;base64,") and len(a["src"]) < 2000 for a in pictures)


def test_thumbnails():
    assert thumbnail(np.zeros((300, 200, 3))).startswith("data:image/jpeg")
    assert thumbnail(np.full((8, 8), np.nan)).startswith("data:image/png")
    assert len(thumbnail(np.random.default_rng(0).random((500, 500, 3)))) < 12_000


def row(name: str, size: int, accuracy: float | None, p: float | None = None, integer: bool = False) -> Variant:
    return Variant(name, None, size, accuracy, 100, "float32", "float32", integer, p_value=p)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row("f", 100, 0.9), row("a", 25, 0.9, 1.0), row("b", 26, 0.9, 1.0, True)], "Ship b: 3.8 times smaller"),
        ([row("f", 100, 0.9), row("a", 25, 0.8, 0.001), row("b", 50, 0.9, 0.5)], "Ship b: 2.0 times smaller"),
        ([row("f", 100, 0.9), row("a", 25, 0.95, 0.001)], "Ship a"),
        ([row("f", 100, 0.9), row("a", 25, 0.8, 0.001)], "Every variant is worse than f"),
        ([row("f", 100, 0.9), row("a", 120, 0.9, 1.0)], "No variant is smaller"),
        ([row("f", 100, None), row("a", 25, None)], "Without labels"),
        ([row("f", 100, 0.9), row("a", 25, 0.8)], "tells no single samples"),
        ([row("f", 100, 0.9)], ""),
    ],
)
def test_verdict(rows, says):
    assert verdict(Comparison(tuple(rows), "f", "top1")).startswith(says) or says in verdict(
        Comparison(tuple(rows), "f", "top1")
    )


def test_verdict_where_less_is_better():
    rows = (row("f", 100, 1.0), row("a", 25, 2.0, 0.001), row("b", 50, 0.5, 0.001))
    assert verdict(Comparison(rows, "f", "mean_absolute_error", higher_is_better=False)).startswith("Ship b")


def test_pareto():
    rows = (row("a", 10, 0.5), row("b", 20, 0.4), row("c", 30, 0.9), row("d", 40, 0.9), row("e", 10, 0.45))
    assert pareto(Comparison(rows, "a", "top1")) == ["a", "c"]
    assert pareto(Comparison(rows, "a", "error", higher_is_better=False)) == ["e", "b"]


def test_graph_data():
    model = network()
    x = np.random.default_rng(0).normal(size=(4, 10, 10, 1)).astype(np.float32)
    small = octavo.quantize(model, octavo.integer(), x)
    found = graph_data(small.program.main, inspect(model, small, x))
    places = [(node["x"], node["y"]) for node in found["nodes"]]
    assert len(set(places)) == len(places) == len(small.program.main.ops)
    for start, end in found["edges"]:
        assert found["nodes"][start]["y"] < found["nodes"][end]["y"]
    kinds = [(node["kind"], node["precision"]) for node in found["nodes"]]
    assert kinds[0] == ("QUANTIZE", "conversion")
    assert ("CONV_2D", "int8") in kinds
    assert found["nodes"][1]["facts"]["own"] > 0
    dynamic = octavo.quantize(model, octavo.dynamic_range(0)).program.main
    assert precision(next(op for op in dynamic.ops if op.code == "CONV_2D")) == "hybrid"
    assert precision(model.program.main.ops[0]) == "float32"


def test_a_page_of_large_graphs_stays_small(tmp_path):
    build = Builder()
    y = build.input("x", (1, 4))
    for number in range(900):
        y = build.unary("RELU", y, f"{'a long path of scopes/' * 12}{number}")
    model = Model(build.program(y))
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    found = compare({"a": model, "b": model, "c": model}, x, latency=False)
    path = found.to_html(tmp_path / "page.html")
    assert path.stat().st_size < LARGEST
    assert "The graph of a is left out to keep this page small." in path.read_text("utf-8")


def test_without_its_libraries_the_page_says_what_to_install():
    program = """
import sys
sys.modules["plotly"] = None
from octavo.errors import MissingDependencyError
from octavo.report.render import render
try:
    render({})
except MissingDependencyError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'octavo[report]'" in said.stdout


def test_models_that_do_not_fit_are_noted(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 10, 10, 1)).astype(np.float32)
    build = Builder()
    other = build.reshape(build.input("x", (1, 10, 10, 1)), "flat", (1, 100))
    found = compare({"a": network(), "b": Model(build.program(other))}, x, latency=False)
    inspections, notes = found.inspections()
    assert inspections == {} or "b" in inspections
    data = page_data(found, inspections, {}, {}, [*notes, "said aloud"], "", {})
    assert "said aloud" in data["notes"]
    found.to_html(tmp_path / "page.html")


def test_whole_or_not_at_all(page, tmp_path):
    with pytest.raises(ModelFileError, match="missing"):
        page[0].to_html(tmp_path / "missing" / "page.html")


# ---------------------------------------------------------------- in a browser

WATCH = """
<script>
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => window.refused.push(event.blockedURI));
</script>
"""
PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const graph = document.querySelector('[data-panel="graph"]:not([hidden]) .figure');
  graph.emit("plotly_click", { points: [{ customdata: 1 }] });
  document.querySelector("table.sortable th:nth-child(2) button").click();
  const told = {
    plots: document.querySelectorAll(".js-plotly-plot .main-svg").length,
    details: document.querySelector('[data-panel="graph"]:not([hidden]) .details').textContent,
    first: document.querySelector("table.sortable tbody tr td").dataset.value,
    title: document.title,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => /^http/.test(name)),
    refused: window.refused,
    width: document.documentElement.scrollWidth - innerWidth,
  };
  const out = Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(told) });
  document.body.append(out);
}, 500));
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_chromium(page, tmp_path):
    found, path = page
    probed = tmp_path / "probed.html"
    text = path.read_text("utf-8").replace("<title>", WATCH + "<title>", 1).replace("</body>", PROBE + "</body>")
    probed.write_text(text, "utf-8")
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=20000"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"),
    ]
    run = subprocess.run([CHROMIUM, *flags, probed.as_uri()], capture_output=True, text=True, timeout=120)
    assert 'id="probe"' in run.stdout, run.stderr[-2000:]
    told = json.loads(next(text for text in Tags(run.stdout).texts if text.startswith('{"plots"')))
    assert told["plots"] >= 5
    assert "CONV_2D" in told["details"]
    assert EVIL in told["details"]
    assert told["first"] == max(found, key=lambda row: row.bytes).name
    assert "owned" not in told["title"].replace(EVIL, "")
    assert told["width"] <= 0
    assert "CONSOLE" not in run.stderr, [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert told["requests"] == []
    assert told["refused"] == []
