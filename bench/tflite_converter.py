"""TensorFlow's TFLiteConverter on a copy of a network in Keras layers; see peer_side.py for the arguments."""

import os

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
import keras
import peer_side
import tensorflow as tf


def make(mode, model, samples):
    """The file's bytes; the modes are the names in the table."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode.startswith("W8"):
        converter.representative_dataset = lambda: ([row[None]] for row in samples["x"])
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "W8A16":
        sixteen = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [sixteen]
    if mode == "W8A8 per tensor":
        converter._experimental_disable_per_channel = True
    if mode == "W8A8, uint8 in and out":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter.convert()


peer_side.answer(make, lambda source: peer_side.network(keras, source))
