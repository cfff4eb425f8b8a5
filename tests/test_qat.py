"""Quantization-aware training: the aware model computes what the file computes."""

from __future__ import annotations

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import octavo
import qat_models
from octavo import numerics
from octavo.graph import DType
from octavo.graph.queries import recorded_range, recorded_ranges
from octavo.graph.verify import verify
from octavo.ops import OPS, Tie
from octavo.qat import (
    FakeQuant,
    FixedQuant,
    Freeze,
    QuantizedWeights,
    calibrate,
    kinds,
    parity,
    quantize_model,
    rounding,
)
from octavo.qtypes import INT4_WEIGHT, INT8, INT8_WEIGHT, INT16

MODELS = {
    "residual": (qat_models.residual, 1.0),
    "activations": (qat_models.activations, 1.0),
    "siamese": (qat_models.siamese, 1.0),
    "preactivation": (qat_models.preactivation, 60.0),
    "signal": (qat_models.signal, 1.0),
}
INTEGER_ONLY = octavo.integer(fallback=False, io="uint8")


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def small_conv() -> keras.Model:
    image = keras.Input((8, 8, 2), name="image")
    x = keras.layers.BatchNormalization(name="b1")(keras.layers.Conv2D(4, 3, use_bias=False, name="c1")(image))
    x = keras.layers.Flatten(name="flat")(keras.layers.ReLU(name="r1")(x))
    return keras.Model(image, keras.layers.Dense(3, name="out")(x), name="small_conv")


def small_dense(activation: str | None = None) -> keras.Model:
    x = keras.Input((6,), name="x")
    return keras.Model(x, keras.layers.Dense(4, activation=activation, name="dense")(x))


# ---------------------------------------------------------------- the certificate


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_agrees_with_the_device(name):
    build, scale = MODELS[name]
    aware = qat_models.settle(quantize_model(build()), scale)
    small = octavo.quantize(octavo.convert(aware), INTEGER_ONLY)
    verify(small.program)
    assert small.integer_only
    found = parity(aware, small, qat_models.inputs(aware, 8, seed=9, scale=scale))
    assert found.holds, str(found)
    assert found.samples == 8
    assert len(found.layers) == len([n for n in found.layers if n.step > 0]) > 3
    assert "parity holds" in str(found)


def test_every_layer_agrees_after_training():
    aware = quantize_model(qat_models.residual())
    qat_models.fit(aware)
    found = parity(aware, INTEGER_ONLY, qat_models.inputs(aware, 8, seed=9))
    assert found.holds, str(found)


def test_parity_tells_when_it_does_not_hold():
    aware = qat_models.settle(quantize_model(qat_models.residual()))
    small = octavo.quantize(octavo.convert(aware), INTEGER_ONLY)
    aware.get_layer("c3").layer.kernel.assign(aware.get_layer("c3").layer.kernel * 0.5)
    found = parity(aware, small, qat_models.inputs(aware, 4, seed=9))
    assert not found.holds
    assert max(found.layers, key=lambda layer: layer.own).name == "c3"
    assert "parity does not hold" in str(found)


def test_names_of_inputs_and_outputs_are_the_float_models():
    model = qat_models.siamese()
    aware = quantize_model(model, samples=qat_models.inputs(model, 4))
    want, got = octavo.Runner(octavo.convert(model)), octavo.Runner(octavo.convert(aware))
    assert [port.name for port in got.inputs] == [port.name for port in want.inputs]
    assert [port.name for port in got.outputs] == [port.name for port in want.outputs]


# ---------------------------------------------------------------- where values are rounded


def rounded(aware: keras.Model) -> list[str]:
    quants = [layer for layer in aware.layers if isinstance(layer, FakeQuant | FixedQuant)]
    return sorted(
        name for q in quants for name in ([*q.tensors, *q.tied] if isinstance(q, FakeQuant) else [q.slot_name(0)])
    )


def test_nothing_is_rounded_inside_a_fused_op():
    assert rounded(quantize_model(qat_models.residual())) == sorted(
        # not: c1, b1, c2, add, dw, b3, d1, b4 (fused), cat (copies codes), dropout
        ["image", "r1", "b2", "r2", "r3", "c3", "pool", "sep_depthwise", "sep", "gap", "r4", "probs_linear", "probs"]
    )


def test_tensors_that_are_concatenated_share_one_range():
    aware = quantize_model(qat_models.residual())
    shared = next(q for q in aware.layers if isinstance(q, FakeQuant) and "r3" in q.tensors)
    assert (sorted(shared.tensors), shared.tied) == (["c3", "r3"], ["pool"])
    qat_models.settle(aware)
    small = octavo.quantize(octavo.convert(aware), INTEGER_ONLY)
    scales = {t.name: t.qparams for t in small.program.main.tensors if t.name in ("r3", "c3", "cat", "pool")}
    assert len(set(scales.values())) == 1
    assert scales["r3"] == shared.qparams


def test_a_kernels_fixed_scale_is_used():
    layers = {layer.name: layer for layer in quantize_model(small_dense("softmax")).layers}
    assert isinstance(layers["dense_quant"], FixedQuant)
    assert (layers["dense_quant"].scale, layers["dense_quant"].zero_point) == OPS["SOFTMAX"].fixed[8]


@pytest.mark.parametrize("name", sorted(set(kinds.KINDS)))
def test_table_names_rows_and_keras_classes(name):
    from keras.src.ops import nn, numpy

    assert hasattr(keras.layers, name) or hasattr(numpy, name) or hasattr(nn, name)
    entry = kinds.KINDS[name]
    assert not isinstance(entry, kinds.Kind) or entry.op in OPS or entry == kinds.FLOAT


def test_facts_come_from_the_rows():
    fusing = {name for name, row in OPS.items() if row.int8 is not None and kinds.fuses_activation(row)}
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL", "SUB", "TRANSPOSE_CONV"} <= fusing
    assert {name for name, row in OPS.items() if row.int8 is not None and kinds.is_clamp(row)} == {
        "RELU", "RELU6", "RELU_N1_TO_1"
    }  # fmt: skip
    assert kinds.copies_codes(OPS["MAX_POOL_2D"])
    assert not kinds.copies_codes(OPS["AVERAGE_POOL_2D"])
    assert OPS["AVERAGE_POOL_2D"].tie is Tie.SAME


def test_recipe_keeps_a_layer_in_float():
    recipe = octavo.Recipe(octavo.integer(), (octavo.Rule(octavo.keep_float(), name="d1"),))
    aware = quantize_model(qat_models.residual(), recipe)
    assert not isinstance(aware.get_layer("d1"), QuantizedWeights)
    assert isinstance(aware.get_layer("c1"), QuantizedWeights)


def test_a_layer_of_ones_own_says_what_it_is():
    @keras.saving.register_keras_serializable("tests")
    class Scaled(keras.layers.Dense):
        def call(self, inputs, training=None):
            return super().call(inputs, training) * 2.0

    class Told(Scaled):
        def octavo_kind(self):
            return kinds.Kind("FULLY_CONNECTED", {"kernel": (-1,)})

    x = keras.Input((6,))
    assert not isinstance(quantize_model(keras.Model(x, Scaled(4, name="s")(x))).get_layer("s"), QuantizedWeights)
    assert isinstance(quantize_model(keras.Model(x, Told(4, name="s")(x))).get_layer("s"), QuantizedWeights)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 1.0), (0.0, 6.0), (-0.3, 2.7), (-5.0, 0.0), (0.0, 0.0), (-3e-41, 1e-41)]
)
@pytest.mark.parametrize("qtype", [INT8, INT16], ids=["int8", "int16"])
def test_codes_of_activations_are_numerics_codes(low, high, qtype):
    x = np.random.default_rng(0).uniform(low - 1, high + 1, 500).astype(np.float32)
    qparams = numerics.activation_params(low, high, qtype)
    scale, zero_point = rounding.range_params(ops.convert_to_tensor(low), ops.convert_to_tensor(high), qtype)
    got = ops.convert_to_numpy(rounding.quantize_activation(x, scale, zero_point, qtype))
    want = numerics.dequantize(numerics.quantize(x, qparams, qtype), qparams)
    assert float(zero_point) == qparams.zero_point[0]
    ties = np.abs(x / qparams.scale[0] % 1 - 0.5) < 1e-2
    np.testing.assert_allclose(got[~ties], want[~ties], rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("qtype", [INT8_WEIGHT, INT4_WEIGHT], ids=["int8", "int4"])
@pytest.mark.parametrize("axes", [(-1,), (-2, -1), None], ids=str)
def test_rounded_weights_are_numerics_weights(qtype, axes):
    w = np.random.default_rng(1).normal(size=(3, 3, 4, 2)).astype(np.float32)
    w[..., 0, 0] = 0  # a dead channel
    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw")
    layer.build((None, 8, 8, 4))
    layer.kernel.assign(w)
    wrapper = QuantizedWeights(layer, {"kernel": axes}, qtype.bits)
    got = ops.convert_to_numpy(rounding.quantize_weights(layer.kernel.value, qtype, axes))
    np.testing.assert_allclose(got, wrapper.rounded_values(layer.kernel, axes), rtol=1e-5, atol=1e-7)
    flat = {None: w.reshape(-1, 1), (-1,): w.reshape(-1, 2), (-2, -1): w.reshape(9, 8)}[axes]
    params = numerics.weight_params(flat, qtype, 1)
    want = numerics.dequantize(numerics.quantize(flat, params, qtype), params)
    np.testing.assert_allclose(wrapper.rounded_values(layer.kernel, axes).reshape(want.shape), want, rtol=1e-6)


def test_gradients_pass_straight_through_inside_the_range():
    import jax

    def loss(x):
        return ops.sum(rounding.quantize_activation(x, 0.1, 0.0, INT8) * 3.0)

    grad = jax.grad(loss)(np.array([-20.0, -1.03, 0.0, 5.02, 20.0], np.float32))
    np.testing.assert_allclose(grad, [0, 3, 3, 3, 0], atol=1e-6)
    weights = jax.grad(lambda w: ops.sum(rounding.quantize_weights(w, INT8_WEIGHT, None) * 2.0))(
        np.ones((2, 2), np.float32)
    )
    np.testing.assert_allclose(weights, 2.0)


# ---------------------------------------------------------------- ranges


def test_first_batches_count_equally_and_then_old_ones_fade():
    layer = FakeQuant(decay=0.5)
    for high in (1.0, 3.0):
        layer(np.array([0.0, high], np.float32), training=True)
    assert layer.bounds() == (0.0, 2.0)
    layer(np.array([0.0, 8.0], np.float32), training=True)
    assert layer.bounds() == (0.0, 5.0)


def test_a_model_that_saw_nothing_computes_in_float_but_cannot_be_converted():
    model = small_dense()
    aware = quantize_model(model)
    x = qat_models.inputs(model, 4)
    w = aware.get_layer("dense").layer.kernel
    w.assign(aware.get_layer("dense").rounded_values(w, (-1,)))
    model.get_layer("dense").kernel.assign(w.numpy().copy())
    np.testing.assert_allclose(aware.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(octavo.ConversionError, match=r"x_quant has seen no data.*calibrate\(model, samples\)"):
        octavo.convert(aware)


def test_calibration_notes_lowest_and_highest_value():
    model = small_dense()
    x = qat_models.inputs(model, 50)
    aware = calibrate(quantize_model(model), x)
    assert aware.get_layer("x_quant").bounds() == pytest.approx((x.min(), x.max()))
    y = model.predict(x, verbose=0)
    assert aware.get_layer("dense_quant").bounds() == pytest.approx((y.min(), y.max()), rel=0.05)


def test_learned_ranges_move_and_hold_parity():
    model = small_conv()
    with pytest.raises(octavo.RecipeError, match="learned=True needs samples="):
        quantize_model(model, learned=True)
    aware = quantize_model(model, samples=qat_models.inputs(model, 16), learned=True)
    before = aware.get_layer("r1_quant").bounds()
    qat_models.fit(aware)
    assert aware.get_layer("r1_quant").bounds() != before
    small = octavo.quantize(octavo.convert(aware), INTEGER_ONLY)
    assert parity(aware, small, qat_models.inputs(aware, 4, seed=9)).holds


def test_freeze_stops_statistics_first_and_then_ranges():
    aware = quantize_model(small_conv())
    noted = []

    def note(epoch, logs):
        noted.append((aware.get_layer("r1_quant").bounds(), aware.get_layer("b1").moving_mean.numpy()))

    watch = keras.callbacks.LambdaCallback(on_epoch_end=note)
    qat_models.fit(aware, epochs=4, callbacks=[Freeze(statistics=0.25, ranges=0.5), watch])
    moved = [not np.array_equal(a[1], b[1]) for a, b in itertools.pairwise(noted)]
    assert moved == [False, False, False]
    assert [a[0] != b[0] for a, b in itertools.pairwise(noted)] == [True, False, False]
    small = octavo.quantize(octavo.convert(aware), INTEGER_ONLY)
    assert parity(aware, small, qat_models.inputs(aware, 4, seed=9)).holds
    with pytest.raises(octavo.DataError, match="statistics=3: a share"):
        Freeze(statistics=3)


# ---------------------------------------------------------------- the file


def test_ranges_survive_saving(tmp_path):
    aware = quantize_model(small_dense(), samples=qat_models.inputs(small_dense(), 8))
    converted = octavo.convert(aware)
    assert not any(op.code == "STABLEHLO_COMPOSITE" for op in converted.program.ops())
    assert len(converted.program.graphs) == 1
    converted.save(tmp_path / "float.tflite")
    again = octavo.load(tmp_path / "float.tflite")
    assert sorted(recorded_ranges(again.program).values()) == sorted(recorded_ranges(converted.program).values())
    assert bytes(octavo.quantize(again, INTEGER_ONLY)) == bytes(octavo.quantize(converted, INTEGER_ONLY))


def test_learned_ranges_win_over_samples_which_fill_the_gaps():
    x = keras.Input((6,), name="x")
    y = keras.layers.Dense(4, name="dense")(x)
    model = keras.Model(x, ops.exp(keras.layers.LayerNormalization(name="norm")(y)))
    data = qat_models.inputs(model, 16)
    aware = quantize_model(model, samples=data)
    converted = octavo.convert(aware)
    small = octavo.quantize(converted, octavo.integer(), calibration=data * 10)
    recorded = {t.name: recorded_range(t) for t in converted.program.main.tensors if recorded_range(t)}
    dense = next(t for t in small.program.main.tensors if t.name == "dense")
    low, high = recorded["dense"]
    assert dense.qparams == numerics.activation_params(low, high, INT8)
    with_data = small.summary().counts.get("int8", 0)
    assert with_data > octavo.quantize(converted, octavo.integer()).summary().counts.get("int8", 0)


def test_a_float_model_without_ranges_still_needs_samples():
    with pytest.raises(octavo.RecipeError, match="needs representative data"):
        octavo.quantize(octavo.convert(small_dense()), octavo.integer())


def test_a_jax_function_can_carry_the_marks():
    w = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    def fn(x):
        return octavo.fake_quant(octavo.fake_quant(x, -2.0, 2.0) @ w, -8.0, 8.0)

    np.testing.assert_allclose(octavo.fake_quant(np.float32([0.013, 9.0]), 0.0, 2.55), [0.01, 2.55], atol=1e-6)
    small = octavo.quantize(octavo.convert(fn, inputs=[(1, 6)]), INTEGER_ONLY)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 6)).astype(np.float32)
    np.testing.assert_allclose(octavo.Runner(small)(x), x @ w, atol=0.15)


def test_a_model_of_another_backend_is_converted_by_a_process_of_its_own():
    from octavo.frontends import other_backends
    from octavo.passes.fake_quant_marks import fake_quant_marks

    aware = quantize_model(small_dense(), samples=qat_models.inputs(small_dense(), 8))
    program = other_backends.convert(aware, batch=1, where="mine")
    fake_quant_marks(program)
    here = octavo.convert(aware).program
    assert sorted(recorded_ranges(program).values()) == sorted(recorded_ranges(here).values())
    assert [op.code for op in program.ops()] == [op.code for op in here.ops()]
    with pytest.raises(octavo.ConversionError, match=r"^mine can.t be converted .*has seen no data"):
        other_backends.convert(quantize_model(small_dense()), batch=1, where="mine")


def test_dynamic_batch():
    model = qat_models.residual()
    aware = quantize_model(model, samples=qat_models.inputs(model, 8))
    small = octavo.quantize(octavo.convert(aware, batch=None), INTEGER_ONLY)
    x = qat_models.inputs(model, 3)
    np.testing.assert_allclose(octavo.Runner(small)(x), aware.predict(x, verbose=0), atol=2 / 256)


def test_four_bit_weights_have_fifteen_values():
    scheme = octavo.integer(fallback=False, io="uint8", weights=4)
    aware = qat_models.settle(quantize_model(qat_models.residual(), scheme))
    small = octavo.quantize(octavo.convert(aware), scheme)
    dense = next(op for op in small.program.main.ops if op.code == "FULLY_CONNECTED")
    assert dense.inputs[1].dtype is DType.INT4
    assert np.abs(numerics.unpack_int4(dense.inputs[1].data, dense.inputs[1].size)).max() == 7
    assert parity(aware, small, qat_models.inputs(aware, 4, seed=9), kernels="builtin").holds


# ---------------------------------------------------------------- saving


def test_loads_in_a_fresh_process_and_goes_on_training(tmp_path):
    aware = quantize_model(small_conv())
    qat_models.fit(aware)
    aware.save(tmp_path / "aware.keras")
    x = qat_models.inputs(aware, 4, seed=5)
    np.savez(tmp_path / "data.npz", x=x, y=aware.predict(x, verbose=0))
    program = f"""
import octavo, sys
assert "keras" not in sys.modules
import keras, numpy as np
aware = keras.saving.load_model({str(tmp_path / "aware.keras")!r}, safe_mode=True)
data = np.load({str(tmp_path / "data.npz")!r})
np.testing.assert_allclose(aware.predict(data["x"], verbose=0), data["y"], atol=1e-5)
steps = int(aware.optimizer.iterations)
aware.fit(data["x"], data["y"], verbose=0)
assert int(aware.optimizer.iterations) == steps + 1 > 1
small = octavo.quantize(octavo.convert(aware), octavo.integer(fallback=False, io="uint8"))
assert octavo.qat.parity(aware, small, data["x"]).holds
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert bytes(octavo.convert(tmp_path / "aware.keras")) == bytes(octavo.convert(aware))


def test_the_original_is_not_touched():
    model = small_conv()
    before = [w.numpy() for w in model.weights]
    qat_models.fit(quantize_model(model))
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.weights, strict=True))


def test_frozen_layers_stay_frozen():
    model = small_dense()
    model.get_layer("dense").trainable = False
    aware = quantize_model(model)
    assert aware.trainable_variables == []


# ---------------------------------------------------------------- refusals


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)])


def subclassed():
    class Mine(keras.Model):
        def call(self, x):
            return x

    model = Mine()
    model(np.zeros((1, 2), np.float32))
    return model


def half_precision():
    x = keras.Input((6,))
    return keras.Model(x, keras.layers.Dense(4, dtype="mixed_float16", name="half")(x))


def aware_already():
    return quantize_model(small_dense())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (unbuilt, "isn't built"),
        (subclassed, r"subclassed, so its graph isn't known: put octavo.qat.FakeQuant\(\) after each tensor"),
        (half_precision, "layer 'half' has the policy 'mixed_float16'"),
        (aware_already, "quantization-aware already"),
        (lambda: "model", "str is not a Keras 3 model"),
    ],
)
def test_refuses_what_it_cannot_train(build, message):
    with pytest.raises(octavo.ConversionError, match=message) as error:
        quantize_model(build())
    assert "\n" not in str(error.value)


def test_refuses_recipes_that_training_cannot_follow():
    with pytest.raises(octavo.RecipeError, match="can't follow the scheme 'float16'"):
        quantize_model(small_dense(), octavo.float16())
    with pytest.raises(octavo.RecipeError, match="layer 'c1' has a batch normalization behind it"):
        quantize_model(small_conv(), octavo.integer(per_channel=False))
    quantize_model(small_dense(), octavo.integer(per_channel=False))
    recipe = octavo.Recipe(octavo.integer(), (octavo.Rule(octavo.keep_float(), name="nowhere"),))
    with pytest.raises(octavo.RecipeError, match="a rule matches no layer"):
        quantize_model(small_dense(), recipe)
