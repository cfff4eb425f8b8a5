"""Four-bit weights with a scale for each block of features, and tables whose rows are looked up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo import numerics
from octavo.algorithms import gptq
from octavo.graph import DType, Program, Tensor
from octavo.graph.verify import verify
from octavo.model import Model
from octavo.qtypes import INT4_WEIGHT
from octavo.recipe import Recipe

RNG = np.random.default_rng(17)
WORDS = RNG.integers(0, 100, (48, 6)).astype(np.int32)


def language(width: int = 128, inner: int = 128) -> Program:
    """Words are looked up, then two dense layers; features come in groups of different size, as in transformers."""
    b = Builder(7)
    words = b.input("words", (6,), DType.INT32)
    sizes = (2.0 ** b.rng.uniform(-2, 2, width // 32)).repeat(32)
    table = b.const("table", (b.rng.normal(size=(100, width)) * sizes).astype(np.float32))
    x = b.op("EMBEDDING_LOOKUP", [words, table], "rows", (6, width))
    x = b.dense(x, "up", inner)
    b.graph.ops[-1].options = {"fusedActivationFunction": 1}
    kernel = next(t for t in b.graph.tensors if t.name == "up/kernel")
    kernel.set_values((kernel.values / sizes).astype(np.float32))
    return b.program(b.dense(x, "logits", 40))


def decibels(reference: Model, small: Model, kernels: str = "xnnpack") -> float:
    want, got = (
        np.concatenate([octavo.Runner(model, kernels=kernels)({"words": row}) for row in WORDS[24:]])
        for model in (reference, small)
    )
    return numerics.sqnr_db(want, got)


def weights(model: Model, code: str) -> list[Tensor]:
    return [op.inputs[1] for op in model.program.main.ops if op.code == code]


def calibration() -> list[dict[str, np.ndarray]]:
    return [{"words": row} for row in WORDS[:24]]


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_blocks_round_better_than_channels(block: int, kernels: str) -> None:
    reference = Model(language())
    channels = octavo.quantize(reference, octavo.dynamic_range(256, weights=4))
    blocks = octavo.load(bytes(octavo.quantize(reference, octavo.dynamic_range(256, weights=4, block=block))))
    verify(blocks.program)
    for op_code in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP"):
        for kernel in weights(blocks, op_code):
            assert kernel.dtype is DType.INT4
            assert kernel.extra["scales"].shape == (kernel.shape[0], kernel.shape[1] // block)
            assert kernel.extra["scales"].dtype is DType.FLOAT16
    assert decibels(reference, blocks, kernels) > decibels(reference, channels, kernels) + 0.5


def test_the_file_computes_what_was_planned() -> None:
    """Scales are stored as every kernel uses them: the dequantized weights, in float, give the same outputs."""
    reference = Model(language())
    small = octavo.quantize(reference, octavo.dynamic_range(256, weights=4, block=32))
    program = reference.program.clone()
    assert [op.code for op in small.program.main.ops] == [
        "EMBEDDING_LOOKUP", "FULLY_CONNECTED", "RELU", "FULLY_CONNECTED"
    ]  # fmt: skip
    weighted = [op for op in small.program.main.ops if op.code != "RELU"]  # which the builtin kernel would forget
    for theirs, mine in zip(weighted, program.main.ops, strict=True):
        kernel = theirs.inputs[1]
        scales = kernel.extra["scales"].values.astype(np.float32).repeat(32, axis=1)
        codes = numerics.unpack_int4(kernel.data, kernel.size).reshape(kernel.shape)
        mine.inputs[1].set_values((codes * scales).astype(np.float32))
    for kernels in ("xnnpack", "builtin"):  # what is left is the inputs' rounding at run time, to eight bits
        assert decibels(Model(program), small, kernels) > 30


def test_samples_round_blocks_better() -> None:
    reference = Model(language())
    scheme = octavo.dynamic_range(256, weights=4, block=32)
    plain, better = octavo.quantize(reference, scheme), octavo.quantize(reference, scheme, calibration())
    assert better.nbytes == plain.nbytes
    assert decibels(reference, better) > decibels(reference, plain) + 1


def test_gptq_takes_a_scale_for_every_weight() -> None:
    mixing = RNG.normal(size=(1, 96, 96))
    gram = mixing @ mixing.swapaxes(1, 2)
    kernel = RNG.normal(size=(1, 5, 96)) * 10.0 ** RNG.uniform(-1, 1, (1, 1, 3)).repeat(32, axis=2)
    scales = (np.abs(kernel).reshape(1, 5, 3, 32).max(axis=3) / 7).repeat(32, axis=2)
    codes, _ = gptq.round_weights(kernel, scales, gptq.factor(gram), INT4_WEIGHT)

    def error(made: np.ndarray) -> float:
        left = kernel - made * scales
        return float(np.einsum("goi,gij,goj->", left, gram, left))

    assert np.abs(codes).max() == 7
    assert error(codes) < 0.6 * error(np.rint(kernel / scales))
    same = np.full((1, 5, 96), 0.25)
    np.testing.assert_array_equal(
        gptq.round_weights(kernel, same, gptq.factor(gram), INT4_WEIGHT)[0],
        gptq.round_weights(kernel, same[:, :, :1], gptq.factor(gram), INT4_WEIGHT)[0],
    )


def test_scales_of_blocks_survive_float16_and_bfloat16() -> None:
    scales = numerics.block_scales(10.0 ** RNG.uniform(-3.5, 3, 1000))
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
    np.testing.assert_array_equal((scales.view(np.uint32) & 0xFFFF), 0)  # bfloat16 is the upper half
    tiny = numerics.block_scales(np.array([0.0, 1e-9, 1e9], np.float32))
    assert tiny.min() == 2.0**-14
    assert np.isfinite(tiny.astype(np.float16)).all()


def test_where_blocks_are_impossible_the_summary_says_why() -> None:
    b = Builder(1)
    x = b.conv(b.input("image", (1, 8, 8, 32)), "conv", 8)
    x = b.dense(b.reshape(x, "flat", (1, 512)), "whole", 100)
    reference = Model(b.program(b.dense(x, "odd", 40)))
    summary = str(octavo.quantize(reference, octavo.dynamic_range(256, weights=4, block=32)).summary())
    assert "int4 in blocks of 32" in summary
    assert "int4, without blocks for an op whose width isn't a multiple of 32" in summary
    assert "int4, without blocks for an op whose kernel takes none" in summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": 4, "block": 16}, r"block=16: .*32, 64, 128, 256"),
        ({"weights": 8, "block": 32}, r"block=32 with weights=8: .*4-bit weights only"),
    ],
)
def test_other_blocks_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(octavo.RecipeError, match=message):
        octavo.dynamic_range(**arguments)


def test_blocks_survive_a_recipe_file(tmp_path: Path) -> None:
    recipe = Recipe(octavo.dynamic_range(weights=4, block=64))
    assert octavo.load_recipe(octavo.save_recipe(recipe, tmp_path / "r.json")) == recipe


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
@pytest.mark.parametrize("width", [21, 22])
@pytest.mark.parametrize("make", [octavo.dynamic_range, octavo.weight_only])
def test_tables_are_stored_as_integers(make, width: int, bits: int, kernels: str) -> None:
    """Row by row, and only the rows that are looked up are turned back into floats."""
    b = Builder(3)
    words = b.input("words", (6,), DType.INT32)
    reference = Model(b.program(b.op("EMBEDDING_LOOKUP", [words, b.weights("table", 100, width)], "rows", (6, width))))
    small = octavo.load(bytes(octavo.quantize(reference, make(weights=bits))))
    assert [op.code for op in small.program.main.ops] == ["EMBEDDING_LOOKUP"]
    kept = weights(small, "EMBEDDING_LOOKUP")[0].dtype
    assert kept is (DType.INT4 if bits == 4 and width % 2 == 0 else DType.INT8)  # the kernel misreads odd rows of int4
    assert decibels(reference, small, kernels) > (40 if bits == 8 else 16)


def test_large_tables_are_cut_into_blocks_too() -> None:
    """Constants of a megabyte and more are converted when the file is written, a run of rows at a time."""
    b = Builder(3)
    words = b.input("words", (6,), DType.INT32)
    table = b.weights("table", 20_000, 64)
    reference = Model(b.program(b.op("EMBEDDING_LOOKUP", [words, table], "rows", (6, 64))))
    small = octavo.load(bytes(octavo.quantize(reference, octavo.dynamic_range(weights=4, block=32))))
    rows = np.array([0, 1, 9_999, 15_000, 19_998, 19_999], np.int32)
    want, got = (octavo.Runner(model)({"words": rows}) for model in (reference, small))
    assert numerics.sqnr_db(want, got) > 18
    assert small.nbytes < 0.16 * reference.nbytes
