"""`quantize_model`: a Keras model in, the same model out with the device's rounding in it."""

from __future__ import annotations

from typing import Any

import keras

from octavo.errors import ConversionError, RecipeError
from octavo.qat.layers import FakeQuant, FixedQuant, QuantizedWeights
from octavo.qat.place import Placement, Site, place
from octavo.qat.trace import Step, Trace, Value, functional, is_functional, trace
from octavo.recipe import Recipe, Scheme, integer

_BY_HAND = (
    "put octavo.qat.FakeQuant() after each tensor and octavo.qat.QuantizedWeights(layer, {'kernel': (-1,)}) around "
    "each layer with weights, or build it with the functional API"
)


def quantize_model(
    model: Any,
    recipe: Recipe | Scheme | None = None,
    samples: Any = None,
    *,
    learned: bool = False,
    decay: float = 0.99,
) -> Any:
    """A copy of a Keras model that computes, and trains, with the rounding of the device.

    Compile, fit, save and load it as any Keras model. `octavo.convert` makes a `.tflite` model of it with the ranges
    that were learned, and `octavo.quantize(..., octavo.integer())` then needs no calibration data.

    Args:
      model: built, functional or sequential; nested models too. It isn't changed; its weights are copied.
      recipe: `octavo.integer()` unless given, or a `Recipe` whose rules name layers, or kinds of LiteRT ops.
      samples: representative inputs; with them the ranges start from what these show instead of from the first batches.
      learned: train the ranges by gradient (LSQ) instead of by moving average; needs `samples`.
      decay: of the moving average, per batch.

    Returns:
      A functional model, not compiled, with the inputs and outputs of `model`.

    Raises:
      ConversionError: the model isn't built, isn't a graph of layers, or doesn't compute in float32.
      RecipeError: a recipe that training can't follow.
    """
    wanted = _checked_recipe(Recipe.of(recipe if recipe is not None else integer()))
    _check_model(model)
    if learned and samples is None:
        raise RecipeError("learned=True needs samples=: ranges that are trained must start from ranges that were seen")
    traced = trace(model)
    _check_rules(traced, wanted)
    placement = place(traced, wanted)
    _check_folding(placement)
    aware = _Builder(traced, placement, learned, decay).build(model)
    for part in dict.fromkeys(step.part for step in traced.steps):
        part.load()
    if samples is not None:
        from octavo.qat.calibration import calibrate

        calibrate(aware, samples)
    return aware


def _checked_recipe(recipe: Recipe) -> Recipe:
    for scheme in (recipe.scheme, *(rule.scheme for rule in recipe.rules)):
        if scheme.kind not in ("integer", "float32"):
            raise RecipeError(
                f"training can't follow the scheme {scheme.kind!r}: use octavo.integer() and octavo.keep_float()"
            )
    return recipe


def _check_rules(traced: Trace, recipe: Recipe) -> None:
    for rule in recipe.rules:
        if not any(rule.matches(step.part.kind.op, step.name) for step in traced.steps):
            raise RecipeError(f"a rule matches no layer: kind={rule.kind!r}, name={rule.name!r}; see model.summary()")


def _check_folding(placement: Placement) -> None:
    """Refuse one scale for all channels where batch normalization will give each channel a factor of its own."""
    for step in placement.folded:
        scheme = placement.weights.get(step)
        if scheme is not None and not scheme.per_channel:
            raise RecipeError(
                f"layer {step.name!r} has a batch normalization behind it, which gives each channel a factor, so its "
                "weights can't be trained with one scale for all: use per_channel=True, or fold it into the layer first"
            )


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise ConversionError(f"{type(model).__name__} is not a Keras 3 model, so it can't be trained quantized")
    where = f"Keras model {model.name!r}"
    if not model.built:
        raise ConversionError(f"{where} isn't built: call it once, or start it with keras.Input(...)")
    if not is_functional(model):
        raise ConversionError(f"{where} ({type(model).__name__}) is subclassed, so its graph isn't known: {_BY_HAND}")
    for layer in model._flatten_layers():
        if isinstance(layer, FakeQuant | FixedQuant | QuantizedWeights):
            raise ConversionError(f"{where} is quantization-aware already: layer {layer.name!r} is octavo's")
        policy = layer.dtype_policy
        if getattr(policy, "quantization_mode", None) or policy.compute_dtype != "float32":
            raise ConversionError(
                f"{where}: layer {layer.name!r} has the policy {policy.name!r}; quantization-aware training works in "
                "float32: build the model under keras.config.set_dtype_policy('float32') and load its weights"
            )


class _Builder:
    """Calls the parts again, in order, with rounding in between."""

    def __init__(self, traced: Trace, placement: Placement, learned: bool, decay: float) -> None:
        self.traced, self.placement = traced, placement
        self.learned, self.decay = learned, decay
        self.quants: dict[Site, Any] = {}
        self.wrapped: dict[int, Any] = {}
        self.known: dict[Value, Any] = {}

    def build(self, model: Any) -> Any:
        function = functional(model)
        inputs = [
            keras.Input(batch_shape=t.shape, dtype=t.dtype, name=v.name, sparse=t.sparse)
            for t, v in zip(function.inputs, self.traced.inputs, strict=True)
        ]
        for value, tensor in zip(self.traced.inputs, inputs, strict=True):
            self.known[value] = self._rounded(value, tensor)
        for step in self.traced.steps:
            self._run(step)
        outputs = [self.known[value] for value in self.traced.outputs]
        tree = keras.tree
        return keras.Model(
            tree.pack_sequence_as(function._inputs_struct, inputs),
            tree.pack_sequence_as(function._outputs_struct, outputs),
            name=model.name,
        )

    def _run(self, step: Step) -> None:
        def tensor_of(leaf: Any) -> Any:
            return self._operand(step, leaf) if isinstance(leaf, Value) else leaf

        operands: Any = keras.tree.map_structure(tensor_of, (step.args, step.kwargs))
        args, kwargs = operands
        outputs: Any = keras.tree.flatten(self._layer(step)(*args, **kwargs))
        for value, tensor in zip(step.outputs, outputs, strict=True):
            self.known[value] = self._rounded(value, tensor)

    def _layer(self, step: Step) -> Any:
        """The step's layer, with rounded weights if it has any."""
        scheme, part = self.placement.weights.get(step), step.part
        if scheme is None or scheme.weights is None:
            return part.layer
        if id(part) not in self.wrapped:
            axes = {key: axes if scheme.per_channel else None for key, axes in part.kind.weights.items()}
            self.wrapped[id(part)] = QuantizedWeights(part.layer, axes, scheme.weights.bits, name=part.layer.name)
        return self.wrapped[id(part)]

    def _operand(self, step: Step, value: Value) -> Any:
        """The tensor that a step reads; requantized where the kernel that made it gave it another scale."""
        tensor = self.known[value]
        if value not in self.placement.made_fixed or step in self.placement.weights:
            return tensor
        site = self.placement.sites[value]
        tied = any(output in site.values for output in step.outputs)
        return self._quant(site)(tensor, slot=site.observed.index(value)) if tied else tensor

    def _rounded(self, value: Value, tensor: Any) -> Any:
        site = self.placement.sites.get(value)
        if site is None:
            return tensor
        if value in self.placement.made_fixed:
            return FixedQuant(*self.placement.made_fixed[value], _bits(site), name=f"{value.name}_quant")(tensor)
        slots = [*site.observed, *site.tied]
        if value not in slots:
            return tensor
        return self._quant(site)(tensor, slot=slots.index(value))

    def _quant(self, site: Site) -> Any:
        """The layer that rounds to the codes of a site; one for all its tensors."""
        if site not in self.quants:
            assert site.scheme is not None and site.scheme.activations is not None
            name = f"{(site.observed or site.tied)[0].name}_quant"
            if site.fixed is not None:
                self.quants[site] = FixedQuant(*site.fixed, _bits(site), name=name)
            else:
                qtype = site.scheme.activations
                self.quants[site] = FakeQuant(
                    [v.name for v in site.observed], [v.name for v in site.tied], qtype.bits, qtype.symmetric,
                    self.decay, self.learned, name=name,
                )  # fmt: skip
        return self.quants[site]


def _bits(site: Site) -> int:
    assert site.scheme is not None and site.scheme.activations is not None
    return site.scheme.activations.bits
