"""A copy that `keras_copy.write` wrote, as ONNX: channels first and SAME_UPPER padding, as exporters write it."""

import numpy as np
import peer_side
from onnx import TensorProto, checker, helper, numpy_helper

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # NHWC -> NCHW, and back


class Graph:
    """The nodes and weights of a graph under construction; the layout of every tensor of four axes is NCHW."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def node(self, kind, *inputs, **attributes):
        """Add a node; returns the name of what it gives out."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def activated(self, name, op):
        kind = peer_side.ACTIVATIONS[op["options"].get("fusedActivationFunction", 0)]
        if kind == "relu6":
            return self.node("Clip", name, self.constant(np.float32(0)), self.constant(np.float32(6)))
        return self.node("Relu", name) if kind else name

    def reshaped(self, name, before, after):
        """A reshape of what is NHWC in the file of the copy."""
        if len(before) == 4 and before[3] > 1 and before[1] * before[2] > 1:
            name = self.node("Transpose", name, perm=LAST)
        if len(after) != 4:
            return self.node("Reshape", name, self.constant(np.array(after, np.int64)))
        if after[3] == 1 or after[1] * after[2] == 1:  # the same bytes in both layouts
            return self.node("Reshape", name, self.constant(np.array(after, np.int64)[list(FIRST)]))
        name = self.node("Reshape", name, self.constant(np.array(after, np.int64)))
        return self.node("Transpose", name, perm=FIRST)

    def windowed(self, op, kind, *inputs, **attributes):
        """A convolution or a pool, with strides and padding."""
        options = op["options"]
        strides = [options.get("strideH", 1), options.get("strideW", 1)]
        pad = ("SAME_UPPER", "VALID")[options.get("padding", 0)]
        return self.node(kind, *inputs, strides=strides, auto_pad=pad, **attributes)

    def convolution(self, op, name, kernel, bias):
        options = op["options"]
        depthwise = op["code"] == "DEPTHWISE_CONV_2D"
        weights = kernel.transpose((3, 0, 1, 2) if depthwise else FIRST)
        groups = kernel.shape[3] // options.get("depthMultiplier", 1) if depthwise else 1
        dilations = [options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)]
        inputs = (name, self.constant(weights), self.constant(bias))
        size = list(kernel.shape[1:3])
        return self.windowed(op, "Conv", *inputs, group=groups, kernel_shape=size, dilations=dilations)

    def add(self, op, inputs, before, kernel, bias):
        """Add the nodes of an op of the copy; `before` is the shape of its first input there."""
        code, options, first = op["code"], op["options"], inputs[0]
        if code in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            made = self.convolution(op, first, kernel, bias)
        elif code == "FULLY_CONNECTED":
            made = self.node("Gemm", first, self.constant(kernel), self.constant(bias), transB=1)
        elif code == "MAX_POOL_2D":
            made = self.windowed(op, "MaxPool", first, kernel_shape=[options["filterHeight"], options["filterWidth"]])
        elif code == "MEAN":
            made = self.node("GlobalAveragePool", first)
            made = made if options.get("keepDims", False) else self.node("Flatten", made)
        elif code == "RESHAPE":
            made = self.reshaped(first, before, op["shape"])
        else:
            made = self.node("Add", *inputs)
        return self.activated(made, op)


def model(path, opset=17):
    """The copy at `path` as an ONNX model; its input is named "input"."""
    spec, weights = peer_side.read(path)
    graph, names, shapes = Graph(), {spec["input"]: "input"}, {spec["input"]: spec["shape"]}
    for number, op in enumerate(spec["ops"]):
        inputs = [names[index] for index in op["inputs"]]
        kernel, bias = (weights.get(f"{number}/{part}") for part in ("kernel", "bias"))
        names[op["output"]] = graph.add(op, inputs, shapes[op["inputs"][0]], kernel, bias)
        shapes[op["output"]] = op["shape"]
    given, result = spec["shape"], shapes[spec["output"]]
    given = [given[axis] for axis in FIRST] if len(given) == 4 else given
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input", given), (names[spec["output"]], result))
    ]
    made = helper.make_graph(graph.nodes, "copy", ports[:1], ports[1:], graph.constants)
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    checker.check_model(whole, full_check=True)
    return whole
