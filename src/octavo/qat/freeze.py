"""Stop learning ranges and statistics for the last part of training.

Ranges and batch statistics that still move make the weights chase them. Sources: Jacob et al. 2018
(https://arxiv.org/abs/1712.05877, section 3.1), Krishnamoorthi 2018 (https://arxiv.org/abs/1806.08342, section 3.2.1).
"""

from __future__ import annotations

from typing import Any

import keras

from octavo.errors import DataError
from octavo.qat.layers import BatchNormalization, FakeQuant


class Freeze(keras.callbacks.Callback):
    """A Keras callback: from some epoch on, ranges and batch statistics stay as they are.

    Args:
      statistics: share of the epochs after which batch normalization uses its moving statistics, and keeps them.
      ranges: share of the epochs after which ranges stay as they are.

    Raises:
      DataError: a share outside 0 to 1.
    """

    def __init__(self, statistics: float = 0.6, ranges: float = 0.8) -> None:
        super().__init__()
        for name, share in (("statistics", statistics), ("ranges", ranges)):
            if not 0.0 <= share <= 1.0:
                raise DataError(f"{name}={share}: a share of the epochs is between 0 and 1")
        self.statistics, self.ranges = statistics, ranges

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Freeze what is due; the training step is compiled again then."""
        epochs = (self.params or {}).get("epochs") or 1
        changed = False
        model: Any = self.model
        for layer in model._flatten_layers():
            share = {FakeQuant: self.ranges, BatchNormalization: self.statistics}.get(type(layer))
            if share is not None and not layer.frozen and epoch >= share * epochs:
                layer.frozen = changed = True
        if changed:
            model.make_train_function(force=True)
