"""Keras reads its backend once, when it is first imported: choose it before any test does."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
