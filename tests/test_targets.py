"""Targets: their facts, models held against them, and quantizing for one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.cli import main
from octavo.errors import RecipeError, TargetError
from octavo.graph import DType, Op, Program, Tensor
from octavo.model import Model
from octavo.qtypes import QParams
from octavo.recipe import Rule, keep_float
from octavo.targets import TARGETS
from octavo.targets.limits import strides
from octavo.targets.rules import Target, facts, form_of
from octavo.tflite import schema
from octavo.versions import first_runtime

INTEGER = [name for name, target in TARGETS.items() if target.scheme.kind == "integer"]
STRICT = [name for name in INTEGER if not TARGETS[name].scheme.fallback]
X = np.random.default_rng(0).normal(size=(20, 8, 8, 2)).astype(np.float32)


def network(*tail: str, dense: bool = True) -> Model:
    """Two convolutions, unary ops, a dense layer and a softmax."""
    build = Builder()
    y = build.conv(build.conv(build.input("image", (1, 8, 8, 2)), "first", 4, act=1), "second", 4)
    for number, code in enumerate(tail):
        y = build.unary(code, y, f"{code.lower()}_{number}")
    if dense:
        y = build.dense(build.reshape(y, "flat", (1, 256)), "logits", 10)
        y = build.op("SOFTMAX", [y], "classes", (1, 10), "SoftmaxOptions", beta=1.0)
    return Model(build.program(y))


def never() -> Iterator[np.ndarray]:
    """Calibration data that must not be asked for."""
    raise AssertionError("calibrated before it was refused")
    yield


class TestFacts:
    @pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
    def test_are_well_formed(self, target) -> None:
        known, types = schema.values("BuiltinOperator"), {kind.value for kind in DType}
        assert not [code for code in target.ops if code not in known]
        for code, known_facts in target.ops.items():
            assert known_facts.forms, code
            for form in known_facts.forms:
                assert set(re.split(r"[>*]", form)) <= types, (code, form)
        assert target.sources
        assert all(source.title and source.url.startswith("https://") for source in target.sources)

    def test_unknown_target(self) -> None:
        with pytest.raises(RecipeError, match="'tpu' is unknown: choose one of tflm, edgetpu, ethosu55"):
            octavo.check(network(), "tpu")

    def test_help_names_every_target(self, capsys) -> None:
        assert main(["check", "--help"]) == 0
        said = capsys.readouterr().out
        assert not [name for name in TARGETS if name not in said]


class TestForms:
    """The types of an op as facts name them."""

    @pytest.mark.parametrize(
        ("scheme", "form"),
        [
            (None, "float32"),
            (octavo.integer(fallback=False), "int8"),
            (octavo.integer(fallback=False, activations=16), "int16"),
            (octavo.integer(fallback=False, weights=4), "int8*int4"),
            (octavo.dynamic_range(min_elements=0), "float32*int8"),
        ],
    )
    def test_of_a_convolution(self, scheme, form: str) -> None:
        model = network() if scheme is None else octavo.quantize(network(), scheme, X)
        op = next(op for op in model.program.main.ops if op.code == "CONV_2D")
        assert form_of(op)[0] == form

    def test_of_conversions_and_control(self) -> None:
        given, made = Tensor("x", DType.FLOAT32, (1,)), Tensor("y", DType.INT8, (1,))
        assert form_of(Op("QUANTIZE", [given], [made])) == ("float32>int8", given)
        assert form_of(Op("IF", [given], [made])) == ("", None)

    def test_mixed_types_are_taken_by_nobody(self) -> None:
        given, made = Tensor("x", DType.FLOAT32, (1,)), Tensor("y", DType.INT8, (1,))
        assert form_of(Op("RELU", [given], [made]))[0] == "float32+int8"


class TestQuantizeForTarget:
    @pytest.mark.parametrize("name", TARGETS)
    def test_runs_in_full(self, name: str) -> None:
        model = network()
        assert octavo.check(model, name).ok == ("float32" in TARGETS[name].ops["CONV_2D"].forms)
        small = octavo.quantize(model, target=name, calibration=X)
        found = octavo.check(small, name)
        assert found.ok and found.findings == () and found.after is None
        sides = TARGETS[name].scheme.io
        assert small.program.main.inputs[0].dtype.value == sides.input
        assert small.program.main.outputs[0].dtype.value == sides.output
        assert small.integer_only == (name in STRICT)
        octavo.Runner(small)(X[:2])

    @pytest.mark.parametrize("name", INTEGER)
    def test_granularity(self, name: str) -> None:
        """One scale per channel wherever the target takes it, and only there."""
        small = octavo.quantize(network(), target=name, calibration=X)
        for code in ("CONV_2D", "FULLY_CONNECTED"):
            weights = next(op for op in small.program.main.ops if op.code == code).inputs[1]
            assert weights is not None and weights.qparams is not None
            assert (weights.qparams.scale.size > 1) == TARGETS[name].ops[code].per_channel

    def test_float_where_the_target_takes_nothing_else(self) -> None:
        small = octavo.quantize(network("HARD_SWISH"), target="xnnpack", calibration=X)
        assert small.summary().counts == {"int8": 4, "float32": 2}  # HARD_SWISH and SOFTMAX
        mixed = octavo.quantize(network("EXP"), target="tflm", calibration=X)
        assert {d.kind for d in mixed.decisions if d.precision == "float32"} == {"EXP"}
        assert octavo.check(mixed, "tflm").ok

    @pytest.mark.parametrize(
        ("tail", "name", "reason"),
        [
            ("ABS", "edgetpu", "Edge TPU doesn't have ABS"),
            ("SIGN", "tflm", "no integer kernel"),
            ("SIN", "ethosu85", "no integer kernel"),
            ("ELU", "hexagon", "Hexagon delegate doesn't have ELU"),
        ],
    )
    def test_refuses_before_calibrating(self, tail: str, name: str, reason: str) -> None:
        with pytest.raises(TargetError, match=reason) as caught:
            octavo.quantize(network(tail), target=name, calibration=never)
        assert [finding.kind for finding in caught.value.findings] == [tail]
        assert f"{tail.lower()}_0" in str(caught.value)

    @pytest.mark.parametrize(
        ("scheme", "name", "reason"),
        [
            (octavo.integer(fallback=False, io="float32"), "edgetpu", "float32 to uint8|float32 to int8"),
            (octavo.integer(fallback=False, activations=16), "edgetpu", "int16, but Edge TPU takes int8, uint8"),
            (octavo.integer(fallback=False, weights=4), "ethosu55", "int8 with int4 weights"),
            (octavo.float16(), "tflm", "float16 to float32"),
            (octavo.dynamic_range(min_elements=0), "tflm", "float32 with int8 weights"),
            (octavo.integer(fallback=False, activations=16), "xnnpack", "int16"),
        ],
    )
    def test_a_recipe_that_contradicts_the_target(self, scheme, name: str, reason: str) -> None:
        with pytest.raises(TargetError, match=reason):
            octavo.quantize(network(), scheme, never, target=name)

    def test_a_recipe_that_fits_is_kept(self) -> None:
        scheme = octavo.integer(fallback=False, io="int8", effort="fast")
        small = octavo.quantize(network(), scheme, X, target="edgetpu")
        assert small.program.main.inputs[0].dtype is DType.INT8
        assert octavo.check(small, "edgetpu").ok

    def test_rules_are_kept_and_checked(self) -> None:
        recipe = octavo.Recipe(octavo.integer(), (Rule(keep_float(), kind="SOFTMAX"),))
        small = octavo.quantize(network(), recipe, X, target="xnnpack")
        assert octavo.check(small, "xnnpack").ok
        with pytest.raises(TargetError, match="float32, but Edge TPU takes integers only"):
            octavo.quantize(network(), recipe, never, target="edgetpu")

    @pytest.mark.parametrize("last", [False, True])
    def test_scales_that_a_kernel_refuses(self, last: bool) -> None:
        """Known after calibration only: the op then stays in float, be it in the middle or at the end."""
        build = Builder()
        wide = build.conv(build.input("image", (1, 8, 8, 2)), "wide", 4)
        square = build.op("MUL", [wide, wide], "square", (1, 8, 8, 4), "MulOptions")
        y = build.op("ADD", [square, build.const("epsilon", np.float32([1e-6]))], "sum", (1, 8, 8, 4), "AddOptions")
        y = y if last else build.op("MUL", [y, wide], "product", (1, 8, 8, 4), "MulOptions")
        model = Model(build.program(y))
        plain = octavo.quantize(model, octavo.integer(), X)
        (finding,) = octavo.check(plain, "xnnpack").findings
        assert finding.kind == "ADD" and finding.tensor.startswith("epsilon") and "times the output's" in finding.why
        small = octavo.quantize(model, target="xnnpack", calibration=X)
        assert {d.kind for d in small.decisions if d.precision == "float32"} == {"ADD"}
        assert octavo.check(small, "xnnpack").ok

    @pytest.mark.parametrize("code", ["HARD_SWISH", "GELU", "RELU_0_TO_1"])
    def test_sixteen_bits_are_spelled_out(self, code: str) -> None:
        asked = octavo.integer(activations=16, fallback=False, io="int16")
        small = octavo.quantize(network(code), asked, X, target="tflm")
        assert small.integer_only and octavo.check(small, "tflm").ok
        assert code not in [op.code for op in small.program.ops()]

    @pytest.mark.parametrize(("target", "code"), [("edgetpu", "HARD_SWISH"), ("edgetpu", "GELU"), ("tflm", "GELU")])
    def test_what_a_target_lacks_is_spelled_in_what_it_has(self, target: str, code: str) -> None:
        assert code not in TARGETS[target].ops
        model = network(code)
        assert octavo.check(model, target).after == ()
        small = octavo.quantize(model, target=target, calibration=X)
        assert octavo.check(small, target).ok and small.integer_only
        wanted, got = octavo.Runner(model)(X), octavo.Runner(small)(X)
        assert isinstance(wanted, np.ndarray) and isinstance(got, np.ndarray)
        assert numerics.sqnr_db(wanted, got) > 25

    def test_what_cant_be_spelled_in_what_a_target_has_is_refused_by_its_own_name(self) -> None:
        mine = Target("mine", "my NPU", facts("ADD CONV_2D FULLY_CONNECTED RESHAPE SOFTMAX", "int8"), (),
                      octavo.integer(fallback=False), "nowhere")  # fmt: skip
        with pytest.raises(TargetError, match=r"HARD_SWISH 'hard_swish_0': the op itself, but my NPU doesn't have"):
            octavo.quantize(network("HARD_SWISH"), target=mine, calibration=never)

    def test_neither_recipe_nor_target(self) -> None:
        with pytest.raises(RecipeError, match=r"pass a recipe such as .*, or a target"):
            octavo.quantize(network(), calibration=X)


def single(code: str, *inputs: Any, made: tuple[int, ...], kind: str | None = None, **options: Any) -> Model:
    """One quantized op; an input is a shape, or an array for a constant."""
    build, q = Builder(), QParams.per_tensor(0.1)
    operands = []
    for number, given in enumerate(inputs):
        if isinstance(given, tuple):
            operands.append(build.input(f"in{number}", given, DType.INT8))
        else:
            operands.append(build.const(f"in{number}", np.asarray(given)))
        if operands[-1].dtype is DType.INT8:
            operands[-1].qparams = q
    result = build.op(code, operands, "result", made, kind, DType.INT8, **options)
    result.qparams = q
    return Model(build.program(result))


I8 = np.int8
IMAGE = (1, 8, 8, 4)


# (target, words of the rule, op, inputs, output, options table, options that keep the rule, what breaks it)
CONDITIONS = [
    ("edgetpu", "no fused activation", "AVERAGE_POOL_2D", (IMAGE,), (1, 4, 4, 4), "Pool2DOptions",
     {"strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}, {"fusedActivationFunction": 1}),
    ("edgetpu", "a mean over channels", "MEAN", (IMAGE, np.int32([3])), (1, 8, 8, 1), "ReducerOptions",
     {"keepDims": True}, {"inputs": ((1, 8, 8, 6), np.int32([3]))}),
    ("edgetpu", "no reduction over the batch", "SUM", (IMAGE, np.int32([1])), (1, 1, 8, 4), "ReducerOptions",
     {"keepDims": True}, {"inputs": (IMAGE, np.int32([0, 1]))}),
    ("edgetpu", "innermost 3 dimensions", "RELU", (IMAGE,), IMAGE, None, {}, {"inputs": ((2, 8, 8, 4),)}),
    ("edgetpu", "softmax over one row", "SOFTMAX", ((1, 10),), (1, 10), "SoftmaxOptions", {"beta": 1.0},
     {"inputs": ((4, 10),), "made": (4, 10)}),
    ("edgetpu", "at most 16,000", "SOFTMAX", ((1, 16000),), (1, 16000), "SoftmaxOptions", {"beta": 1.0},
     {"inputs": ((1, 16001),), "made": (1, 16001)}),
    ("edgetpu", "same dilation", "CONV_2D", (IMAGE, np.ones((4, 3, 3, 4), I8), np.zeros(4, np.int32)), IMAGE,
     "Conv2DOptions", {"dilationHFactor": 2, "dilationWFactor": 2, "padding": 0}, {"dilationWFactor": 1}),
    ("edgetpu", "strides of 1", "STRIDED_SLICE", (IMAGE, *np.int32([[0] * 4, IMAGE, [1] * 4])), IMAGE,
     "StridedSliceOptions", {}, {"inputs": (IMAGE, *np.int32([[0] * 4, IMAGE, [1, 2, 1, 1]]))}),
    ("edgetpu", "no new-axis mask", "STRIDED_SLICE", (IMAGE, *np.int32([[0] * 4, IMAGE, [1] * 4])), IMAGE,
     "StridedSliceOptions", {}, {"newAxisMask": 1}),
    ("edgetpu", "no padding of the batch", "PAD", (IMAGE, np.int32([[0, 0], [1, 1], [1, 1], [0, 0]])),
     (1, 10, 10, 4), "PadOptions", {}, {"inputs": (IMAGE, np.int32([[1, 0], [0, 0], [0, 0], [0, 0]]))}),
    ("edgetpu", "no splitting along the batch", "SPLIT", (np.int32(3), IMAGE), (1, 8, 8, 2), "SplitOptions", {},
     {"inputs": (np.int32(0), IMAGE)}),
    ("edgetpu", "no packing along the batch", "PACK", ((8, 4), (8, 4)), (8, 2, 4), "PackOptions",
     {"axis": 1}, {"axis": 0}),
    ("edgetpu", "slopes for channels", "PRELU", (IMAGE, np.ones((1, 1, 4), I8)), IMAGE, None, {},
     {"inputs": (IMAGE, np.ones((8, 8, 4), I8))}),
    ("edgetpu", "only leading dimensions", "SQUEEZE", ((1, 1, 10),), (10,), "SqueezeOptions", {},
     {"inputs": ((5, 1, 10),), "made": (5, 10)}),
    ("edgetpu", "only as zeros", "CONCATENATION", (IMAGE, np.zeros(IMAGE, I8)), (1, 8, 8, 8),
     "ConcatenationOptions", {}, {"inputs": (IMAGE, np.ones(IMAGE, I8))}),
    ("hexagon", "strides of at most 3", "CONV_2D", (IMAGE, np.ones((4, 3, 3, 4), I8), np.zeros(4, np.int32)), IMAGE,
     "Conv2DOptions", {"strideH": 3, "strideW": 3}, {"strideW": 4}),
    ("hexagon", "no dilation", "CONV_2D", (IMAGE, np.ones((4, 3, 3, 4), I8), np.zeros(4, np.int32)), IMAGE,
     "Conv2DOptions", {}, {"dilationHFactor": 2}),
    ("hexagon", "output of at most 65x65", "RESIZE_BILINEAR", (IMAGE, np.int32([65, 65])), (1, 65, 65, 4),
     "ResizeBilinearOptions", {}, {"made": (1, 66, 65, 4)}),
    ("hexagon", "at most 4 dimensions", "RELU6", (IMAGE,), IMAGE, None, {}, {"inputs": ((1, 1, 8, 8, 4),)}),
    ("hexagon", "a depth multiplier", "DEPTHWISE_CONV_2D",
     (IMAGE, np.ones((1, 3, 3, 4), I8), np.zeros(4, np.int32)), IMAGE, "DepthwiseConv2DOptions",
     {"depthMultiplier": 1}, {"depthMultiplier": 2}),
    ("ethosu55", "at most 127 channels", "ARG_MAX", ((1, 8, 8, 127), np.int32(3)), (1, 8, 8), "ArgMaxOptions", {},
     {"inputs": ((1, 8, 8, 128), np.int32(3))}),
    ("ethosu55", "along the last axis", "ARG_MAX", (IMAGE, np.int32(3)), (1, 8, 8), "ArgMaxOptions", {},
     {"inputs": (IMAGE, np.int32(1))}),
    ("ethosu85", "GATHER with its axis", "GATHER", ((8, 4), np.int32([1, 0])), (2, 4), "GatherOptions",
     {"axis": 0}, {"axis": 1}),
    ("ethosu85", "a power of two times", "RESIZE_BILINEAR", (IMAGE, np.int32([16, 16])), (1, 16, 16, 4),
     "ResizeBilinearOptions", {}, {"made": (1, 24, 24, 4)}),
    ("gpu", "a block size above 1", "DEPTH_TO_SPACE", (IMAGE,), (1, 16, 16, 1), "DepthToSpaceOptions",
     {"blockSize": 2}, {"blockSize": 1}),
    ("gpu", "beta 1", "SOFTMAX", ((1, 10),), (1, 10), "SoftmaxOptions", {"beta": 1.0}, {"beta": 2.0}),
    ("gpu", "as large as the other", "MUL", (IMAGE, (1, 1, 1, 4)), IMAGE, "MulOptions", {},
     {"inputs": ((1, 8, 1, 4), (1, 1, 8, 4))}),
    ("gpu", "3 to 4 dimensions", "SLICE", (IMAGE, np.int32([0] * 4), np.int32(IMAGE)), IMAGE, "SliceOptions", {},
     {"inputs": ((8, 4), np.int32([0] * 2), np.int32([8, 4])), "made": (8, 4)}),
    ("xnnpack", "operand 1 constant", "PAD", (IMAGE, np.int32([[0, 0]] * 4)), IMAGE, "PadOptions", {},
     {"inputs": (IMAGE, (4, 2))}),
    ("xnnpack", "at most 5 parts", "CONCATENATION", ((1, 4),) * 5, (1, 20), "ConcatenationOptions", {"axis": 1},
     {"inputs": ((1, 4),) * 6, "made": (1, 24)}),
]  # fmt: skip


class TestLimits:
    @pytest.mark.parametrize("case", CONDITIONS, ids=lambda case: f"{case[0]}-{case[2]}-{case[1].replace(' ', '_')}")
    def test_kept_and_broken(self, case) -> None:
        name, rule, code, inputs, made, kind, options, change = case
        good = octavo.check(single(code, *inputs, made=made, kind=kind, **options), name)
        assert good.ok, good
        others = {key: value for key, value in change.items() if key not in ("inputs", "made")}
        inputs, made = change.get("inputs", inputs), change.get("made", made)
        bad = octavo.check(single(code, *inputs, made=made, kind=kind, **{**options, **others}), name)
        assert any(rule in finding.why for finding in bad.findings), bad
        assert bad.refused == 1 and all(finding.change and finding.what for finding in bad.findings)


@pytest.mark.parametrize("name", ["tflm", "ethosu55", "ethosu85"])
@pytest.mark.parametrize(
    ("place", "given", "what"),
    [
        (9, True, "peepholes"),
        (16, True, "a projection"),
        (20, True, "layer normalization"),
        (1, False, "no input gate"),
    ],
)
def test_only_plain_lstms(name: str, place: int, given: bool, what: str) -> None:
    build = Builder()
    inputs: list[Tensor | None] = [build.input("x", (1, 4, 8), DType.INT8)]
    inputs += [build.const(f"weights{number}", np.ones((4, 8), I8)) for number in range(8)]
    inputs += [
        None,
        None,
        None,
        *(build.const(f"bias{number}", np.zeros(4, np.int32)) for number in range(4)),
        None,
        None,
    ]
    inputs += [build.graph.add_tensor(Tensor(state, DType.INT8, (1, 4), is_variable=True)) for state in ("h", "c")]
    inputs += [None] * 4
    build.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, "y", (1, 4, 4), "UnidirectionalSequenceLSTMOptions", DType.INT8)
    program = build.program(*build.graph.ops[0].outputs)
    for tensor in program.tensors():
        tensor.qparams = QParams.per_tensor(0.1)
    assert octavo.check(Model(program), name).ok
    program.main.ops[0].inputs[place] = build.const("more", np.ones(4, np.int16)) if given else None
    (finding,) = octavo.check(Model(program), name).findings
    assert finding.what == what and "an LSTM of four gates" in finding.why


class TestCheck:
    def test_one_line_per_reason(self) -> None:
        found = octavo.check(network("ELU", "ELU"), "edgetpu")
        assert not found.ok and (found.ops, found.refused) == (7, 7)
        lines = str(found).splitlines()
        assert len([line for line in lines if "integers only" in line]) == 1
        assert "CONV_2D x2" in str(found) and len([line for line in lines if "ELU x2" in line]) == 2
        assert len(found.text(every=True).splitlines()) > len(lines)
        assert found.after is not None and {finding.kind for finding in found.after} == {"ELU"}
        assert "can't cure this" in str(found)
        assert "0 of 7 ops come before the first that isn't taken" in found.notes

    def test_a_target_of_your_own(self) -> None:
        mine = Target("mine", "my NPU", facts("CONV_2D FULLY_CONNECTED RESHAPE SOFTMAX", "int8", strides(1)), (),
                      octavo.integer(fallback=False), "nowhere")  # fmt: skip
        assert octavo.check(network(), mine).after == ()
        assert octavo.check(octavo.quantize(network(), target=mine, calibration=X), mine).ok
        assert not octavo.check(network("RELU"), mine).ok

    def test_in_a_notebook(self) -> None:
        found = octavo.check(network("ABS"), "edgetpu")
        shown = found._repr_html_()
        assert shown.count("<table") == 2 and "ABS" in shown and "can&#x27;t cure this" in shown
        assert "<table" not in octavo.check(network(), "xnnpack")._repr_html_()

    def test_what_quantizing_cures(self) -> None:
        found = octavo.check(network(), "hexagon")
        assert found.after == () and "octavo quantize --target hexagon cures all of it" in str(found)
        assert {finding.change.split(":")[0] for finding in found.findings} == {"octavo quantize --target hexagon"}

    def test_quantized_in_another_way(self) -> None:
        half = octavo.quantize(network(), octavo.dynamic_range(min_elements=0))
        found = octavo.check(half, "edgetpu")
        assert not found.ok

    def test_a_float_border(self) -> None:
        small = octavo.quantize(network(), octavo.integer(fallback=False, io="float32", per_channel=False), X)
        found = octavo.check(small, "edgetpu")
        assert {finding.kind for finding in found.findings} == {"QUANTIZE", "DEQUANTIZE"}
        assert all("--target edgetpu" in finding.change for finding in found.findings)

    def test_a_scale_per_channel(self) -> None:
        small = octavo.quantize(network(), octavo.integer(fallback=False), X)
        (finding,) = octavo.check(small, "hexagon").findings
        assert (finding.kind, finding.what) == ("FULLY_CONNECTED", "a scale per channel")
        assert "per_channel=False" in finding.change

    @pytest.mark.parametrize(("name", "taken"), [("xnnpack", True), ("gpu", True), ("tflm", False)])
    def test_float16_weights_are_constants(self, name: str, taken: bool) -> None:
        half = octavo.quantize(network(), octavo.float16(min_elements=0))
        assert "DEQUANTIZE" in [op.code for op in half.program.main.ops]
        assert octavo.check(half, name).ok == taken

    @pytest.mark.parametrize(
        ("name", "newer", "limit"),
        [("hexagon", 4, "up to version 3"), ("edgetpu", 6, "up to what TensorFlow Lite 2.5 has")],
    )
    def test_versions(self, name: str, newer: int, limit: str) -> None:
        model = octavo.quantize(network(), octavo.integer(fallback=False, per_channel=False), X)
        assert octavo.check(model, name).ok
        next(op for op in model.program.main.ops if op.code == "CONV_2D").version = newer
        (finding,) = octavo.check(model, name).findings
        assert finding.what == f"version {newer}" and limit in finding.why

    @pytest.mark.parametrize(("name", "open_after"), [("edgetpu", False), ("xnnpack", True)])
    def test_an_open_batch_is_closed_where_the_target_needs_it(self, name: str, open_after: bool) -> None:
        model = network()
        for tensor in model.program.tensors():
            if not tensor.is_constant:
                tensor.shape_signature = (-1, *tensor.shape[1:])
        small = octavo.quantize(model, target=name, calibration=X)
        signatures = [tensor.shape_signature for tensor in small.program.tensors()]
        assert any(-1 in (signature or ()) for signature in signatures) == open_after
        assert any("shapes are fixed" in note for note in small.notes) != open_after
        assert any("dynamic sizes are kept" in note for note in small.notes) == open_after
        assert bool(octavo.check(small, name).notes) == (open_after and name != "xnnpack")

    def test_an_operand_too_many_is_no_reason_to_stop(self) -> None:
        build = Builder()
        x = build.input("x", (1, 4))
        beyond = [x, build.weights("other", 4), build.weights("beyond", 4)]
        damaged = Model(build.program(build.op("ADD", beyond, "sum", (1, 4), "AddOptions")))
        assert "ADD" in str(octavo.check(damaged, "edgetpu"))

    def test_sizes(self) -> None:
        model = octavo.quantize(network(), target="tflm", calibration=X)
        image = model.program.main.inputs[0]
        image.shape_signature = (-1, 8, 8, 2)
        open_batch = octavo.check(model, "tflm")
        assert open_batch.ok and "its batch is open" in open_batch.notes[0]
        image.shape_signature = (1, -1, -1, 2)
        (finding,) = octavo.check(model, "tflm").findings
        assert (finding.op, finding.tensor, finding.what) == ("", "image", "dynamic size 1x?x?x2")
        assert octavo.check(model, "tflm").refused == 0 and not octavo.check(model, "tflm").ok

    def test_cache(self) -> None:
        build = Builder()
        wide = build.dense(build.input("x", (1, 3000)), "wide", 3000)
        small = octavo.quantize(
            Model(build.program(wide)), target="edgetpu", calibration=np.ones((4, 3000), np.float32)
        )
        found = octavo.check(small, "edgetpu")
        assert found.ok and "more than the 8,388,608" in found.notes[0]

    @pytest.mark.parametrize(("name", "taken"), [("tflm", True), ("gpu", False)])
    def test_custom_ops(self, name: str, taken: bool) -> None:
        model = single("RELU", (1, 4), made=(1, 4))
        op = model.program.main.ops[0]
        op.code, op.custom_code = "CUSTOM", "ethos-u"
        assert octavo.check(model, name).ok == taken

    def test_subgraphs_are_looked_at(self) -> None:
        inner, outer = network("ELU", dense=False).program, single("RELU", (1, 4), made=(1, 4)).program
        both = Program([outer.main, inner.main])
        assert "ELU" in {finding.kind for finding in octavo.check(Model(both), "hexagon").findings}


class TestRuntime:
    def test_floor(self) -> None:
        model = octavo.quantize(network(), octavo.integer(fallback=False), X)
        newest = max(first for op in model.program.main.ops if (first := first_runtime(op.code, op.version)))
        name = ".".join(map(str, newest))
        assert octavo.check(model, runtime=name).ok
        assert octavo.check(model, "tflm", f"{name}.1").ok
        model.program.main.ops[0].version = 8  # int16 activations with an int32 bias: 2.15
        found = octavo.check(model, runtime="2.14")
        (finding,) = found.findings
        assert finding.what == "CONV_2D version 8" and finding.why == "runtime 2.14 is older than 2.15"
        assert octavo.check(model, runtime="2.15").ok
        assert not octavo.check(model, "ethosu55", "2.14").ok and octavo.check(model, "ethosu55", "2.15").ok

    def test_a_version_that_no_runtime_has(self) -> None:
        model = single("RELU", (1, 4), made=(1, 4))
        model.program.main.ops[0].version = 99
        (finding,) = octavo.check(model, runtime="2.99").findings
        assert finding.why == "no runtime is known to have it"

    @pytest.mark.parametrize("text", ["two", "2", "2.x", "", "2.14-rc1"])
    def test_no_version(self, text: str) -> None:
        with pytest.raises(RecipeError, match=r"is no version: write 2\.14"):
            octavo.check(network(), runtime=text)

    def test_nothing_to_check(self) -> None:
        with pytest.raises(RecipeError, match="a target, a runtime, or both"):
            octavo.check(network())


class TestCommandLine:
    @pytest.fixture
    def files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        network("ELU").save("curved.tflite")
        network().save("plain.tflite")
        np.savez("data.npz", x=X, y=np.zeros(20))

    def test_quantize_and_check(self, files, capsys) -> None:
        assert main(["check", "plain.tflite", "--target", "edgetpu"]) == 1
        arguments = ["quantize", "plain.tflite", "-o", "small.tflite", "--target", "edgetpu", "--data", "data.npz"]
        assert main([*arguments, "--effort", "fast", "--save-recipe", "recipe.json"]) == 0
        capsys.readouterr()
        assert main(["check", "small.tflite", "--target", "edgetpu"]) == 0
        assert "small.tflite runs on edgetpu: all" in capsys.readouterr().out
        assert octavo.load("small.tflite").program.main.inputs[0].dtype is DType.UINT8
        again = octavo.quantize("plain.tflite", octavo.load_recipe("recipe.json"), X)
        assert octavo.check(again, "edgetpu").ok

    def test_json(self, files, capsys) -> None:
        assert main(["check", "curved.tflite", "--target", "edgetpu", "--json"]) == 1
        found = json.loads(capsys.readouterr().out)
        assert not found["ok"] and found["target"] == "edgetpu" and found["refused"] == 6
        assert {finding["kind"] for finding in found["after"]} == {"ELU"}

    def test_all(self, files, capsys) -> None:
        assert main(["check", "curved.tflite", "--target", "edgetpu", "--all"]) == 1
        assert capsys.readouterr().out.count("CONV_2D '") == 2

    def test_refusal_is_one_line(self, files, capsys) -> None:
        arguments = ["quantize", "curved.tflite", "-o", "x.tflite", "--target", "edgetpu", "--data", "data.npz"]
        assert main(arguments) == 1
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if "curved.tflite can't be quantized for edgetpu" in line and "ELU" in line]

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            (["check", "plain.tflite"], 2, "--target, --runtime, or both"),
            (["check", "plain.tflite", "--target", "tpu"], 1, "choose one of tflm, edgetpu"),
            (["check", "missing.tflite", "--target", "tflm"], 1, "missing.tflite: no such file"),
            (["check", "plain.tflite", "--runtime", "new"], 1, "is no version"),
            (["quantize", "plain.tflite", "-o", "x", "--target", "tflm"], 2, "--target tflm needs representative"),
            (["quantize", "plain.tflite", "-o", "x", "--target", "gpu", "--io", "int8"], 2, "leave out --io"),
            (["quantize", "plain.tflite", "-o", "x", "--target", "tflm", "--max-drop", "1", "--data", "data.npz"], 2,
             "give one of them"),
            (["quantize", "plain.tflite", "-o", "x", "--target", "edgetpu", "--to", "integer", "--data", "data.npz"], 1,
             "can't be quantized for edgetpu"),
            (["quantize", "plain.tflite", "-o", "x", "--target", "edgetpu", "--io", "float32", "--data", "data.npz"], 1,
             "can't be quantized for edgetpu"),
        ],
    )  # fmt: skip
    def test_what_contradicts(self, files, capsys, arguments, status, message) -> None:
        assert main(arguments) == status
        assert message in capsys.readouterr().err
