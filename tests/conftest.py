"""What has to be settled before any test is imported."""

import os
from importlib.util import find_spec

# Keras reads its backend once, when it is first imported: choose it before any test does.
os.environ.setdefault("KERAS_BACKEND", "jax")

if find_spec("hypothesis"):  # not in the environment of tests/pytorch
    from hypothesis import settings

    # A time limit for each example (200 ms by default) would measure how busy the machine is.
    settings.register_profile("octavo", deadline=None)
    settings.load_profile("octavo")
