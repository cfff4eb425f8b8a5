"""ai-edge-quantizer as shipped, on a `.tflite` file; see peer_side.py for the arguments.

The first arrays of the samples are for the file's inputs, in order. A row is a sample, with or without a batch
of one.
"""

import peer_side
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

RECIPES = {"dynamic range": recipe.dynamic_wi8_afp32, "W8A8": recipe.static_wi8_ai8}


def inputs(source):
    """The signature that is calibrated, and (name, number of axes) of each of its inputs in the order of the file's."""
    interpreter = Interpreter(model_path=source)
    details = interpreter.get_input_details()
    order = {tensor["index"]: place for place, tensor in enumerate(details)}
    key = next(iter(interpreter.get_signature_list()), None)
    if key is None:
        return key, [(tensor["name"], len(tensor["shape"])) for tensor in details]
    named = interpreter.get_signature_runner(key).get_input_details()
    return key, [(n, len(named[n]["shape"])) for n in sorted(named, key=lambda name: order[named[name]["index"]])]


def make(mode, source, samples):
    work = quantizer.Quantizer(source)
    work.load_quantization_recipe(RECIPES[mode]())
    seen = None
    if mode == "W8A8":
        key, ports = inputs(source)
        columns = [samples[array] for array in list(samples)[: len(ports)]]
        rows = [
            {name: value[None] if value.ndim < axes else value for (name, axes), value in zip(ports, row, strict=True)}
            for row in zip(*columns, strict=True)
        ]
        seen = work.calibrate({key: rows})
    return bytes(work.quantize(seen).quantized_model)


peer_side.answer(make)
