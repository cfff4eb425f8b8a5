"""TFLite Metadata: read, written, kept through quantization, and refused when damaged."""

import io
import zipfile

import numpy as np
import pytest

import octavo
from graphs import Builder
from octavo.cli import main
from octavo.errors import DataError, ModelFileError, RecipeError
from octavo.model import Model
from octavo.tflite.metadata import NAME, decode, encode

CLASSES = ("cat", "dog", "naïve fish", "other")
X = np.random.default_rng(0).uniform(0, 1, (20, 8, 8, 3)).astype(np.float32)
# What a writer of the whole schema may have left, some of it in fields that octavo never writes.
FULL = {
    "name": "m", "description": "d", "version": "v2", "author": "a", "license": "l", "min_parser_version": "1.4.0",
    "associated_files": [{"name": "vocab.txt", "type": 5, "locale": "en", "version": "1"}],
    "subgraph_metadata": [
        {
            "name": "main",
            "input_tensor_metadata": [
                {
                    "name": "image", "dimension_names": ["batch", "y", "x", "c"],
                    "content": {
                        "content_properties": {"table": "ImageProperties", "color_space": 1,
                                               "default_size": {"width": 8, "height": 2**32 - 1}},
                        "range": {"min": -1, "max": 2},
                    },
                    "process_units": [
                        {"options": {"table": "NormalizationOptions", "mean": [127.5], "std": [127.5]}},
                        {"options": {"table": "ScoreThresholdingOptions", "global_score_threshold": 0.5}},
                    ],
                    "stats": {"max": [1.0], "min": [-1.0]},
                }
            ],
            "output_tensor_metadata": [
                {"content": {"content_properties": {"table": "BoundingBoxProperties", "index": [1, 0], "type": 2}}}
            ],
            "output_tensor_groups": [{"name": "g", "tensor_names": ["a", "b"]}],
            "custom_metadata": [{"name": "blob", "data": bytes(range(40))}],
        }
    ],
}  # fmt: skip


def network() -> Model:
    build = Builder()
    y = build.conv(build.input("image", (1, 8, 8, 3)), "first", 4, act=1)
    axes = build.const("axes", np.array([1, 2], np.int32))
    y = build.op("MEAN", [y, axes], "pool", (1, 4), "ReducerOptions", keepDims=False)
    return Model(build.program(build.dense(y, "scores", 4)))


@pytest.fixture
def described():
    return octavo.write_metadata(
        network(), name="pets", description="Tells pets.", labels=CLASSES, mean=127.5, std=[127.5]
    )


def test_every_field_comes_back():
    assert decode(encode(FULL), "m") == FULL


def test_written_and_read(described, tmp_path):
    described.save(tmp_path / "m.tflite")
    found = octavo.read_metadata(tmp_path / "m.tflite")
    assert (found.name, found.description) == ("pets", "Tells pets.")
    assert (found.inputs[0].name, found.inputs[0].mean, found.inputs[0].std) == ("image", (127.5,), (127.5,))
    assert found.outputs[0].labels == CLASSES
    with zipfile.ZipFile(tmp_path / "m.tflite") as packed:  # as any other reader finds it
        assert packed.read("labels.txt").decode() == "".join(f"{name}\n" for name in CLASSES)
    assert octavo.Runner(tmp_path / "m.tflite")(X).shape == (20, 4)
    assert bytes(octavo.load(tmp_path / "m.tflite")) == bytes(described)


def test_shown(described, tmp_path, capsys):
    described.save(tmp_path / "m.tflite")
    assert main(["show", str(tmp_path / "m.tflite")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "pets; Tells pets.",
        "  input image: mean 127.5, std 127.5",
        "  output scores: 4 labels: cat, dog, naïve fish, ...",
    ]


def test_damaged_metadata_hides_nothing(tmp_path, capsys):
    model = network()
    model.program.metadata = [(NAME, np.zeros(20, np.uint8))]
    model.save(tmp_path / "m.tflite")
    assert main(["show", str(tmp_path / "m.tflite")]) == 0
    out = capsys.readouterr().out
    assert "not M001" in out and "CONV_2D" in out


def test_nothing_said():
    assert octavo.read_metadata(network()) is None


@pytest.mark.parametrize("recipe", [octavo.float16(0), octavo.dynamic_range(0), octavo.integer(io="uint8")])
def test_kept_through_quantization(described, recipe):
    small = octavo.quantize(described, recipe, X)
    assert octavo.read_metadata(bytes(small)) == octavo.read_metadata(described)


def test_only_what_is_given_changes(described):
    full = octavo.load(bytes(described))
    full.program.metadata = [("other", np.arange(9, dtype=np.uint8)), (NAME, np.frombuffer(encode(FULL), np.uint8))]
    changed = octavo.write_metadata(full, author="b")
    record = decode(dict(changed.program.metadata)[NAME].tobytes(), "m")
    assert record == {**FULL, "author": "b"}
    assert changed.program.metadata[0][0] == "other"
    assert octavo.read_metadata(changed).files == octavo.read_metadata(described).files
    again = octavo.write_metadata(changed, labels=CLASSES[::-1])
    assert octavo.read_metadata(again).outputs[0].labels == CLASSES[::-1]
    assert len(decode(dict(again.program.metadata)[NAME].tobytes(), "m")["subgraph_metadata"][0]) == 5


def test_normalization_follows_folded_scaling(described):
    pinned = octavo.read_metadata(octavo.fold_scaling(described, 128, 64))
    assert (pinned.inputs[0].mean, pinned.inputs[0].std) == ((128,), (64,))
    folded = octavo.read_metadata(octavo.fold_scaling(described, 0, [1, 2, 3]))
    assert (folded.inputs[0].mean, folded.inputs[0].std) == ((0,), (1,))
    assert folded.outputs[0].labels == CLASSES
    assert octavo.read_metadata(octavo.fold_scaling(network(), 0, 255)) is None


class TestRefused:
    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["a", "b"], "2 labels fit no output: .*'scores' 4"),
            (["a", "b\nc", "d", "e"], "label 1 is empty or more than one line"),
            ([], "they are empty"),
            ("missing.txt", "missing.txt: can't be read: No such file"),
        ],
    )
    def test_labels(self, labels, message):
        with pytest.raises(DataError, match=message):
            octavo.write_metadata(network(), labels=labels)

    def test_half_a_normalization(self):
        with pytest.raises(RecipeError, match="give both"):
            octavo.write_metadata(network(), mean=1)

    def test_another_kind(self):
        model = network()
        model.program.metadata = [(NAME, np.zeros(20, np.uint8))]
        with pytest.raises(ModelFileError, match="not M001"):
            octavo.read_metadata(model)

    def test_damaged(self, described):
        data = dict(described.program.metadata)[NAME]
        rng, refused = np.random.default_rng(0), 0
        for _ in range(300):
            wrong = data.copy()
            wrong[rng.integers(8, data.size, 4)] = rng.integers(0, 256, 4)
            wrong = wrong[: rng.integers(8, data.size + 1)]
            try:
                decode(wrong.tobytes(), "m")
            except ModelFileError:
                refused += 1
        assert refused > 30

    def test_newer_fields_are_not_lost_silently(self):
        record = encode({"name": "m"})
        newer = {**decode(record, "m"), "newer": True}
        with pytest.raises(ModelFileError, match="octavo doesn't know"):
            encode(newer)

    def test_archive_that_says_it_is_huge(self, described):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("labels.txt", bytes(65 << 20))
        described.program.extra["appendedZip"] = np.frombuffer(archive.getvalue(), np.uint8)
        with pytest.raises(ModelFileError, match="larger than 64 MiB"):
            octavo.read_metadata(described)
