"""Image files as samples: decoded, brought to a model's size and to its range of numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from octavo.errors import DataError, MissingDependencyError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_MODES = {1: "L", 3: "RGB"}
_REFUSED = ("I", "F")  # 16 and 32 bits per pixel: a conversion to 8 would clip them

Preprocess = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Look:
    """How an image file becomes one sample.

    The whole image is resized to `size`, bilinear and without keeping its aspect ratio, as Keras's
    `image_dataset_from_directory` does it.

    Attributes:
      size: (height, width); None keeps the image's own.
      channels: 1 or 3.
      pixels: what pixel values 0 and 255 become, as float32; None leaves them uint8.
      preprocess: does all of this instead: takes the image as uint8 (height, width, channels) of its own size, and
        gives the sample.
    """

    size: tuple[int, int] | None = None
    channels: int = 3
    pixels: tuple[float, float] | None = None
    preprocess: Preprocess | None = None

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """One sample: (height, width, channels).

        Raises:
          DataError: the file is no image, is damaged, or has pixels of more than 8 bits; or `preprocess` fails.
          MissingDependencyError: Pillow isn't installed.
        """
        pillow = _pillow()
        try:
            with pillow.open(path) as image:
                if image.mode.startswith(_REFUSED):
                    raise DataError(f"{path} has more than 8 bits per pixel ({image.mode}): convert it to 8 bits first")
                decoded = image.convert(_MODES[self.channels])
                if self.size is not None and self.preprocess is None:
                    decoded = decoded.resize(self.size[::-1], pillow.Resampling.BILINEAR)
                array = np.asarray(decoded).reshape(decoded.height, decoded.width, self.channels)
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            raise DataError(f"{path} can't be read as an image: {error}") from error
        if self.preprocess is not None:
            return _preprocessed(self.preprocess, array, path)
        if self.pixels is None:
            return array
        low, high = self.pixels
        return array * np.float32((high - low) / 255) + np.float32(low)


def _preprocessed(preprocess: Preprocess, image: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    try:
        return np.asarray(preprocess(image))
    except Exception as error:
        raise DataError(f"{path}: preprocess raised {type(error).__name__}: {error}") from error


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingDependencyError("reading images takes Pillow: pip install 'octavo[images]'") from error
    return PIL.Image
