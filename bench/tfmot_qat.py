"""tfmot's quantization-aware training of a copy of a network in Keras 2; see peer_side.py for the arguments.

Fine-tunes on the training images among the samples as octavo's demo does, then converts.
"""

import os

os.environ.update(TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
import peer_side
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras


def make(mode, model, samples):
    """The file's bytes: "float32", or "W8A8, uint8 in and out" after training for it."""
    tf_keras.utils.set_random_seed(0)
    if mode != "float32":
        model = tfmot.quantization.keras.quantize_model(model)
        model.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        images, labels = samples["train_x"], samples["train_y"]
        model.fit(images, labels, batch_size=int(samples["batch"]), epochs=1, validation_split=0.1, verbose=0)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter.convert()


peer_side.answer(make, lambda source: peer_side.network(tf_keras, source, batch=None))
