"""Random models under every scheme: LiteRT computes each op as a plain NumPy model of the arithmetic says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import integer_model
import octavo
from graphs import Builder
from integer_model import differences
from octavo.graph import Op, Program
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.numerics import quantize
from octavo.passes.add_bias import add_bias
from octavo.passes.pipeline import PASSES
from octavo.qtypes import INT8, INT16, UINT8
from octavo.runtime.session import Session
from octavo.tflite import read, write
from random_graphs import programs, samples

SCHEMES = {
    "int8": octavo.integer(effort="fast"),
    "int8 balanced": octavo.integer(),
    "int8 per tensor": octavo.integer(per_channel=False, effort="fast"),
    "int8 only": octavo.integer(fallback=False, io="uint8", effort="fast"),
    "int8 int4": octavo.integer(weights=4, effort="fast"),
    "int16": octavo.integer(activations=16, effort="fast"),
    "dynamic": octavo.dynamic_range(min_elements=1),
    "dynamic int4": octavo.dynamic_range(min_elements=1, weights=4),
    "weight only": octavo.weight_only(min_elements=1),
    "weight only int4": octavo.weight_only(min_elements=1, weights=4),
    "float16": octavo.float16(min_elements=1),
}
# The models are small as drawn: shrinking one that fails would take minutes.
PHASES = (Phase.explicit, Phase.generate)
SLOW_TO_DRAW = (HealthCheck.too_slow, HealthCheck.data_too_large)
QUICK = settings(max_examples=3, derandomize=True, deadline=None, phases=PHASES, suppress_health_check=SLOW_TO_DRAW)
LONG = settings(QUICK, max_examples=300)
COUNTED: Counter[tuple[str, str]] = Counter()


def check_ops(name: str, program: Program, data: np.ndarray) -> None:
    scheme = SCHEMES[name]
    calibration = list(data) if scheme.kind == "integer" else None
    try:
        small = octavo.quantize(Model(program), scheme, calibration=calibration)
    except octavo.RecipeError:  # integer-only and no kernel for it: a right answer
        if scheme.fallback:
            raise
        COUNTED[name, "refused"] += 1
        return
    written = read(bytes(small))
    verify(written)
    codes = {np.dtype(np.int8): INT8, np.dtype(np.uint8): UINT8, np.dtype(np.int16): INT16}
    # LiteRT's reference resolver has no DEPTHWISE_CONV_2D for four bits.
    int4 = scheme.weights is not None and scheme.weights.bits == 4
    for kernels in ("builtin" if int4 else "reference", "xnnpack"):
        for sample in data[:2]:
            port = Session(bytes(small), kernels=kernels).inputs[0]
            fed = sample if port.qparams is None else quantize(sample, port.qparams, codes[port.dtype])
            found = differences(written, [fed], kernels)
            off = [f"{d.op.name} ({d.kind}) off by {d.steps:g} on {kernels}" for d in found if not d.steps <= d.allowed]
            assert not off, off
            COUNTED[name, "ops"] += len(found)
    COUNTED[name, "models"] += 1


def check_scheme(name: str, effort: settings) -> None:
    @effort
    @given(st.data())
    def check(data: st.DataObject) -> None:
        program = data.draw(programs())
        check_ops(name, program, data.draw(samples(program.main.inputs[0].shape)))

    check()
    assert COUNTED[name, "models"] > 0


@pytest.mark.parametrize("name", SCHEMES)
def test_every_op_is_computed_as_the_specification_says(name: str) -> None:
    check_scheme(name, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMES)
def test_every_op_of_many_models(name: str) -> None:
    check_scheme(name, LONG)
    print(name, {what: count for (scheme, what), count in COUNTED.items() if scheme == name})


@pytest.mark.parametrize("name", ["int8", "int16", "dynamic", "float16"])
def test_a_wrong_sum_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that the others are held against isn't so lenient that anything passes."""

    def without_last_input(op: Op, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        kept = x.copy()
        kept[..., -1] = 0
        return true_sums(op, kept, w)

    true_sums = integer_model.linear
    monkeypatch.setattr(integer_model, "linear", without_last_input)
    build = Builder(seed=3)
    x = build.input("x", (1, 8))
    program = build.program(build.dense(x, "scores", 4))
    data = np.random.default_rng(0).uniform(1, 2, (6, 1, 8)).astype(np.float32)
    with pytest.raises(AssertionError, match=r"FULLY_CONNECTED.* off by"):
        check_ops(name, program, data)


@settings(QUICK, max_examples=12)
@given(st.data())
def test_every_pass_keeps_the_invariants_and_the_results(data: st.DataObject) -> None:
    program = data.draw(programs())
    sample = data.draw(samples(program.main.inputs[0].shape, 1))
    runnable = program.clone()
    add_bias(runnable)  # LiteRT's own kernels don't load without one
    before = Session(write(runnable), kernels="reference").invoke(list(sample))
    for rewrite in PASSES:
        rewrite(program)
        verify(program)
    after = Session(write(program), kernels="reference").invoke(list(sample))
    for have, want in zip(after, before, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(sample).max())))
