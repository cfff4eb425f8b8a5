"""A model that takes a camera's bytes: image scaling folded into its input."""

from __future__ import annotations

import os

import numpy as np

from octavo.api import load
from octavo.making import prepare
from octavo.metadata import update_normalization
from octavo.model import Model
from octavo.passes.fold_scaling import Numbers, is_pinned
from octavo.passes.fold_scaling import fold_scaling as fold_into_program


def fold_scaling(
    model: Model | str | os.PathLike[str] | bytes,
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
    input: str | None = None,
) -> Model:
    """The model as one whose integer input, quantized with `io="uint8"`, takes an image's bytes as they are.

    With one whole mean and one std, the bytes are the codes of the numbers that the model takes now: samples stay as
    they are. Otherwise (per channel, or a mean with a fraction) the scaling goes into the weights of the first op, and
    the model takes image values from 0 to 255 from then on: see `to_images`. For int8 subtract 128 from the bytes.

    Args:
      model: a float model.
      mean: of x = (image - mean) / std, as the model was trained: one number, or one for each channel.
      std: likewise. 0 and 1, the defaults, are for a model that takes image values and scales them itself.
      input: name of the input; None where there is one.

    Raises:
      RecipeError: it can't be exact; says why and what to do.
    """
    prepared = prepare(model if isinstance(model, Model) else load(model))
    tensor, notes = fold_into_program(prepared.program, mean, std, input)
    if not is_pinned(mean, std):
        mean, std = 0.0, 1.0
    update_normalization(prepared.program, prepared.program.main.inputs.index(tensor), mean, std)
    return Model(prepared.program, notes=(*prepared.notes, *notes), path=prepared.path)


def to_images(samples: np.ndarray, mean: Numbers, std: Numbers) -> np.ndarray:
    """Samples for the model that `fold_scaling` made, from samples for the model before it (channels last)."""
    if is_pinned(mean, std):
        return samples
    return (np.asarray(samples) * np.asarray(std) + np.asarray(mean)).astype(np.float32)
