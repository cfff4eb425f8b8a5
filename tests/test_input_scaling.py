"""Image scaling folded into the input: a camera's bytes are the codes."""

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.cli import main
from octavo.errors import RecipeError
from octavo.graph.queries import recorded_range
from octavo.model import Model
from octavo.runtime.session import Session
from octavo.scaling import to_images

BYTES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
SAME, VALID = 0, 1


def network(padding: int = SAME, front: tuple[str, object] | None = None) -> Model:
    build = Builder()
    x = build.input("image", (1, 8, 8, 3))
    y = x
    if front is not None:
        for code, value in front:
            y = build.op(
                code, [y, build.const(code, np.array(value, np.float32))], code, x.shape, f"{code.title()}Options"
            )
    y = build.conv(y, "first", 8, act=1)
    if padding == VALID:
        build.graph.ops[-1].options["padding"] = VALID
        y.shape = (1, 6, 6, 8)
    axes = build.const("axes", np.array([1, 2], np.int32))
    y = build.op("MEAN", [y, axes], "pool", (1, 8), "ReducerOptions", keepDims=False)
    return Model(build.program(build.dense(y, "out", 4)))


def scaled(mean: object, std: object) -> np.ndarray:
    return ((BYTES.astype(np.float64) - mean) / std).astype(np.float32)


def on_bytes(small: Model) -> np.ndarray:
    """Outputs of an integer file that is given the camera's bytes as its codes, as real numbers."""
    session = Session(bytes(small), "reference")
    out = session.outputs[0]
    codes = np.concatenate([session.invoke([image[np.newaxis]])[0] for image in BYTES]).astype(np.float32)
    return (codes - out.zero_point[0]) * out.scale[0]


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)))


@pytest.mark.parametrize(("mean", "std"), [(0, 255), (127, 128), (128.0, 64.5), ([128] * 3, [128] * 3), (0, 1)])
@pytest.mark.parametrize("padding", [SAME, VALID])
def test_whole_mean_is_scale_and_zero_point(mean, std, padding):
    model = network(padding)
    x = scaled(mean, std)
    folded = octavo.fold_scaling(model, mean, std)
    small = octavo.quantize(folded, octavo.integer(fallback=False, io="uint8"), to_images(x, mean, std))
    port = Session(bytes(small)).inputs[0]
    assert port.scale[0] == pytest.approx(1 / np.max(std), rel=1e-6)
    assert port.zero_point[0] == np.max(mean)
    assert np.array_equal(octavo.Runner(small).first_codes(x[:1])[0][0][0], BYTES[0])
    assert error(on_bytes(small), octavo.Runner(model)(x)) < 0.05


@pytest.mark.parametrize(
    ("mean", "std", "padding"),
    [
        ([123.675, 116.28, 103.53], [58.4, 57.1, 57.4], VALID),
        ([0, 0, 0], [58.4, 57.1, 57.4], SAME),
        (127.5, 127.5, VALID),
        (-3, 100, VALID),
    ],
)
def test_the_rest_goes_into_the_weights(mean, std, padding):
    model = network(padding)
    x = scaled(mean, std)
    folded = octavo.fold_scaling(model, mean, std)
    images = to_images(x, mean, std)
    np.testing.assert_allclose(images, BYTES, atol=1e-3)
    np.testing.assert_allclose(octavo.Runner(folded)(images), octavo.Runner(model)(x), rtol=1e-3, atol=1e-3)
    assert [op.code for op in folded.program.main.ops] == [op.code for op in model.program.main.ops]
    small = octavo.quantize(folded, octavo.integer(fallback=False, io="uint8"), images)
    port = Session(bytes(small)).inputs[0]
    assert (port.scale[0], port.zero_point[0]) == (1, 0)
    assert error(on_bytes(small), octavo.Runner(model)(x)) < 0.05
    assert "takes image values" in " ".join(folded.notes)


@pytest.mark.parametrize(
    "front",
    [[("MUL", 1 / 255)], [("SUB", [1.0, 2.0, 3.0]), ("MUL", [0.01, 0.02, 0.03])], [("MUL", 1 / 127.5), ("ADD", -1.0)]],
)
def test_a_layer_that_scales(front):
    model = network(VALID, front)
    folded = octavo.fold_scaling(model)
    assert not {op.code for op in folded.program.main.ops} & {"MUL", "ADD", "SUB"}
    small = octavo.quantize(folded, octavo.integer(fallback=False, io="uint8"), BYTES.astype(np.float32))
    port = Session(bytes(small)).inputs[0]
    assert (port.scale[0], port.zero_point[0]) == (1, 0)
    assert error(on_bytes(small), octavo.Runner(model)(BYTES.astype(np.float32))) < 0.05


def test_samples_still_refine_the_rest():
    x = scaled(0, 255)
    model = network()
    folded = octavo.quantize(octavo.fold_scaling(model, 0, 255), octavo.integer(io="uint8"), x)
    plain = octavo.quantize(model, octavo.integer(io="uint8"), x)
    want = octavo.Runner(model)(x)
    assert error(octavo.Runner(folded)(x), want) < 1.2 * error(octavo.Runner(plain)(x), want)


def test_a_given_range_is_no_training():
    with pytest.raises(RecipeError, match="needs representative data"):
        octavo.quantize(octavo.fold_scaling(network(), 0, 255), octavo.integer())


class TestRefused:
    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            (127.5, 127.5, "zeros that CONV_2D 'first' adds .* no code does"),
            ([1, 2, 3], 1, "zeros that CONV_2D 'first' adds"),
            ([1, 2], 1, "one for each channel of input 'image'; mean has 2"),
            (0, 0, "finite numbers above 0"),
            (0, -1, "finite numbers above 0"),
            (float("nan"), 1, "give finite numbers"),
        ],
    )
    def test_numbers(self, mean, std, message):
        with pytest.raises(RecipeError, match=message):
            octavo.fold_scaling(network(), mean, std)

    def test_input_that_no_single_op_reads(self):
        build = Builder()
        x = build.input("x", (1, 4))
        y = build.op("ADD", [build.dense(x, "a", 4), build.dense(x, "b", 4)], "y", (1, 4), "AddOptions")
        with pytest.raises(RecipeError, match="read by FULLY_CONNECTED 'a', FULLY_CONNECTED 'b'"):
            octavo.fold_scaling(Model(build.program(y)), 0.5, 1)

    def test_layer_whose_offset_stays(self):
        with pytest.raises(RecipeError, match="take the Rescaling or Normalization layer out"):
            octavo.fold_scaling(network(SAME, [("MUL", 1 / 127.5), ("ADD", -1.0)]))

    def test_scale_that_something_else_decides(self):
        build = Builder()
        a, b = build.input("a", (1, 4)), build.input("b", (1, 4))
        y = build.op("CONCATENATION", [a, b], "y", (1, 8), "ConcatenationOptions", axis=1)
        model = octavo.fold_scaling(Model(build.program(build.dense(y, "out", 2))), 0, 1, input="a")
        x = {"a": np.full((4, 4), 255, np.float32), "b": np.full((4, 4), 1e4, np.float32)}
        with pytest.raises(RecipeError, match="input 'a' can't take image values as codes"):
            octavo.quantize(model, octavo.integer(fallback=False, io="uint8"), x)

    def test_which_input(self):
        build = Builder()
        a, b = build.input("a", (1, 4)), build.input("b", (1, 4))
        model = Model(build.program(build.op("ADD", [a, b], "y", (1, 4), "AddOptions")))
        with pytest.raises(RecipeError, match=r"name one of 'a', 'b'$"):
            octavo.fold_scaling(model, 0, 255)
        with pytest.raises(RecipeError, match="not 'c'"):
            octavo.fold_scaling(model, 0, 255, input="c")
        assert recorded_range(octavo.fold_scaling(model, 0, 255, input="b").program.main.inputs[1]) == (0, 1)


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        network(VALID).save("model.tflite")
        return tmp_path

    def quantize(self, *options: str) -> int:
        return main(["quantize", "model.tflite", "-o", "small.tflite", "--data", "x.npz", "--force", *options])

    @pytest.mark.parametrize(("mean", "std"), [("127", "128"), ("127.5", "127.5"), ("120,110,100", "58.5,57,57.5")])
    def test_bytes_go_in(self, folder, mean, std):
        numbers = [np.array(text.split(","), float) for text in (mean, std)]
        np.savez("x.npz", x=scaled(*numbers))
        assert self.quantize("--to", "integer-only", "--io", "uint8", "--input-mean", mean, "--input-std", std) == 0
        want = octavo.Runner("model.tflite")(scaled(*numbers))
        assert error(on_bytes(octavo.load("small.tflite")), want) < 0.05

    def test_float_inputs_take_no_bytes(self, folder, capsys):
        np.savez("x.npz", x=scaled(0, 255))
        for options in (["--to", "integer"], ["--to", "float16"]):
            assert self.quantize(*options, "--input-std", "255") == 2
            assert "add --io uint8" in capsys.readouterr().err
        assert self.quantize("--to", "integer-only", "--input-std", "a") == 2
        assert "write 127.5 or" in capsys.readouterr().err
        assert self.quantize("--to", "integer-only", "--input-std", "image=1", "--input-mean", "x=1") == 2
        assert "name one input" in capsys.readouterr().err
        assert self.quantize("--to", "integer-only", "--input-std", "other=1") == 1
        assert "name one of 'image', not 'other'" in capsys.readouterr().err

    def test_metadata(self, folder):
        np.savez("x.npz", x=scaled(0, 255))
        (folder / "labels.txt").write_text("a\nb\nc\nd\n")
        said = ["--labels", "labels.txt", "--description", "Tells four."]
        assert self.quantize("--to", "integer-only", "--io", "uint8", "--input-std", "255", *said) == 0
        found = octavo.read_metadata("small.tflite")
        assert (found.outputs[0].labels, found.description) == (("a", "b", "c", "d"), "Tells four.")
        assert (found.inputs[0].mean, found.inputs[0].std) == ((0,), (255,))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_layers_of_keras(padding):
    import keras

    layers = keras.layers
    front = {
        "same": layers.Rescaling(1 / 255),
        "valid": layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[3000.0, 3300.0, 3600.0]),
    }[padding]
    after = [layers.Conv2D(8, 3, padding=padding, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(5)]
    model = octavo.convert(keras.Sequential([keras.Input((8, 8, 3)), front, *after]))
    images = BYTES.astype(np.float32)
    recipe = octavo.integer(fallback=False, io="uint8")
    small = octavo.quantize(octavo.fold_scaling(model), recipe, images)
    assert {op.code for op in small.program.main.ops} == {"QUANTIZE", "CONV_2D", "MEAN", "FULLY_CONNECTED"}
    assert error(on_bytes(small), octavo.Runner(model)(images)) < 0.05
