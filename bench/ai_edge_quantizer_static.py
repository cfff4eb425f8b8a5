"""Static W8A8 with ai-edge-quantizer as shipped. Runs in the peers' own environment: MODEL SAMPLES.npy OUT.tflite."""

import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

model, samples, out = sys.argv[1:]
signatures = Interpreter(model_path=model).get_signature_list()
key, entry = next(iter(signatures.items()))
rows = np.load(samples)
work = quantizer.Quantizer(model)
work.load_quantization_recipe(recipe.static_wi8_ai8())
start = time.perf_counter()
seen = work.calibrate({key: [{entry["inputs"][0]: row[None]} for row in rows]})
work.quantize(seen).export_model(out, overwrite=True)
print(f"{time.perf_counter() - start:.1f}")
