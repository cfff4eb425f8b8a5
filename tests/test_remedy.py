"""Where eight bits are too few, channels are leveled and single ops stay in float; elsewhere nothing is done."""

from __future__ import annotations

import re

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.calibrate.probes import Probes
from octavo.calibrate.run import Needs, collect
from octavo.graph import Program
from octavo.making import prepare
from octavo.model import Model
from octavo.passes.level_channels import KEY
from octavo.plan import plan
from octavo.remedy import ENOUGH, Judge, sensitive

RNG = np.random.default_rng(0)


def samples(count: int = 16) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 1, 16)).astype(np.float32)


def plain() -> Program:
    b = Builder()
    return b.program(b.dense(b.unary("RELU", b.dense(b.input("x", (1, 16)), "first", 32), "relu"), "head", 4))


def uneven(width: float) -> Program:
    """A layer whose units differ in size `width` times, and a layer to which each means the same."""
    b = Builder()
    size = np.geomspace(1, width, 32).astype(np.float32)
    y = b.dense(b.input("x", (1, 16)), "first", 32)
    first = b.graph.ops[-1]
    z = b.dense(b.unary("RELU", y, "relu"), "head", 4)
    for tensor, factor in (
        (first.inputs[1], size[:, None]),
        (first.inputs[2], size),
        (b.graph.ops[-1].inputs[1], 1 / size),
    ):
        assert tensor is not None
        tensor.set_values(tensor.values * factor)
    return b.program(z)


def cancelling() -> Program:
    """(x + 3000 w) - 3000 w: no scale can hold the sum, and no channel is smaller than another; then a dense layer."""
    b = Builder()
    x = b.input("x", (1, 16))
    big = b.const("big", np.linspace(2900, 3000, 16, dtype=np.float32))
    y = b.unary("ABS", x, "size")
    y = b.op("MUL", [y, b.const("one", np.array(1.5, np.float32))], "scaled", (1, 16), "MulOptions")
    y = b.op("ADD", [b.unary("TANH", y, "bent"), big], "sum", (1, 16), "AddOptions")
    y = b.op("SUB", [b.unary("ABS", y, "same"), big], "back", (1, 16), "SubOptions")
    return b.program(b.dense(b.dense(y, "hidden", 16), "head", 4))


def quality(model: Model, small: Model, data: np.ndarray) -> float:
    wanted, got = (np.stack([np.asarray(octavo.Runner(m)(x)) for x in data]) for m in (model, small))
    return numerics.sqnr_db(wanted, got)


def test_nothing_is_done_without_need() -> None:
    small = octavo.quantize(Model(plain()), octavo.integer(), samples())
    assert KEY not in dict(small.program.metadata)
    assert small.summary().counts == {"int8": 2} and not small.summary().in_float
    assert not any("dB" in note for note in small.notes)


def test_channels_are_leveled_where_that_helps() -> None:
    model, data = Model(uneven(1000)), samples()
    small = octavo.quantize(model, octavo.integer(fallback=False), data)
    assert KEY in dict(small.program.metadata) and small.integer_only
    assert any("powers of two" in note for note in small.notes)
    before, after = (float(figure) for figure in re.findall(r"([\d.]+) dB", small.notes[-1]))
    assert before < ENOUGH and after > before + 6
    assert (
        quality(model, small, data)
        > quality(model, octavo.quantize(model, octavo.integer(effort="fast"), data), data) + 6
    )


def test_the_sensitive_ops_stay_in_float() -> None:
    model, data = Model(cancelling()), samples()
    fast = octavo.quantize(model, octavo.integer(effort="fast"), data)
    small = octavo.quantize(model, octavo.integer(), data)
    assert quality(model, fast, data) < ENOUGH - 6 and quality(model, small, data) > ENOUGH
    reasons = {d.op.split("'")[1] for d in small.summary().in_float if "measured" in d.reason}
    assert {"sum", "same", "hidden"} <= reasons
    assert small.summary().counts["int8"] > 0, "only what is sensitive"
    assert "weight_only" not in small.summary().counts, "256 weights would be rounded for a few bytes"


def test_four_bits_stay_four_bits() -> None:
    model, data = Model(cancelling()), samples()
    asked = octavo.integer(weights=4)
    small = octavo.quantize(model, asked, data)
    assert quality(model, small, data) < ENOUGH
    assert small.summary().counts.keys() == {"int8"} and not any("dB" in note for note in small.notes)


def test_a_rule_is_kept() -> None:
    rule = octavo.Rule(octavo.integer(), name="sum")
    small = octavo.quantize(Model(cancelling()), octavo.Recipe(octavo.integer(), (rule,)), samples())
    assert "sum" not in {d.op.split("'")[1] for d in small.summary().in_float}


def test_floats_that_gain_next_to_nothing_are_not_worth_it() -> None:
    """The sum is rounded whatever its readers are."""
    rule = octavo.Rule(octavo.integer(), name="sum")
    small = octavo.quantize(Model(cancelling()), octavo.Recipe(octavo.integer(), (rule,)), samples())
    assert not small.summary().in_float


def test_the_neighbours_of_what_has_to_be_integer_gain_nothing_in_float() -> None:
    class Fixed(Judge):
        def noise(self, program: Program, count: int = 0) -> np.ndarray:
            rounded = next(op.inputs[0] for op in program.main.ops if op.code == "QUANTIZE")
            return np.array([0.001 if rounded is None or rounded.name == "head" else 0.9])

    program = prepare(Model(plain())).program
    decided = plan(program, octavo.Recipe(octavo.integer()), dict.fromkeys(program.tensors(), (-1.0, 1.0)))
    first, head = program.main.ops
    judge = Fixed([], [[np.zeros(1)]])
    assert sensitive(program, decided, {first, head}, judge, lambda ops: np.zeros(1)) == {first, head}
    assert sensitive(program, decided, {head}, judge, lambda ops: np.zeros(1)) == set()


@pytest.mark.parametrize("target", ["tflm", "xnnpack"])
def test_channels_are_leveled_for_a_target(target: str) -> None:
    model, data = Model(uneven(1000)), samples()
    small = octavo.quantize(model, target=target, calibration=data)
    assert KEY in dict(small.program.metadata) and octavo.check(small, target).ok
    assert any("with channels scaled" in note for note in small.notes)
    fast = octavo.quantize(model, octavo.integer(effort="fast"), data, target=target)
    assert quality(model, small, data) > quality(model, fast, data) + 6


def test_the_sensitive_ops_stay_in_float_on_a_target_that_takes_floats() -> None:
    model, data = Model(cancelling()), samples()
    small = octavo.quantize(model, target="xnnpack", calibration=data)
    assert octavo.check(small, "xnnpack").ok and quality(model, small, data) > ENOUGH
    assert {d.op for d in small.summary().in_float if "measured" in d.reason} == {"FULLY_CONNECTED 'hidden'"}
    assert small.summary().counts["int8"] > 0, "only what is sensitive"
    device = octavo.quantize(model, target="ethosu55", calibration=data)
    assert octavo.check(device, "ethosu55").ok and quality(model, device, data) < ENOUGH
    assert any("8 bits leave the worst output" in note for note in device.notes)


def test_data_that_is_read_once_is_measured_as_well() -> None:
    """What calibration kept is enough, but channels aren't leveled, which takes another pass."""
    model, data = Model(cancelling()), samples()
    small = octavo.quantize(model, octavo.integer(), iter(data))
    assert any("only once" in note for note in small.notes)
    assert any("measured:" in d.reason for d in small.summary().in_float)
    assert quality(model, small, data) > ENOUGH
    assert not any("only once" in note for note in octavo.quantize(model, octavo.integer(), data).notes)


def test_ranges_that_the_model_brought_along_are_measured_and_left_alone() -> None:
    data = samples()
    known = octavo.dequantize(octavo.quantize(Model(cancelling()), octavo.integer(effort="fast"), data))
    for given in (data, iter(data)):
        small = octavo.quantize(known, octavo.integer(), given)
        assert any("8 bits leave the worst output" in note for note in small.notes)
        assert not any("only once" in note for note in small.notes)
        assert not small.summary().in_float
    assert not any("8 bits" in note for note in octavo.quantize(known, octavo.integer()).notes), "nothing to measure on"


def test_the_steps_of_a_sequence_that_is_read_once_cant_be_measured() -> None:
    small = octavo.quantize(Model(cancelling()), octavo.integer(), octavo.Sequences(iter([samples(4)])))
    assert any("wasn't measured" in note for note in small.notes)


def test_probes_dont_depend_on_the_order() -> None:
    program, data = prepare(Model(plain())).program, samples(40)
    orders = (data, data[::-1])
    judges = [Judge.of(program, order) for order in orders]
    kept = [collect(program, order, needs=Needs(probes=16)).probes for order in orders]
    judges += [Judge.of(program, data, probes) for probes in kept]
    assert [len(judge.rows) for judge in judges] == [16] * 4
    for judge in judges[1:]:
        for mine, its in zip(judges[0].rows, judge.rows, strict=True):
            np.testing.assert_array_equal(mine[0], its[0])
        for mine, its in zip(judges[0].wanted, judge.wanted, strict=True):
            np.testing.assert_allclose(mine[0], its[0], rtol=1e-5, atol=1e-6)


def test_probes_of_several_workers_are_those_of_one() -> None:
    outputs = [np.zeros(1, np.float32)]
    shown = [(number * 7919 % 101, np.full(3, number)) for number in range(60)]
    whole, parts = Probes(5), [Probes(5) for _ in range(3)]
    for index, (checksum, row) in enumerate(shown):
        whole.update(checksum, [row], outputs)
        parts[index % 3].update(checksum, [row], outputs)
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert sorted(merged.kept) == sorted(whole.kept) == sorted(checksum for checksum, _ in shown)[:5]
    for checksum, (rows, _) in whole.kept.items():
        np.testing.assert_array_equal(merged.kept[checksum][0][0], rows[0])


def test_probes_are_not_kept_where_state_is_carried_along() -> None:
    program, data = prepare(Model(plain())).program, samples(6)
    assert collect(program, octavo.Sequences([data]), needs=Needs(probes=16)).probes is None
    assert collect(program, data).probes is None


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_noise_is_of_real_values(io: str) -> None:
    model, data = Model(plain()), samples()
    judge = Judge.of(prepare(model).program, data)
    small = octavo.quantize(model, octavo.integer(io=io), data)
    noise = judge.noise(small.program)
    assert 0 < noise[0] < 0.01
    assert judge.noise(prepare(model).program)[0] == 0
