"""`tensorflow_model_optimization.quantization.keras`: annotate layers, and make a model of them that trains quantized.

An annotated layer computes as it is. `quantize_apply` hands the model without annotations to
`octavo.qat.quantize_model`, with a rule for each layer that was annotated; all others stay in float.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras

import octavo
from octavo.errors import ConversionError, RecipeError
from octavo.qat.trace import is_functional, split

_PREFIX = "quant_"
_BY_RECIPE = (
    "say what a layer is to become with octavo.Recipe and octavo.Rule, and pass it to octavo.qat.quantize_model; "
    "see docs/qat.md"
)


@keras.saving.register_keras_serializable(package="octavo")
class QuantizeAnnotate(keras.layers.Wrapper):
    """A layer that `quantize_apply` is to quantize. It computes what the layer computes."""

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(layer, **{"name": layer.name, **kwargs})
        shape = getattr(layer, "_input_shape_arg", None)
        if shape is not None:  # Dense(10, input_shape=(20,)), from which a Sequential model makes its input
            self._input_shape_arg = shape

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.layer(inputs, *args, **kwargs)


def quantize_model(to_quantize: Any, quantized_layer_name_prefix: str = _PREFIX) -> Any:
    """A copy of a Keras model that trains with the device's rounding; see `octavo.qat.quantize_model`.

    Layers keep their names: there is no prefix.

    Raises:
      ConversionError: the model isn't built, or not functional or sequential.
      RecipeError: another prefix was asked for.
    """
    _check_prefix(quantized_layer_name_prefix)
    return octavo.qat.quantize_model(to_quantize)


def quantize_annotate_layer(to_annotate: Any, quantize_config: Any = None) -> Any:
    """The layer, marked for `quantize_apply`.

    Raises:
      ConversionError: it isn't a layer.
      RecipeError: a `quantize_config`: these can't be honoured.
    """
    if not isinstance(to_annotate, keras.layers.Layer) or isinstance(to_annotate, keras.Model):
        raise ConversionError(
            f"quantize_annotate_layer takes a Keras 3 layer, not a {type(to_annotate).__name__}; "
            "for a model there are quantize_model and quantize_annotate_model"
        )
    if quantize_config is not None:
        raise RecipeError(
            f"layer {to_annotate.name!r}: a QuantizeConfig ({type(quantize_config).__name__}) can't be honoured: "
            f"{_BY_RECIPE}"
        )
    return QuantizeAnnotate(to_annotate)


def quantize_annotate_model(to_annotate: Any) -> Any:
    """A copy of the model's graph in which every layer is annotated; Lambda layers aren't.

    Raises:
      ConversionError: not a functional or sequential model, or one with models inside.
    """
    _check_model(to_annotate)

    def annotate(layer: Any) -> Any:
        if isinstance(layer, QuantizeAnnotate):
            return layer
        if isinstance(layer, keras.layers.Lambda):
            warnings.warn(f"Lambda layer {layer.name!r} stays in float", UserWarning, stacklevel=2)
            return layer
        if isinstance(layer, keras.Model):
            raise ConversionError(
                f"Keras model {to_annotate.name!r} holds the model {layer.name!r}, which can't be annotated: "
                "quantize_model takes models with models inside"
            )
        return QuantizeAnnotate(layer) if isinstance(layer, keras.layers.Layer) else layer

    return _with_layers(to_annotate, annotate)


def quantize_apply(model: Any, scheme: Any = None, quantized_layer_name_prefix: str = _PREFIX) -> Any:
    """A copy of an annotated model that trains with the device's rounding where it was annotated.

    Args:
      model: with layers from `quantize_annotate_layer`; it isn't changed.
      scheme: None, or `default_8bit.Default8BitQuantizeScheme()`.
      quantized_layer_name_prefix: as it is; layers keep their names.

    Raises:
      ConversionError: the model isn't built, or not functional or sequential.
      RecipeError: no layer is annotated, one is annotated that LiteRT has no integer op for, or another scheme.
    """
    _check_prefix(quantized_layer_name_prefix)
    if scheme is not None and not isinstance(scheme, Default8BitQuantizeScheme):
        raise RecipeError(f"the scheme {type(scheme).__name__} can't be honoured: {_BY_RECIPE}")
    _check_model(model)
    if not model.built:
        raise ConversionError(
            f"Keras model {model.name!r} isn't built: call it once, or start it with keras.Input(...)"
        )
    annotated = [layer.layer for layer in model.layers if isinstance(layer, QuantizeAnnotate)]
    if not annotated:
        raise RecipeError(f"Keras model {model.name!r} has no annotated layer: see quantize_annotate_layer")
    rules = [octavo.Rule(octavo.integer(), name=_pattern(name)) for layer in annotated for name in _parts(layer)]
    plain = _with_layers(model, lambda layer: layer.layer if isinstance(layer, QuantizeAnnotate) else layer)
    return octavo.qat.quantize_model(plain, octavo.Recipe(octavo.keep_float(), tuple(rules)))


def quantize_scope(*args: dict[str, Any]) -> Any:
    """A scope in which Keras knows the custom objects given; octavo's own layers it always knows."""
    known: dict[str, Any] = {}
    for objects in args:
        known.update(objects)
    return keras.saving.custom_object_scope(known)


class Default8BitQuantizeScheme:
    """Eight bits for weights and activations: what there is here."""


default_8bit = SimpleNamespace(Default8BitQuantizeScheme=Default8BitQuantizeScheme)


def _parts(layer: Any) -> list[str]:
    """The names under which `octavo.qat` knows a layer: a Dense with a softmax is two ops on the device."""
    parts = split(layer)
    for part in parts:
        if part.kind.row is None:
            raise RecipeError(
                f"layer {layer.name!r} ({type(layer).__name__}) is annotated, and LiteRT has no integer op for it: "
                "don't annotate it, or give its class an octavo_kind() method; see docs/qat.md"
            )
    return [part.layer.name for part in parts]


def _pattern(name: str) -> str:
    """A pattern that matches this name only."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _with_layers(model: Any, change: Callable[[Any], Any]) -> Any:
    """The same graph with other layers in it; layers that aren't changed are shared, with their weights."""
    if isinstance(model, keras.Sequential):
        return keras.models.clone_model(model, clone_function=change)

    def again(tensor: Any) -> Any:  # Keras would name inputs after tensors: keras_tensor_3
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor._keras_history.operation.name)

    return keras.models.clone_model(model, keras.tree.map_structure(again, model.input), clone_function=change)


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model) or not (isinstance(model, keras.Sequential) or is_functional(model)):
        raise ConversionError(f"{type(model).__name__} isn't a functional or sequential Keras 3 model")


def _check_prefix(prefix: str) -> None:
    if prefix != _PREFIX:
        raise RecipeError(f"quantized_layer_name_prefix={prefix!r} can't be honoured: layers keep their names")


_ELSEWHERE = {
    "QuantizeConfig": _BY_RECIPE,
    "quantizers": _BY_RECIPE,
    "QuantizeScheme": _BY_RECIPE,
    "QuantizeWrapper": "octavo.qat.QuantizedWeights",
    "QuantizeWrapperV2": "octavo.qat.QuantizedWeights",
    "collab_opts": "combinations with pruning and clustering aren't here",
    "experimental": "octavo.integer(weights=4) trains 4-bit weights",
}


def __getattr__(name: str) -> Any:
    hint = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise AttributeError(f"octavo.compat.tfmot.quantization.keras has no {name!r}{hint}")
