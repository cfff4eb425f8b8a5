"""TFLiteConverter on a Keras copy of a network, in the peers' own environment: COPY SAMPLES.npy OUT.tflite MODE.

COPY is what `keras_copy.write` wrote: the ops as JSON, the weights beside it. MODE is "float", "W8A8",
"W8A8 per tensor" or "W8A16". Prints the seconds that the conversion took.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
import keras
import numpy as np
import tensorflow as tf

ACTIVATIONS = {0: None, 1: "relu", 3: "relu6"}


def copied(spec, weights):
    """The network in Keras layers, with its weights."""
    tensors = {spec["input"]: keras.Input(spec["shape"][1:], batch_size=1)}
    given = []
    for number, op in enumerate(spec["ops"]):
        options, inputs = op["options"], [tensors[index] for index in op["inputs"]]
        kernel, bias = (weights.get(f"{number}/{part}") for part in ("kernel", "bias"))
        act = ACTIVATIONS[options.get("fusedActivationFunction", 0)]
        common = {
            "strides": (options.get("strideH", 1), options.get("strideW", 1)),
            "padding": ("same", "valid")[options.get("padding", 0)],
            "dilation_rate": (options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)),
            "activation": act,
        }
        if op["code"] == "CONV_2D":
            layer = keras.layers.Conv2D(kernel.shape[0], kernel.shape[1:3], **common)
            given.append((layer, [kernel.transpose(1, 2, 3, 0), bias]))
        elif op["code"] == "DEPTHWISE_CONV_2D":
            channels = inputs[0].shape[-1]
            multiplier = kernel.shape[3] // channels
            layer = keras.layers.DepthwiseConv2D(kernel.shape[1:3], depth_multiplier=multiplier, **common)
            given.append((layer, [kernel[0].reshape(*kernel.shape[1:3], channels, multiplier), bias]))
        elif op["code"] == "FULLY_CONNECTED":
            layer = keras.layers.Dense(kernel.shape[0], activation=act)
            given.append((layer, [kernel.T, bias]))
        elif op["code"] == "MEAN":
            layer = keras.layers.GlobalAveragePooling2D(keepdims=options.get("keepDims", False))
        elif op["code"] == "RESHAPE":
            layer = keras.layers.Reshape(op["shape"][1:])
        else:
            layer = keras.layers.Add()
        made = layer(inputs[0] if len(inputs) == 1 else inputs)
        tensors[op["output"]] = keras.layers.Activation(act)(made) if op["code"] == "ADD" and act else made
    for layer, values in given:
        layer.set_weights(values)
    return keras.Model(tensors[spec["input"]], tensors[spec["output"]])


def main():
    copy, samples, out, mode = sys.argv[1:]
    spec = json.loads(Path(copy).read_text())
    rows = np.load(samples)
    model = copied(spec, dict(np.load(f"{copy}.npz")))
    start = time.perf_counter()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if mode != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in rows)
    if mode == "W8A16":
        sixteen = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [sixteen]
    if mode == "W8A8 per tensor":
        converter._experimental_disable_per_channel = True
    content = converter.convert()
    Path(out).write_bytes(content)
    print(f"{time.perf_counter() - start:.1f}")


main()
