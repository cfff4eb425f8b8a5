"""What the scripts in the peers' own environments share: how they are called, and a network's copy in Keras layers.

Each is called with SOURCE SAMPLES.npz FOLDER MODE...: SOURCE is what `keras_copy.write` wrote or a `.tflite` file, and
what it makes in a mode goes to FOLDER/MODE.tflite. The last line that it prints is JSON: mode -> the seconds that this
took, or in a text why it failed. No script here imports octavo.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

ACTIVATIONS = {0: None, 1: "relu", 3: "relu6"}


def answer(make, prepare=str):
    """Do what the command line asks for: make(mode, prepare(SOURCE), samples) gives a file's bytes, and is timed."""
    source, samples, folder, *modes = sys.argv[1:]
    given, samples, said = prepare(source), dict(np.load(samples)), {}
    for mode in modes:
        try:
            start = time.perf_counter()
            content = make(mode, given, samples)
            said[mode] = time.perf_counter() - start
            Path(folder, f"{mode}.tflite").write_bytes(content)
        except Exception as error:  # a peer may fail in any way it likes
            said[mode] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print(f"\n{json.dumps(said)}", flush=True)


def read(path):
    """(the ops and shapes, the weights by name) of the copy at `path`."""
    return json.loads(Path(path).read_text()), dict(np.load(f"{path}.npz"))


def network(keras, path, batch=1):
    """The copy at `path` as a model of `keras`, which is Keras 3 or Keras 2; weights included."""
    spec, weights = read(path)
    tensors = {spec["input"]: keras.Input(spec["shape"][1:], batch_size=batch)}
    given = []
    for number, op in enumerate(spec["ops"]):
        inputs = [tensors[index] for index in op["inputs"]]
        kernel, bias = (weights.get(f"{number}/{part}") for part in ("kernel", "bias"))
        layer, kernel = _layer(keras.layers, op, kernel, inputs[0].shape)
        made = layer(inputs[0] if len(inputs) == 1 else inputs)
        act = ACTIVATIONS[op["options"].get("fusedActivationFunction", 0)]
        tensors[op["output"]] = keras.layers.Activation(act)(made) if op["code"] == "ADD" and act else made
        if kernel is not None:
            given.append((layer, [kernel, bias]))
    for layer, values in given:
        layer.set_weights(values)
    return keras.Model(tensors[spec["input"]], tensors[spec["output"]])


def _layer(layers, op, kernel, shape):
    """The layer of an op, and its kernel in Keras's order of axes."""
    options, code = op["options"], op["code"]
    act = ACTIVATIONS[options.get("fusedActivationFunction", 0)]
    strides = (options.get("strideH", 1), options.get("strideW", 1))
    padding = ("same", "valid")[options.get("padding", 0)]
    dilation = (options.get("dilationHFactor", 1), options.get("dilationWFactor", 1))
    common = {"strides": strides, "padding": padding, "dilation_rate": dilation, "activation": act}
    if code == "CONV_2D":
        return layers.Conv2D(kernel.shape[0], kernel.shape[1:3], **common), kernel.transpose(1, 2, 3, 0)
    if code == "DEPTHWISE_CONV_2D":
        size, channels = kernel.shape[1:3], shape[-1]
        multiplier = kernel.shape[3] // channels
        layer = layers.DepthwiseConv2D(size, depth_multiplier=multiplier, **common)
        return layer, kernel[0].reshape(*size, channels, multiplier)
    if code == "FULLY_CONNECTED":
        return layers.Dense(kernel.shape[0], activation=act), kernel.T
    if code == "MAX_POOL_2D":
        return layers.MaxPooling2D((options["filterHeight"], options["filterWidth"]), strides, padding), None
    if code == "MEAN":
        return layers.GlobalAveragePooling2D(keepdims=options.get("keepDims", False)), None
    if code == "RESHAPE":
        return layers.Reshape(op["shape"][1:]), None
    return layers.Add(), None
