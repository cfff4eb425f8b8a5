"""`TFLiteConverter`: settings as in TensorFlow, `octavo.convert` and `octavo.quantize` behind them."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import octavo
from octavo.compat.lite import settings
from octavo.compat.lite.settings import Checked, OpsSet, RepresentativeDataset, TargetSpec
from octavo.errors import ConversionError, MissingDependencyError, NotIntegerError, RecipeError
from octavo.graph.queries import recorded_ranges
from octavo.model import Model
from octavo.recipe import IO

Source = Callable[["TFLiteConverter"], Model]

# Where tfmot's ranges start (tensorflow_model_optimization 0.8, quantizers.py, MovingAverageQuantizer.build).
_UNTRAINED = (-6.0, 6.0)


class TFLiteConverter(Checked):
    """Makes `.tflite` bytes of a model. Make one with `from_keras_model` or the other class methods.

    Attributes:
      optimizations: [Optimize.DEFAULT] quantizes; empty leaves the model in float.
      representative_dataset: a function that yields samples (or what `octavo.quantize` takes); with it, activations
        become integers too.
      target_spec: which types and ops the file may use.
      inference_input_type, inference_output_type: element types of the file's inputs and outputs.
      _experimental_disable_per_channel: one weight scale per tensor.

    Any other setting that isn't TensorFlow's default is an error when it is assigned, unless it changes nothing here.
    """

    SETTINGS: ClassVar[Mapping[str, Any]] = {**settings.CONVERTER, "_source": settings.ANY}

    allow_custom_ops: bool
    exclude_conversion_metadata: bool

    def __init__(self, source: Source) -> None:
        if not callable(source) or isinstance(source, type):
            raise ConversionError("make a converter with TFLiteConverter.from_keras_model(model)")
        self._source = source
        for name, allowed in settings.CONVERTER.items():
            if isinstance(allowed, tuple):
                setattr(self, name, allowed[0])
        self.optimizations: Any = set()
        self.representative_dataset: Any = None
        self.target_spec: Any = TargetSpec()
        self.inference_input_type: Any = "float32"
        self.inference_output_type: Any = "float32"

    @classmethod
    def from_keras_model(cls, model: Any) -> TFLiteConverter:
        """For a Keras 3 model. A batch size that the model leaves open stays open, where its ops allow it."""

        def convert(_: TFLiteConverter) -> Model:
            with _untrained_ranges(model):
                return _with_open_batch(model)

        return cls(convert)

    @classmethod
    def from_saved_model(
        cls, saved_model_dir: str | os.PathLike[str], signature_keys: Any = None, tags: Any = None
    ) -> TFLiteConverter:
        """For a TensorFlow SavedModel: TensorFlow makes the float model, octavo quantizes it.

        Raises:
          MissingDependencyError: TensorFlow isn't installed.
        """
        path = os.fspath(saved_model_dir)
        return cls(
            _through_tensorflow(
                f"the SavedModel {path}",
                "load the model in Keras and use from_keras_model",
                lambda lite: lite.TFLiteConverter.from_saved_model(path, signature_keys, tags),
            )
        )

    @classmethod
    def from_concrete_functions(cls, funcs: list[Any], trackable_obj: Any = None) -> TFLiteConverter:
        """For TensorFlow functions: TensorFlow makes the float model, octavo quantizes it.

        Raises:
          MissingDependencyError: TensorFlow isn't installed.
        """
        return cls(
            _through_tensorflow(
                "a TensorFlow function",
                "write it in JAX and use octavo.convert(function, inputs=[...])",
                lambda lite: lite.TFLiteConverter.from_concrete_functions(funcs, trackable_obj),
            )
        )

    @classmethod
    def experimental_from_jax(cls, serving_funcs: list[Any], inputs: list[Any]) -> TFLiteConverter:
        """For a JAX function: `serving_funcs` holds one, `inputs` one list of pairs (name, example array)."""
        if len(serving_funcs) != 1 or len(inputs) != 1:
            raise ConversionError(f"pass one function and its inputs, not {len(serving_funcs)} and {len(inputs)}")

        def convert(_: TFLiteConverter) -> Model:
            return octavo.convert(serving_funcs[0], inputs=dict(inputs[0]))

        return cls(convert)

    @classmethod
    def from_frozen_graph(cls, *_: Any, **__: Any) -> TFLiteConverter:
        """Refused: TensorFlow 1."""
        raise ConversionError(
            "a frozen graph of TensorFlow 1 can't be converted here: make a float .tflite file of it with "
            "tf.compat.v1.lite.TFLiteConverter, and quantize that with octavo.quantize"
        )

    @classmethod
    def from_session(cls, *_: Any, **__: Any) -> TFLiteConverter:
        """Refused: TensorFlow 1."""
        return cls.from_frozen_graph()

    @classmethod
    def from_keras_model_file(cls, *_: Any, **__: Any) -> TFLiteConverter:
        """Refused: a name of TensorFlow 1."""
        raise ConversionError("load the file with keras.models.load_model and use TFLiteConverter.from_keras_model")

    def convert(self) -> bytes:
        """The `.tflite` file.

        Raises:
          RecipeError: the settings contradict each other, or can't be honoured for this model.
          NotIntegerError: only integer ops are allowed and some op has no integer form; lists them.
          ConversionError: the model can't be converted.
          DataError: unusable samples.
        """
        request = settings.read(self)
        model = self._source(self)
        trained = bool(recorded_ranges(model.program))
        scheme = request.scheme(trained)
        for unused in request.unused(scheme):
            warnings.warn(unused, UserWarning, stacklevel=2)
        if scheme is None:
            return bytes(model)
        data = self.representative_dataset if scheme.kind == "integer" else None
        data = data.input_gen if isinstance(data, RepresentativeDataset) else data
        try:
            small = octavo.quantize(model, scheme, data)
        except NotIntegerError as error:
            remedy = "Add OpsSet.TFLITE_BUILTINS to target_spec.supported_ops to leave them in float, or replace them."
            raise NotIntegerError(error.refusals, error.where, remedy) from None
        _check_borders(model, small, scheme.io)
        return bytes(small)


@contextmanager
def _untrained_ranges(model: Any) -> Iterator[None]:
    """An aware model that has seen no data converts with the ranges from which tfmot would train it, and a warning."""
    layers = sys.modules.get("octavo.qat.layers")
    found = model._flatten_layers() if layers is not None and hasattr(model, "_flatten_layers") else ()
    blank = [layer for layer in found if layers and isinstance(layer, layers.FakeQuant) and layer.bounds() is None]
    if blank:
        low, high = _UNTRAINED
        warnings.warn(
            f"the model was never trained: {', '.join(layer.name for layer in blank)} saw no data, so each range is "
            f"{low:g} to {high:g}; train it, or call octavo.qat.calibrate(model, samples)",
            UserWarning,
            stacklevel=5,
        )
    for layer in blank:
        for slot in range(len(layer.tensors)):
            layer.set_range(slot, *_UNTRAINED)
    try:
        yield
    finally:
        for layer in blank:
            layer.seen.assign([0.0] * len(layer.tensors))
            layer.range.assign([[0.0, 0.0]] * len(layer.tensors))


def _with_open_batch(model: Any) -> Model:
    """As TensorFlow does it; with a batch of 1 where some op needs to know the size."""
    try:
        return octavo.convert(model, batch=None)
    except ConversionError as error:
        converted = octavo.convert(model, batch=1)  # a model that can't be converted at all says why here
        warnings.warn(f"the file takes batches of 1 only: {error}", UserWarning, stacklevel=4)
        return converted


def _through_tensorflow(what: str, otherwise: str, make: Callable[[Any], Any]) -> Source:
    """A source that TensorFlow's own converter reads.

    Args:
      what: what is converted, for messages.
      otherwise: what to do without TensorFlow.
      make: makes TensorFlow's converter, given its module `tf.lite`.
    """
    try:
        import tensorflow  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

        lite = tensorflow.lite
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"{what} can only be read by TensorFlow ({error}): pip install tensorflow, or {otherwise}"
        ) from error

    def convert(converter: TFLiteConverter) -> Model:
        asked = settings.read(converter).ops
        sets = {OpsSet.TFLITE_BUILTINS, *(asked & {OpsSet.SELECT_TF_OPS})}
        try:
            theirs = make(lite)
            theirs.target_spec.supported_ops = [lite.OpsSet(str(each)) for each in sets]
            theirs.allow_custom_ops = converter.allow_custom_ops
            theirs.exclude_conversion_metadata = converter.exclude_conversion_metadata
            made = theirs.convert()
        except Exception as error:  # TensorFlow raises ValueError, ConverterError, OSError, ...
            lacking = ", ".join(dict.fromkeys(re.findall(r"'(tf\.\w+)' op is neither", str(error))))
            reason = f"LiteRT has no op for {lacking}" if lacking else " ".join(str(error).split())[:300]
            raise ConversionError(f"TensorFlow can't convert {what}: {reason}") from error
        return octavo.load(bytes(made))

    return convert


def _check_borders(model: Model, small: Model, io: IO) -> None:
    """Refuse a file whose inputs or outputs didn't get the types that were asked for."""
    before, after = model.program.main, small.program.main
    sides: Iterable[tuple[str, str, Any]] = (
        ("input", io.input, zip(before.inputs, after.inputs, strict=True)),
        ("output", io.output, zip(before.outputs, after.outputs, strict=True)),
    )
    for side, wanted, pairs in sides:
        for old, new in pairs:
            if old.dtype.value == "float32" and new.dtype.value != wanted:
                raise RecipeError(
                    f"inference_{side}_type is {wanted}, but {side} {old.name!r} belongs to an op that stays in float: "
                    f"leave the type float32; octavo.quantize(...).summary() says why the op does"
                )
