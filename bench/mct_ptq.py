"""Post-training quantization with Sony's Model Compression Toolkit; see peer_side.py for the arguments.

For its own description of TFLite's kernels or of the IMX500 (its default), exported as an integer `.tflite` file. It
gathers statistics several times as fast from batches of 50 as from single samples.
"""

import os
import tempfile
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
import keras
import model_compression_toolkit as mct
import peer_side
import tensorflow as tf

BATCH = 50
DEVICES = {"W8A8": "tflite", "W8A8 for IMX500": "imx500"}


def make(mode, model, samples):
    """The file's bytes: "float32" (TensorFlow's converter alone), or for a device."""
    x = samples["x"]
    if mode == "float32":
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()
    device = mct.get_target_platform_capabilities(device_type=DEVICES[mode])
    quantized, _ = mct.ptq.keras_post_training_quantization(
        model,
        lambda: ([x[first : first + BATCH]] for first in range(0, len(x), BATCH)),
        target_platform_capabilities=device,
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "quantized.tflite")
        mct.exporter.keras_export_model(
            quantized,
            str(out),
            serialization_format=mct.exporter.KerasExportSerializationFormat.TFLITE,
            quantization_format=mct.exporter.QuantizationFormat.INT8,
        )
        return out.read_bytes()


peer_side.answer(make, lambda source: peer_side.network(keras, source, batch=None))
