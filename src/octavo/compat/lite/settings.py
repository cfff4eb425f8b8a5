"""What a converter can be told, and which `Scheme` that asks for. The rules are those of TensorFlow 2.21's
tensorflow/lite/python/lite.py (`QuantizationMode`); where it drops a request without a word, this warns or refuses.
"""

from __future__ import annotations

import difflib
import enum
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from octavo.compat.lite.dtypes import dtype_name
from octavo.errors import RecipeError
from octavo.recipe import IO, Scheme, dynamic_range, float16, integer


class Optimize(enum.Enum):
    """What to optimize for. `DEFAULT` quantizes; the two names for size and latency are old ones for the same."""

    DEFAULT = "DEFAULT"
    OPTIMIZE_FOR_SIZE = "OPTIMIZE_FOR_SIZE"
    OPTIMIZE_FOR_LATENCY = "OPTIMIZE_FOR_LATENCY"
    EXPERIMENTAL_SPARSITY = "EXPERIMENTAL_SPARSITY"

    def __str__(self) -> str:
        return self.value


class OpsSet(enum.Enum):
    """Sets of ops that the file may use. Without `TFLITE_BUILTINS`, an integer set means: integer or an error."""

    TFLITE_BUILTINS = "TFLITE_BUILTINS"
    SELECT_TF_OPS = "SELECT_TF_OPS"
    TFLITE_BUILTINS_INT8 = "TFLITE_BUILTINS_INT8"
    EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8 = (
        "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
    )
    EXPERIMENTAL_STABLEHLO_OPS = "EXPERIMENTAL_STABLEHLO_OPS"

    def __str__(self) -> str:
        return self.value

    @staticmethod
    def get_options() -> list[str]:
        """The names of all sets."""
        return [str(option) for option in OpsSet]


INT16X8 = OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8


class RepresentativeDataset:
    """Samples to calibrate with.

    Args:
      input_gen: a function without arguments that yields samples: lists of arrays in the order of the model's inputs,
        or dicts of arrays by input name.
    """

    def __init__(self, input_gen: Callable[[], Iterable[Any]]) -> None:
        self.input_gen = input_gen


ANY = object()


class Checked:
    """An object that refuses attributes it doesn't know, and values it can't honour.

    `SETTINGS` holds for each attribute the values that it may have, the default first; `ANY` leaves the check to
    whoever reads it.
    """

    SETTINGS: ClassVar[Mapping[str, Any]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        where = f"{type(self).__name__}.{name}"
        if name not in self.SETTINGS:
            close = difflib.get_close_matches(name, self.SETTINGS, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise AttributeError(f"{where} = {value!r}: there is no such setting{hint}")
        allowed = self.SETTINGS[name]
        if allowed is not ANY and not any(value is each or value == each for each in allowed):
            listed = " or ".join(map(repr, allowed))
            raise RecipeError(f"{where} = {value!r} can't be honoured here: leave it {listed}")
        super().__setattr__(name, value)


class TargetSpec(Checked):
    """What the target device can run.

    Attributes:
      supported_ops: `OpsSet`s; {TFLITE_BUILTINS} unless given.
      supported_types: element types; empty stands for int8.
    """

    SETTINGS: ClassVar[Mapping[str, Any]] = {
        "supported_ops": ANY,
        "supported_types": ANY,
        "experimental_select_user_tf_ops": (set(), [], (), None),
        "experimental_supported_backends": (None, set(), []),
        "_experimental_custom_op_registerers": ([],),
        "_experimental_supported_accumulation_type": (None,),
    }

    def __init__(
        self,
        supported_ops: Iterable[OpsSet] | None = None,
        supported_types: Iterable[Any] | None = None,
        experimental_select_user_tf_ops: Any = None,
        experimental_supported_backends: Any = None,
    ) -> None:
        self.supported_ops = {OpsSet.TFLITE_BUILTINS} if supported_ops is None else supported_ops
        self.supported_types = set() if supported_types is None else supported_types
        self.experimental_select_user_tf_ops = experimental_select_user_tf_ops
        self.experimental_supported_backends = experimental_supported_backends
        self._experimental_custom_op_registerers = []
        self._experimental_supported_accumulation_type = None


_BOTH = (False, True)
# The attributes of TensorFlow 2.21's converters.
CONVERTER: Mapping[str, Any] = {
    "optimizations": ANY,
    "representative_dataset": ANY,
    "target_spec": ANY,
    "inference_input_type": ANY,
    "inference_output_type": ANY,
    "_experimental_disable_per_channel": _BOTH,
    # Honoured whatever they are: there is nothing here that they would change.
    "allow_custom_ops": _BOTH,  # for SavedModels; a Keras model becomes builtin ops or an error
    "exclude_conversion_metadata": _BOTH,  # none is written
    "experimental_enable_resource_variables": (True, False),  # a model with state is refused
    "_experimental_lower_tensor_list_ops": (True, False),  # loops are lowered without tensor lists
    "experimental_lower_to_saved_model": (True, False),
    # TensorFlow's old implementations.
    "experimental_new_converter": (True,),
    "experimental_new_quantizer": (True,),
    "experimental_new_dynamic_range_quantizer": (True,),
    # What octavo has no counterpart for: TensorFlow's default, or an error.
    "experimental_use_stablehlo_quantizer": (False,),
    "experimental_stablehlo_quantizer_config": (None,),
    "unfold_batchmatmul": (False,),
    "legalize_custom_tensor_list_ops": (False,),
    "serialize_debug_metadata": (False,),
    "canonicalizing_inf_as_min_max_float": (True,),
    "_experimental_calibrate_only": (False,),
    "_experimental_sparsify_model": (False,),
    "_experimental_disable_per_channel_quantization_for_dense_layers": (False,),
    "_experimental_full_integer_quantization_bias_type": (None,),
    "_experimental_low_bit_qat": (False,),
    "_experimental_allow_all_select_tf_ops": (False,),
    "_experimental_variable_quantization": (False,),
    "_experimental_enable_dynamic_update_slice": (False,),
    "_experimental_unfold_large_splat_constant": (False,),
    "_experimental_use_buffer_offset": (False,),
    "_experimental_reduce_type_precision": (False,),
    "_experimental_strict_qdq": (False,),
}


@dataclass(frozen=True)
class Request:
    """A converter's settings, read and checked against each other.

    Attributes:
      optimize: whether anything is to be quantized.
      types: names of `target_spec.supported_types`.
      ops: `target_spec.supported_ops`.
      has_data: a representative dataset was given.
      io: `inference_input_type` and `inference_output_type`.
      per_channel: one weight scale per output channel.
    """

    optimize: bool
    types: frozenset[str]
    ops: frozenset[OpsSet]
    has_data: bool
    io: IO
    per_channel: bool

    def __post_init__(self) -> None:
        self._check_ops()
        if unknown := sorted(self.types - {"float32", "float16", "int8"}):
            raise RecipeError(f"target_spec.supported_types holds {unknown[0]}: choose among float32, float16, int8")
        if OpsSet.TFLITE_BUILTINS_INT8 in self.ops and len(self.ops) == 1 and self.types - {"int8"}:
            raise RecipeError(
                "target_spec.supported_ops is {TFLITE_BUILTINS_INT8}, so supported_types must be empty or {int8}, not "
                f"{{{', '.join(sorted(self.types))}}}"
            )
        if not self.optimize:
            self._check_float()

    @property
    def bits(self) -> int:
        """Of the activations."""
        return 16 if INT16X8 in self.ops else 8

    @property
    def fallback(self) -> bool:
        """Whether ops may stay in float."""
        return self.types != {"int8"} and bool(self.ops & {OpsSet.TFLITE_BUILTINS, OpsSet.SELECT_TF_OPS})

    @property
    def wants_integers(self) -> bool:
        """Whether an integer set of ops, or int8 as the only type, is asked for by name."""
        return self.types == {"int8"} or bool(self.ops & {OpsSet.TFLITE_BUILTINS_INT8, INT16X8})

    def scheme(self, trained: bool) -> Scheme | None:
        """What to make of the model; None leaves it in float.

        Args:
          trained: the model brings ranges along, from quantization-aware training.

        Raises:
          RecipeError: the settings contradict each other.
        """
        if not self.optimize:
            return None
        smallest = min(self.types or {"int8"}, key=lambda name: np.dtype(name).itemsize)
        if trained and smallest != "int8" and self.bits == 8:
            raise RecipeError(
                f"the model was trained for integers, but target_spec.supported_types asks for {smallest}: leave it "
                "empty, or convert the model as it was before quantize_model"
            )
        if trained or (self.has_data and (self.bits == 16 or not self.fallback or smallest == "int8")):
            return self._integer()
        if self.wants_integers:
            raise RecipeError("integer quantization needs representative data: set converter.representative_dataset")
        self._check_float_io()
        if smallest == "float16":
            return float16()
        if smallest == "float32":
            return None
        if not self.per_channel:
            raise RecipeError("_experimental_disable_per_channel can't be honoured for dynamic-range quantization")
        return dynamic_range()

    def unused(self, scheme: Scheme | None) -> list[str]:
        """What was said without effect, as sentences; TensorFlow leaves these out without a word."""
        if not self.optimize:
            why = "converter.optimizations is empty, so the model stays in float"
        else:
            why = f"target_spec.supported_types is {{{', '.join(sorted(self.types))}}}"
        said = {
            "representative_dataset": self.has_data and (scheme is None or scheme.kind != "integer"),
            "target_spec.supported_types": not self.optimize and bool(self.types - {"float32"}),
        }
        return [f"{setting} isn't used: {why}" for setting, dropped in said.items() if dropped]

    def _integer(self) -> Scheme:
        scheme = integer(self.fallback, self.io, activations=self.bits, per_channel=self.per_channel)
        # An op that stays in float keeps float weights, as in TensorFlow; octavo.quantize would store them as int8.
        return replace(scheme, min_elements=sys.maxsize)

    def _check_ops(self) -> None:
        if not self.ops:
            raise RecipeError("target_spec.supported_ops is empty: the default is [OpsSet.TFLITE_BUILTINS]")
        if OpsSet.EXPERIMENTAL_STABLEHLO_OPS in self.ops:
            raise RecipeError("OpsSet.EXPERIMENTAL_STABLEHLO_OPS can't be honoured: LiteRT ops are written")
        if self.ops == {OpsSet.SELECT_TF_OPS}:
            raise RecipeError(
                "OpsSet.SELECT_TF_OPS alone asks for TensorFlow's ops everywhere, which octavo doesn't write; allow "
                "OpsSet.TFLITE_BUILTINS too"
            )
        if {OpsSet.TFLITE_BUILTINS_INT8, INT16X8} <= self.ops:
            raise RecipeError("target_spec.supported_ops asks for int8 and for int16 activations: choose one set")

    def _check_float(self) -> None:
        """What may be said although nothing is quantized."""
        if self.wants_integers and not self.fallback:
            raise RecipeError(
                "integer ops are asked for, but converter.optimizations is empty, so nothing would be quantized: set "
                "converter.optimizations = [Optimize.DEFAULT]"
            )
        self._check_float_io()

    def _check_float_io(self) -> None:
        for side, dtype in (("input", self.io.input), ("output", self.io.output)):
            if dtype != "float32":
                raise RecipeError(
                    f"inference_{side}_type is {dtype}, which needs integer quantization: set optimizations = "
                    "[Optimize.DEFAULT] and representative_dataset, or leave it float32"
                )


def read(converter: Any) -> Request:
    """A converter's settings.

    Raises:
      RecipeError: a value is of the wrong kind, can't be honoured, or contradicts another.
    """
    spec = converter.target_spec
    chosen = _members(Optimize, converter.optimizations, "optimizations")
    if Optimize.EXPERIMENTAL_SPARSITY in chosen:
        raise RecipeError("Optimize.EXPERIMENTAL_SPARSITY can't be honoured: octavo writes dense weights")
    types = _several(spec.supported_types, "target_spec.supported_types", "[np.float16]")
    return Request(
        optimize=bool(chosen),
        types=frozenset(dtype_name(each, "target_spec.supported_types") for each in types),
        ops=_members(OpsSet, spec.supported_ops, "target_spec.supported_ops"),
        has_data=converter.representative_dataset is not None,
        io=IO(
            dtype_name(converter.inference_input_type, "inference_input_type"),
            dtype_name(converter.inference_output_type, "inference_output_type"),
        ),
        per_channel=not converter._experimental_disable_per_channel,
    )


def _members(kind: Any, values: Any, setting: str) -> frozenset[Any]:
    """Values of an enumeration: members, TensorFlow's members of the same name, or the names."""
    example = f"[{kind.__name__}.{next(iter(kind)).name}]"
    found = set()
    for value in _several(values, setting, example):
        try:
            found.add(kind(getattr(value, "value", value)))
        except ValueError:
            raise RecipeError(f"{setting}: {value!r} is none of {', '.join(each.name for each in kind)}") from None
    return frozenset(found)


def _several(values: Any, setting: str, example: str) -> Iterable[Any]:
    if isinstance(values, list | tuple | set | frozenset):
        return values
    raise RecipeError(f"{setting} must be a list or a set, such as {example}, not {values!r}")
