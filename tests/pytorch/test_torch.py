"""PyTorch modules -> Program, run on LiteRT and compared with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import octavo
from octavo.cli import main
from octavo.errors import ConversionError, ModelFileError
from octavo.graph.queries import recorded_ranges

pytestmark = pytest.mark.torch


class Net(nn.Module):
    """Convolutions with batch normalization, a skip connection, dropout, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 3, 2, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.conv2(x))
        x = x + nn.functional.hardswish(self.depthwise(x))
        flat = torch.flatten(nn.functional.max_pool2d(x, 2), 1)
        return {"logits": self.head(self.drop(flat)), "mask": self.up(x)}


class Marked(nn.Module):
    """A residual block that was trained with rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = octavo.fake_quant(x, -1.0, 1.0)
        y = octavo.fake_quant(self.conv(x), -4.0, 4.0)
        x = octavo.fake_quant(torch.relu(x + y), 0.0, 6.0, name="block")
        pooled = octavo.fake_quant(x.mean((2, 3)), 0.0, 3.0, name="pooled")
        return octavo.fake_quant(self.fc(pooled), -2.0, 2.0)


def settled(module: nn.Module, *shape: int) -> nn.Module:
    """Averages of batch normalization that aren't 0 and 1, so that mistakes show."""
    torch.manual_seed(0)
    module.train()
    for _ in range(5):
        module(torch.randn(*shape) * 2 + 1)
    return module


def images(count: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


def expected(module: nn.Module, *arrays: np.ndarray) -> Any:
    with torch.no_grad():
        made = module.eval()(*map(torch.tensor, arrays))
    return {name: tensor.numpy() for name, tensor in made.items()} if isinstance(made, dict) else made.numpy()


def close(got: Any, want: np.ndarray) -> None:
    assert np.abs(want).max() > 0.1, "outputs near zero prove nothing"
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max() + 1e-6)


def codes(model: octavo.Model) -> list[str]:
    return [op.code for op in model.program.main.ops]


def test_a_module_becomes_a_file_that_computes_the_same() -> None:
    net = settled(Net(), 4, 3, 16, 16)
    model = octavo.convert(net, inputs=[(None, 3, 16, 16)])
    (signature,) = model.program.signatures
    assert [(name, tensor.shape) for name, tensor in signature.inputs] == [("image", (1, 3, 16, 16))]
    assert [name for name, _ in signature.outputs] == ["logits", "mask"]
    got, want = octavo.Runner(model)(images()), expected(net, images())
    close(got["logits"], want["logits"])
    close(got["mask"], want["mask"])


def test_eval_mode_is_taken_and_given_back() -> None:
    net = settled(Net(), 4, 3, 16, 16)
    net.bn1.eval()  # as in fine-tuning with frozen statistics
    before = {name: part.training for name, part in net.named_modules()}
    octavo.convert(net, inputs=(torch.tensor(images(1)),))
    assert {name: part.training for name, part in net.named_modules()} == before
    assert net.training and not net.bn1.training


def test_tensors_have_the_names_of_submodules() -> None:
    model = octavo.convert(Net(), inputs=[(1, 3, 16, 16)])
    made = {op.code: op.outputs[0].name for op in model.program.main.ops}
    assert made["DEPTHWISE_CONV_2D"] == "depthwise"
    assert made["PAD"] == "conv2/pad"
    names = [tensor.name for tensor in model.program.main.tensors]
    assert {"conv1/kernel", "conv2/bias"} <= set(names)
    assert len(names) == len(set(names))


def test_channels_last_leaves_no_transpose() -> None:
    net = settled(Net(), 4, 3, 16, 16)
    model = octavo.convert(net, inputs=[(None, 3, 16, 16)], channels_last=True)
    (signature,) = model.program.signatures
    assert [(name, t.shape) for name, t in [*signature.inputs, *signature.outputs]] == [
        ("image", (1, 16, 16, 3)),
        ("logits", (1, 10)),
        ("mask", (1, 16, 16, 3)),
    ]
    assert codes(model).count("TRANSPOSE") == 1, "of the flatten; none at the borders"
    samples = np.moveaxis(images(20), 1, -1)
    small = octavo.quantize(model, octavo.integer(fallback=False, io="int8"), calibration=samples)
    assert "TRANSPOSE" not in codes(small), "the flatten's went into the weights"
    assert small.integer_only
    want = expected(net, images())
    got = octavo.Runner(model)(np.moveaxis(images(), 1, -1))
    close(got["logits"], want["logits"])
    close(np.moveaxis(got["mask"], -1, 1), want["mask"])
    rough = octavo.Runner(small)(np.moveaxis(images(), 1, -1))
    assert np.abs(rough["logits"] - want["logits"]).max() < 0.1 * np.abs(want["logits"]).max()


def test_a_batch_may_stay_dynamic() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    model = octavo.convert(net, inputs=[(None, 3, 16, 16)], batch=None)
    assert model.program.main.inputs[0].shape_signature == (-1, 3, 16, 16)
    close(octavo.Runner(model)(images(7)), expected(net, images(7)))


def test_inputs_by_name_and_by_example() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor, unused: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x * scale, x + scale

    model = octavo.convert(Two(), inputs={"scale": torch.ones(1, 2), "x": (1, 2), "unused": ((1, 3), "int32")})
    signature = model.program.signatures[0]
    assert [name for name, _ in signature.inputs] == ["scale", "x", "unused"]
    assert [name for name, _ in signature.outputs] == ["output_0", "output_1"]
    x, scale = np.float32([[1, 2], [3, 4]]), np.float32([[5, 6], [7, 8]])
    got = octavo.Runner(model)({"x": x, "scale": scale, "unused": np.zeros((2, 3), np.int32)})
    np.testing.assert_array_equal(got["output_0"], x * scale)
    np.testing.assert_array_equal(got["output_1"], x + scale)


def test_more_than_ten_outputs_keep_their_order() -> None:
    class Many(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x + i for i in range(12)]

    got = octavo.Runner(octavo.convert(Many(), inputs=[(1, 2)]))(np.zeros((1, 2), np.float32))
    assert [float(got[f"output_{i}"][0, 0]) for i in range(12)] == list(range(12))


def test_marks_carry_ranges_and_need_no_samples() -> None:
    torch.manual_seed(0)
    net = Marked()
    model = octavo.convert(net, inputs=[(1, 3, 16, 16)], channels_last=True)
    ranges = {t.name: bounds for t, bounds in recorded_ranges(model.program).items()}
    assert ranges["block"] == pytest.approx((0.0, 6.0))
    assert {"x", "block", "pooled", "output_0"} <= set(ranges)
    assert codes(model).count("TRANSPOSE") == 1, "of the mean; marks don't stand in the way of channels last"
    small = octavo.quantize(model, octavo.integer(fallback=False, io="int8"))
    assert [op.code for op in small.program.main.ops] == ["CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"]
    step = small.program.main.outputs[0].qparams
    assert step is not None and float(step.scale[0]) == pytest.approx(4 / 255, rel=0.01)
    want = expected(net, images())  # rounds activations as the device does; weights are float here
    got = octavo.Runner(small)(np.moveaxis(images(), 1, -1))
    assert np.abs(got - want).max() <= 2.01 * 4 / 255


def test_mark_rounds_and_passes_gradients_within_the_range() -> None:
    x = torch.tensor([-3.0, -0.5, 0.01, 0.5, 3.0], requires_grad=True)
    y = octavo.fake_quant(x, -1.0, 1.0)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    steps = y.detach().numpy() / (2 / 255)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert float(y[2].detach()) == pytest.approx(2 / 255)
    torch.library.opcheck(torch.ops.octavo.fake_quant.default, (x, -1.0, 1.0, 8, False, ""))


def test_both_frameworks_round_alike() -> None:
    import jax.numpy as jnp

    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for low, high, bits, symmetric in ((-1.0, 2.0, 8, False), (-2.0, 1.0, 16, True), (0.5, 2.0, 8, False)):
        ours = octavo.fake_quant(torch.tensor(x), low, high, bits, symmetric).numpy()
        theirs = np.asarray(octavo.fake_quant(jnp.asarray(x), low, high, bits, symmetric))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_exported_program_and_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Marked().eval()
    exported = torch.export.export(net, (torch.tensor(images(1)),))
    direct = octavo.convert(exported)
    assert [name for name, _ in direct.program.signatures[0].inputs] == ["x"]
    torch.export.save(exported, tmp_path / "net.pt2")
    assert main(["convert", str(tmp_path / "net.pt2"), "-o", str(tmp_path / "net.tflite"), "--channels-last"]) == 0
    capsys.readouterr()
    model = octavo.load(tmp_path / "net.tflite")
    assert model.program.main.inputs[0].shape == (1, 16, 16, 3)
    assert len(recorded_ranges(model.program)) >= 5
    np.testing.assert_allclose(
        octavo.Runner(model)(np.moveaxis(images(), 1, -1)), octavo.Runner(direct)(images()), atol=1e-5
    )


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x + self.count


class AlwaysDrops(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x)


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (nn.ReLU(), None, "give inputs="),
        (Counter(), [(1, 4)], "keeps state between calls .count."),
        (AlwaysDrops(), [(1, 4)], "training=self.training"),
        (nn.Linear(4, 2).half(), [(1, 4)], "'weight' is float16; convert module.float"),
        (nn.Linear(4, 2), [(1, 5)], "can't trace PyTorch module Linear with input float32.1, 5."),
        (nn.Linear(4, 2), [(1, 4), (2,)], "doesn't take the inputs"),
        (nn.Linear(4, 2), [(None, None, 4)], "more than the batch open"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refusals_name_the_cause(module: nn.Module, inputs: Sequence[Any] | None, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        octavo.convert(module, inputs=inputs)


def test_a_checkpoint_is_no_program(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt2")
    with pytest.raises(ModelFileError, match=r"not a program that torch\.export\.save wrote"):
        octavo.convert(tmp_path / "weights.pt2")
    with pytest.raises(ModelFileError, match="no such file"):
        octavo.convert(tmp_path / "missing.pt2")
