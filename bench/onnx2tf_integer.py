"""onnx2tf on a copy of a network as ONNX; see peer_side.py for the arguments.

onnx2tf writes all its files in one run of `-oiqt`, which is timed as a whole. It looks for sample images in the working
folder and would fetch them from GitHub; they serve its own checks only, so noise lies there.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_copy
import peer_side

FILES = {
    "float32": "float32",
    "float16": "float16",
    "dynamic range": "dynamic_range_quant",
    "W8A8": "integer_quant",
    "W8A8, int8 in and out": "full_integer_quant",
}
IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"


def convert(model, samples, folder):
    """Run onnx2tf in `folder`; its files are in `folder`/out."""
    onnx.save(model, Path(folder, "copy.onnx"))
    np.save(Path(folder, "samples.npy"), samples)
    np.save(Path(folder, IMAGES), np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    command = [str(Path(sys.executable).with_name("onnx2tf")), "-i", "copy.onnx", "-o", "out", "-n"]
    command += ["-oiqt", "-cind", "input", "samples.npy", "0", "1"]
    if len(model.graph.input[0].type.tensor_type.shape.dim) != 4:  # it moves the axes of others too, unless told
        command += ["-kat", "input"]
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=settings)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it says nothing"])[-1])


def make(mode, model, samples):
    """The file's bytes; the first call runs onnx2tf for all modes."""
    if not Path(WORK, "out").exists():
        convert(model, samples["x"], WORK)
    return Path(WORK, "out", f"copy_{FILES[mode]}.tflite").read_bytes()


with tempfile.TemporaryDirectory() as WORK:
    peer_side.answer(make, onnx_copy.model)
