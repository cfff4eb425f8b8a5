"""The Keras layers that stand in an aware model: ranges of activations, rounded weights, freezable batch normalization.

All are ordinary Keras layers without state of their own making, so models that hold them are saved and loaded by Keras.
`octavo.qat.registration` makes them known to Keras as soon as both are imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from octavo import numerics
from octavo.errors import ConversionError
from octavo.marks import ends, fake_quant, is_marking
from octavo.qat import rounding
from octavo.qtypes import QParams, QType

ops: Any = keras.ops  # a type checker takes its functions for ones that return None

PACKAGE = "octavo"
DECAY = 0.99


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuant(keras.layers.Layer):
    """Rounds activations to the codes of one range, and learns the range while it trains.

    The range is a moving average of each batch's lowest and highest value; the first batches count equally. Tensors
    that must share a scale on the device (the inputs of a concatenation) share one such layer: each keeps an average of
    its own, and the range is the union. Before anything was seen, values pass unchanged.

    Args:
      tensors: names of the tensors that are observed, one per slot; [] means one, called like the layer.
      tied: names of tensors that are rounded to the same codes but not observed, such as what an average pool makes.
      bits: width of the codes.
      symmetric: the zero point is 0, as the device has it for 16 bits.
      decay: of the moving average, per batch.
      learned: train the ends of the range by gradient (LSQ) instead; needs `octavo.qat.calibrate` first.
      frozen: the range stays as it is.
    """

    def __init__(
        self,
        tensors: Sequence[str] = (),
        tied: Sequence[str] = (),
        bits: int = 8,
        symmetric: bool = False,
        decay: float = DECAY,
        learned: bool = False,
        frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.tensors = list(tensors) or [self.name]
        self.tied = list(tied)
        self.qtype = QType(bits, symmetric=symmetric)
        self.decay = float(decay)
        self.learned = learned
        self.frozen = frozen
        self.watching = False  # while calibrating: values pass as they are
        self.built = True
        slots = len(self.tensors)
        self.range = self.add_weight(name="range", shape=(slots, 2), initializer="zeros", trainable=False)
        self.seen = self.add_weight(name="seen", shape=(slots,), initializer="zeros", trainable=False)
        self.ends = None
        if learned:
            self.ends = self.add_weight(name="ends", shape=(2,), initializer="zeros", trainable=True)

    def call(self, x: Any, slot: int = 0, training: bool | None = None) -> Any:
        if is_marking():
            return self._mark(x, slot)
        observed = slot < len(self.tensors)
        if self.watching:
            return x
        train = bool(training) and not self.frozen
        if self.ends is not None:
            return self._learn(x, train)
        if train and observed:
            self._average(x, slot)
        low, high = ops.min(self.range[:, 0]), ops.max(self.range[:, 1])
        scale, zero_point = rounding.range_params(low, high, self.qtype)
        rounded = rounding.quantize_activation(x, scale, zero_point, self.qtype)
        if train and observed:
            return rounded
        return ops.where(ops.max(self.seen) > 0, rounded, x)

    def bounds(self) -> tuple[float, float] | None:
        """The range as it is now, None before anything was seen."""
        if not np.any(ops.convert_to_numpy(self.seen.value)):
            return None
        if self.ends is not None:
            low, high = ops.convert_to_numpy(self.ends.value)
            return min(float(low), 0.0), max(float(high), 0.0)
        known = ops.convert_to_numpy(self.range.value)
        return float(known[:, 0].min()), float(known[:, 1].max())

    @property
    def qparams(self) -> QParams | None:
        """Scale and zero point as the file will have them, None before anything was seen."""
        bounds = self.bounds()
        return None if bounds is None else numerics.activation_params(*bounds, self.qtype)

    def slot_name(self, slot: int) -> str:
        """The name of the tensor in a slot."""
        return [*self.tensors, *self.tied][slot]

    def _average(self, x: Any, slot: int) -> None:
        """Take one batch into the moving average of a slot."""
        values = ops.stop_gradient(x)
        batch = ops.stack([ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)])
        mine = ops.one_hot(slot, len(self.tensors), dtype="float32")
        rate = ops.maximum(1.0 - self.decay, 1.0 / (self.seen + 1.0))  # cumulative at first, then exponential
        step = (rate * mine)[:, None] * (batch[None, :] - self.range)
        self.range.assign(self.range + step)
        self.seen.assign(self.seen + mine)

    def set_range(self, slot: int, low: float, high: float) -> None:
        """Say what one slot has seen."""
        known = np.array(ops.convert_to_numpy(self.range.value))
        seen = np.array(ops.convert_to_numpy(self.seen.value))
        known[slot] = min(low, 0.0), max(high, 0.0)
        seen[slot] += 1
        self.range.assign(known)
        self.seen.assign(seen)
        if self.ends is not None:
            self.ends.assign(np.array([known[:, 0].min(), known[:, 1].max()]))

    def _learn(self, x: Any, train: bool) -> Any:
        assert self.ends is not None
        low, high = ops.minimum(self.ends[0], 0.0), ops.maximum(self.ends[1], 0.0)
        if not train:
            low, high = ops.stop_gradient(low), ops.stop_gradient(high)
        scale, zero_point = rounding.range_params(low, high, self.qtype)
        count = float(np.prod([d or 1 for d in x.shape[1:]]))
        rounded = rounding.learn_activation(x, scale, zero_point, self.qtype, (count * self.qtype.qmax) ** -0.5)
        return ops.where(ops.max(self.seen) > 0, rounded, x)

    def _mark(self, x: Any, slot: int) -> Any:
        bounds = self.bounds()
        if bounds is None:
            error = ConversionError(
                f"{self.name} has seen no data, so {self.slot_name(slot)!r} has no range: train the model first, "
                "or call octavo.qat.calibrate(model, samples)"
            )
            error._keras_call_info_injected = True  # pyright: ignore[reportAttributeAccessIssue]  # one line stays one
            raise error
        return fake_quant(x, *bounds, self.qtype.bits, self.qtype.symmetric, self.slot_name(slot))

    def compute_output_shape(self, input_shape: Any, **_: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(), "tensors": self.tensors, "tied": self.tied, "bits": self.qtype.bits,
            "symmetric": self.qtype.symmetric, "decay": self.decay, "learned": self.learned, "frozen": self.frozen,
        }  # fmt: skip


@keras.saving.register_keras_serializable(PACKAGE)
class FixedQuant(keras.layers.Layer):
    """Rounds activations to codes whose scale the kernel gives: what a softmax or a sigmoid makes.

    Args:
      scale: size of a step.
      zero_point: code of 0.
      bits: width of the codes.
    """

    def __init__(self, scale: float, zero_point: int, bits: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.qtype = QType(bits)
        self.qparams = QParams.per_tensor(scale, zero_point)
        self.scale, self.zero_point = float(scale), int(zero_point)
        self.built = True

    def call(self, x: Any, slot: int = 0) -> Any:
        if is_marking():
            return fake_quant(x, *ends(self.qparams, self.qtype), self.qtype.bits, name=self.slot_name(slot))
        return rounding.quantize_activation(x, self.scale, self.zero_point, self.qtype)

    def slot_name(self, slot: int) -> str:
        """The name of the tensor that stands here."""
        del slot
        return self.name.removesuffix("_quant")

    def compute_output_shape(self, input_shape: Any, **_: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale, "zero_point": self.zero_point, "bits": self.qtype.bits}


@keras.saving.register_keras_serializable(PACKAGE)
class QuantizedWeights(keras.layers.Wrapper):
    """A layer that computes with rounded weights, and trains the weights behind them.

    Args:
      layer: any Keras layer.
      weights: name of each attribute that holds weights -> the dimensions of its output channels, which get a scale
        each; None gives one scale for all.
      bits: width of the codes; symmetric, without the lowest code.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weights: Mapping[str, Sequence[int] | None],
        bits: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, **kwargs)
        self.supports_masking = getattr(layer, "supports_masking", False)
        self.channels = {key: None if axes is None else tuple(axes) for key, axes in weights.items()}
        self.qtype = QType(bits, symmetric=True, narrow_range=True)

    def call(self, inputs: Any, **kwargs: Any) -> Any:
        chosen = {id(getattr(self.layer, key)): axes for key, axes in self.channels.items()}
        # Inside a scope of its own the layer sees other values for its variables; nothing in the layer has to know.
        values = [(v, self._rounded(v, chosen[id(v)]) if id(v) in chosen else v.value) for v in self.layer.variables]
        with keras.StatelessScope(values):
            return self.layer.call(inputs, **kwargs)

    def _rounded(self, variable: Any, axes: tuple[int, ...] | None) -> Any:
        if is_marking():
            return self.rounded_values(variable, axes)
        return rounding.quantize_weights(variable.value, self.qtype, axes)

    def rounded_values(self, variable: Any, axes: tuple[int, ...] | None) -> np.ndarray:
        """The numbers that the file's codes stand for."""
        values = ops.convert_to_numpy(variable.value)
        channels = () if axes is None else tuple(axis % values.ndim for axis in axes)
        others = tuple(d for d in range(values.ndim) if d not in channels)
        rows = np.transpose(values, (*channels, *others)).reshape(
            int(np.prod([values.shape[d] for d in channels], dtype=np.int64)), -1
        )
        qparams = numerics.weight_params(rows, self.qtype, 0)
        codes = numerics.quantize(rows, qparams, self.qtype)
        real = numerics.dequantize(codes, qparams).reshape([values.shape[d] for d in (*channels, *others)])
        return np.ascontiguousarray(np.transpose(real, np.argsort((*channels, *others))))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weights": self.channels, "bits": self.qtype.bits}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> QuantizedWeights:
        config = {**config, "layer": keras.saving.deserialize_keras_object(config["layer"], custom_objects)}
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, whose statistics can be frozen while its scale and offset go on training.

    Args:
      frozen: normalize by the moving statistics in training too, and leave them as they are.
    """

    def __init__(self, *args: Any, frozen: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frozen = frozen

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=bool(training) and not self.frozen, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "frozen": self.frozen}
