"""What the page says, as plain data: no HTML, no colours. Everything was computed before; here it is put in order."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo.errors import MissingDependencyError
from octavo.graph import Graph, Op, Tensor
from octavo.layers import layer_of
from octavo.matching import CONVERSIONS
from octavo.text import printable

if TYPE_CHECKING:
    from octavo.compare import Comparison, Variant
    from octavo.inspect import Inspection
    from octavo.pairing import Flip
    from octavo.runtime.parity import Parity

PICTURES = 24  # of each variant
THUMBNAIL = 96  # pixels
MOST_OPS = 1700  # in all graphs together: about 400 bytes of the page each
NAME = 120  # letters of a name
CLOSE = 1.05  # files whose sizes differ by less than this factor count as equally small


def page_data(
    comparison: Comparison,
    inspections: Mapping[str, Inspection],
    graphs: Mapping[str, Graph],
    kernels: Mapping[str, Parity],
    notes: Sequence[str],
    title: str,
    header: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
      comparison: the table.
      inspections: by name of the variant; those that could be made.
      graphs: main subgraph of each variant.
      kernels: one file on several sets of kernels, by name of the variant.
      notes: what could not be shown, and why.
      title: the headline.
      header: what else belongs to the record: dataset, seed, command.
    """
    drawn = _within_budget(graphs)
    left_out = [f"The graph of {name} is left out to keep this page small." for name in graphs if name not in drawn]
    return {
        "title": title or "What quantization cost",
        "verdict": verdict(comparison),
        "comparison": comparison.as_dict(),
        "rows": [_row(row, comparison) for row in comparison],
        "pareto": pareto(comparison),
        "layers": {name: found.as_dict() for name, found in inspections.items()},
        "graphs": {name: graph_data(graphs[name], inspections.get(name)) for name in drawn},
        "kernels": {printable(name): found.as_dict() for name, found in kernels.items()},
        "flips": _flips(comparison),
        "notes": [printable(note) for note in [*notes, *left_out]],
        "record": {**header, **comparison.settings},
    }


def verdict(comparison: Comparison) -> str:
    """Which variant to ship, in a sentence: the smallest that isn't worse by more than noise."""
    base = comparison[comparison.reference]
    others = [row for row in comparison if row.name != base.name]
    if not others:
        return ""
    if base.accuracy is None:
        return "Without labels there is no accuracy to judge by: see how far the outputs are from the reference's."
    if all(row.more_than_noise is None for row in others):
        return f"{comparison.metric} tells no single samples, so whether a difference is noise can't be said."
    sound = [row for row in others if row.more_than_noise is not None and not _worse(row, base, comparison)]
    if not sound:
        return f"Every variant is worse than {base.name} by more than noise: see below where each loses."
    smallest = min(row.bytes for row in sound)
    close = [row for row in sound if row.bytes <= CLOSE * smallest]
    best = min(close, key=lambda row: (not row.integer_only, row.latency_ms_median or 0.0, row.bytes))
    if best.bytes >= base.bytes:
        return f"No variant is smaller than {base.name} and as good."
    kind = " and all integer" if best.integer_only else ""
    return (
        f"Ship {best.name}: {base.bytes / best.bytes:.1f} times smaller than {base.name}{kind}; {base.samples:,} "
        f"samples show no loss of {comparison.metric} beyond noise."
    )


def _worse(row: Variant, base: Variant, comparison: Comparison) -> bool:
    if row.accuracy is None or base.accuracy is None or not row.more_than_noise:
        return False
    return (row.accuracy < base.accuracy) == comparison.higher_is_better


def _row(row: Variant, comparison: Comparison) -> dict[str, Any]:
    base = comparison[comparison.reference]
    told = asdict(row)
    told["name"] = printable(row.name)
    told["is_reference"] = row.name == base.name
    told["ratio"] = base.bytes / row.bytes if row.bytes else None
    told["difference"] = None
    if row.accuracy is not None and base.accuracy is not None and row is not base:
        told["difference"] = row.accuracy - base.accuracy
    told["judgement"] = ""
    if row.more_than_noise is not None:
        told["judgement"] = (
            "noise" if not row.more_than_noise else "worse" if _worse(row, base, comparison) else "better"
        )
    told["is_share"] = _is_share(comparison)
    told["delegated"] = row.delegated_ops / row.ops if row.ops and row.delegated_ops is not None else None
    return told


def _is_share(comparison: Comparison) -> bool:
    """Whether the metric is a share, shown in percent."""
    return comparison.metric.startswith("top")


def pareto(comparison: Comparison) -> list[str]:
    """Names of the variants that no other beats in both size and accuracy, smallest first."""
    sign = 1 if comparison.higher_is_better else -1
    known = sorted((row for row in comparison if row.accuracy is not None), key=lambda r: (r.bytes, -sign * _value(r)))
    front: list[Variant] = []
    for row in known:
        if not front or sign * _value(row) > sign * _value(front[-1]):
            front.append(row)
    return [row.name for row in front]


def _value(row: Variant) -> float:
    assert row.accuracy is not None
    return row.accuracy


# ---------------------------------------------------------------- the graph


def _within_budget(graphs: Mapping[str, Graph]) -> list[str]:
    """Names of the graphs that have room on the page, in order; the last ones, which are the smallest, come first."""
    drawn: list[str] = []
    ops = 0
    for name, graph in reversed(list(graphs.items())):
        ops += len(graph.ops)
        if not drawn or ops <= MOST_OPS:
            drawn.insert(0, name)
    return drawn


def graph_data(graph: Graph, inspection: Inspection | None) -> dict[str, Any]:
    """Nodes with their place, precision and facts; edges between them."""
    producers, index = graph.producers(), {op: i for i, op in enumerate(graph.ops)}
    errors = {layer.index: layer for layer in inspection.layers} if inspection else {}
    places = _places(graph, producers, index)
    edges = [(index[producers[t]], i) for i, op in enumerate(graph.ops) for t in _read(op) if t in producers]
    nodes = []
    for i, op in enumerate(graph.ops):
        kind = f"CUSTOM:{op.custom_code}" if op.code == "CUSTOM" else op.code
        output = op.outputs[0] if op.outputs else None
        facts = {
            "op": kind,
            "layer": shortened(layer_of(output, op)) if output is not None else "",
            "output": _tensor(output) if output is not None else "",
            "inputs": [_tensor(t) for t in op.inputs if t is not None],
        }
        layer = errors.get(i)
        if layer is not None:
            facts.update(own=layer.own, inherited=layer.inherited, cause=layer.cause)
        nodes.append({"x": places[i][0], "y": places[i][1], "kind": kind, "precision": precision(op), "facts": facts})
    return {"nodes": nodes, "edges": edges}


def precision(op: Op) -> str:
    """What an op computes in, as its file says."""
    if op.code in CONVERSIONS:
        return "conversion"
    outputs = [t for t in op.outputs if t.dtype.is_float or t.qparams is not None]
    inputs = [t for t in op.inputs if t is not None and (t.dtype.is_float or t.qparams is not None)]
    if not outputs and not inputs:
        return "indices"
    main = (outputs or inputs)[0]
    if not main.dtype.is_float:
        return main.dtype.value
    return "hybrid" if any(t.is_constant and not t.dtype.is_float for t in inputs) else "float32"


def _places(graph: Graph, producers: Mapping[Tensor, Op], index: Mapping[Op, int]) -> list[tuple[int, int]]:
    """(lane, level) of every op: below all that it reads, in the innermost of their lanes if that is free."""
    places: list[tuple[int, int]] = []
    taken: set[tuple[int, int]] = set()
    for op in graph.ops:
        above = [places[index[producers[t]]] for t in _read(op) if t in producers]
        level = 1 + max((y for _, y in above), default=-1)
        lane = min((x for x, _ in above), key=abs, default=0)
        lane = next(x for x in _from_middle(lane) if (x, level) not in taken)
        taken.add((lane, level))
        places.append((lane, level))
    return places


def _from_middle(lane: int) -> Iterable[int]:
    """lane, lane + 1, lane - 1, lane + 2, ..."""
    yield lane
    step = 1
    while True:
        yield lane + step
        yield lane - step
        step += 1


def _read(op: Op) -> list[Tensor]:
    return list(dict.fromkeys(t for t in op.inputs if t is not None))


def shortened(name: str) -> str:
    """A name without its middle if it is very long: those of fused ops run to hundreds of letters."""
    return name if len(name) <= NAME else f"{name[: NAME // 2]}...{name[-NAME // 2 :]}"


def _tensor(tensor: Tensor) -> str:
    """A tensor in one line: name, type, shape, grid."""
    shape = "x".join("?" if n < 0 else str(n) for n in tensor.shape_signature or tensor.shape) or "scalar"
    text = f"{shortened(tensor.name)} {tensor.dtype.value} {shape}"
    if tensor.qparams is not None:
        many = tensor.qparams.scale.size
        text += f", {many} scales" if many > 1 else f", scale {tensor.qparams.scale[0]:.4g}"
        text += f", zero point {int(tensor.qparams.zero_point[0])}" if many == 1 else ""
    return printable(text)


# ---------------------------------------------------------------- flipped samples


def _flips(comparison: Comparison) -> list[dict[str, Any]]:
    """For each variant: how many samples flipped, and the first of them with pictures where the inputs are images."""
    picture = _pictures(comparison)
    found = []
    for row in comparison:
        mine = [flip for flip in comparison.flips if flip.variant == row.name]
        if not mine:
            continue
        order = {"lost": 0, "gained": 1, "moved": 2}
        shown = sorted(mine, key=lambda flip: (order[flip.change], flip.sample))[:PICTURES]
        counts = {change: sum(flip.change == change for flip in mine) for change in order}
        samples = [{**asdict(flip), "picture": picture(flip)} for flip in shown]
        found.append({"variant": printable(row.name), "counts": counts, "total": len(mine), "samples": samples})
    return found


def _pictures(comparison: Comparison) -> Callable[[Flip], str | None]:
    """A function from a flip to the data URI of a small picture, or to None where inputs are no images."""
    x = comparison.subject.x if comparison.subject else None
    if isinstance(x, Mapping):
        x = next(iter(x.values())) if len(x) == 1 else None
    shape: tuple[int, ...] = tuple(getattr(x, "shape", ()))
    is_image = len(shape) in (3, 4) and min(shape[1:3]) >= 8 and shape[3:] in ((), (1,), (3,))
    made: dict[int, str] = {}

    def picture(flip: Flip) -> str | None:
        if not is_image or x is None:
            return None
        if flip.sample not in made:
            made[flip.sample] = thumbnail(np.asarray(x[flip.sample]))
        return made[flip.sample]

    return picture


def thumbnail(image: np.ndarray) -> str:
    """A data URI of an image, at most 96 pixels wide and high: PNG for one channel, JPEG for colours.

    Args:
      image: (H, W), (H, W, 1) or (H, W, 3) of any range; it is stretched from black to white.

    Raises:
      MissingDependencyError: Pillow isn't installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependencyError("pictures need Pillow: pip install 'octavo[report]'") from None
    values = np.nan_to_num(image.astype(np.float64))
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    span = values.max() - values.min()
    stretched = np.zeros_like(values) if span == 0 else (values - values.min()) / span * 255
    drawn = Image.fromarray(stretched.astype(np.uint8))
    drawn.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "png" if values.ndim == 2 else "jpeg"
    file = io.BytesIO()
    drawn.save(file, kind, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(file.getvalue()).decode()
