"""The layer of the training framework that an op came from, told from the names that converters give tensors."""

from __future__ import annotations

import re

from octavo.graph import Op, Tensor

# What stands behind a layer's path in tensor names: the primitives that JAX lowers a layer to.
_PRIMITIVES = {
    *("abs", "add", "argmax", "argmin", "broadcast_in_dim", "clamp", "concatenate", "conv_general_dilated", "cumsum"),
    *("div", "dot_general", "dynamic_slice", "erf", "exp", "gather", "integer_pow", "log", "logistic", "max", "min"),
    *("mul", "neg", "pad", "pow", "reduce_max", "reduce_min", "reduce_sum", "reduce_window", "reduce_window_max"),
    *("reduce_window_sum", "relu", "relu6", "reshape", "rsqrt", "select_n", "slice", "softmax", "sqrt", "squeeze"),
    *("sub", "tanh", "transpose"),
}
# litert-torch writes a module as its class and its attribute: "torch.nn.modules.linear.Linear_fc".
_MODULE = re.compile(r"[\w.]*\.([A-Z]\w*?)_(\w+)")
_WEIGHTED = re.compile(r"Conv|Linear|Embedding|LSTM|GRU|RNN")


def layer_of(tensor: Tensor, maker: Op | None) -> str:
    """The path of the Keras or PyTorch layer that makes a tensor; its whole name where none can be told.

    octavo's names are `layer/op`, the op being a primitive of JAX. TensorFlow's converter has ops in capitals
    (`conv2d/BiasAdd/ReadVariableOp`) and joins the names of fused ops with semicolons, the first op last. litert-torch
    names modules. A constant of the op, such as `layer/kernel`, tells most surely.
    """
    constants = [t for t in maker.inputs if t is not None and t.is_constant] if maker else []
    for name in (tensor.name, *(constant.name for constant in constants)):
        module = _torch_module(name)
        if module:
            return module
    name = tensor.name.rpartition(";")[2].strip()
    for constant in constants:
        path = constant.name.rpartition("/")[0]
        if path and ";" not in path and name.startswith(f"{path}/"):
            return path
    parts = name.split("/")
    while len(parts) > 1 and (parts[-1][:1].isupper() or parts[-1] == "resource"):
        parts.pop()
    if len(parts) > 1 and parts[-1].rstrip("0123456789").rstrip("_") in _PRIMITIVES:
        parts.pop()
    return "/".join(parts)


def _torch_module(name: str) -> str:
    """The path of a PyTorch module, such as "features.0.conv"; of several fused ones the one with weights, or the last.

    The outermost module is the model itself, and is left out.
    """
    found: list[tuple[str, str]] = []
    for part in name.split(";"):
        modules = [match for match in map(_MODULE.fullmatch, part.split("/")) if match]
        if modules:
            inner = modules[1:] or modules
            found.append((inner[-1][1], ".".join(match[2] for match in inner)))
    weighted = [path for kind, path in found if _WEIGHTED.search(kind)]
    return (weighted or [path for _, path in found] or [""])[-1]
