"""Scales and codes for one op's weights: the best of what the algorithms propose, by the output error that is left.

With e = w - q the error of one output channel's weights and G the Gram matrix (or covariance) of the op's inputs, the
channel's squared output error is e.T @ G @ e. Rounding to nearest is always among the proposals, so nothing here is
ever worse than it, as far as G tells.

Needs: the Gram matrix of the op's inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.algorithms import adaround, descent, gptq, weight_scales
from octavo.calibrate.halves import in_blocks
from octavo.qtypes import QType


@dataclass
class Rounding:
    """One op's weights and what is known of its inputs.

    Attributes:
      weights: (groups, outputs, features), real values.
      gram: (groups * blocks, block, block); products across blocks are left out.
      qtype: the weights' type.
      thorough: go over the codes again, and under eight bits learn others too, if JAX is there.
    """

    weights: np.ndarray
    gram: np.ndarray
    qtype: QType
    thorough: bool = False

    def __post_init__(self) -> None:
        self._blocks = self._cut(self.weights)
        self._factors = gptq.factor(self.gram)
        self._tried: list[tuple[np.ndarray, np.ndarray]] = []  # scales and codes of `best_scales`

    def _cut(self, values: np.ndarray) -> np.ndarray:
        """(groups, outputs, features) as (groups * blocks, outputs, block), padded with zeros."""
        groups, outputs, _ = values.shape
        count, block = self.gram.shape[:2]
        flat = in_blocks(values.reshape(groups * outputs, -1), block)
        return flat.reshape(groups, outputs, -1, block).swapaxes(1, 2).reshape(count, outputs, block)

    def best_scales(self, scales: np.ndarray) -> np.ndarray:
        """For each channel (or for all, if they share one) the scale whose codes leave the least output error.

        Args:
          scales: (groups, outputs, 1) or (1, 1, 1): those that the largest weights ask for.
        """
        importance = self._factors.importance.reshape(len(self.weights), -1)[:, : self.weights.shape[2]]
        searched = weight_scales.best_scales(self.weights, importance, scales, self.qtype)
        tried = [np.asarray(scales, np.float32), ((scales + searched) / 2).astype(np.float32), searched]
        made = [self._rounded(self._spread(proposed)) for proposed in tried]
        left = [self._left(codes, proposed) for codes, proposed in zip(made, tried, strict=True)]
        self._tried = list(zip(tried, made, strict=True))
        return np.choose(np.argmin(left, axis=0), tried)

    def best_block_scales(self, scales: np.ndarray, block: int) -> np.ndarray:
        """For each block of features the scale with the least squared error, each feature counted with its importance.

        Args:
          scales: (outputs, blocks): those that the largest weights ask for; the weights are one group.
          block: features that share a scale.
        """
        importance = self._factors.importance.reshape(-1)[: self.weights.shape[2]].reshape(-1, block)
        pieces = self.weights[0].reshape(len(scales), -1, block).swapaxes(0, 1)
        return weight_scales.best_scales(pieces, importance, scales.T[:, :, None], self.qtype)[:, :, 0].T

    def _left(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Output error of these codes and scales: the shape of `scales`."""
        errors = output_errors(self._blocks, codes, self._spread(scales), self.gram)
        groups, outputs, _ = self.weights.shape
        by_channel = errors.reshape(groups, -1, outputs).sum(axis=1)[:, :, None]
        return by_channel if scales.size > 1 else by_channel.sum(keepdims=True)

    def codes(self, scales: np.ndarray) -> np.ndarray:
        """int8, the shape of the weights: the codes that leave the least output error; scales broadcast to them."""
        groups, outputs, features = self.weights.shape
        found = None if self.thorough else self._known(scales)
        found = self._rounded(self._spread(scales), self.thorough) if found is None else found
        joined = found.reshape(groups, -1, outputs, found.shape[2]).swapaxes(1, 2)
        return joined.reshape(groups, outputs, -1)[:, :, :features]

    def _known(self, scales: np.ndarray) -> np.ndarray | None:
        """Codes that `best_scales` has found already, channel by channel; None if some channel has another scale."""
        found, missing = None, np.ones(self._spread(scales).shape, bool)
        for tried, codes in self._tried:
            same = self._spread(tried == scales) & missing
            found = codes if found is None else np.where(same, codes, found)
            missing &= ~same
        return None if missing.any() else found

    def _spread(self, scales: np.ndarray) -> np.ndarray:
        """A scale for every row of the blocks, (groups * blocks, outputs, 1), or for every weight."""
        if scales.shape[2] > 1:
            spread = self._cut(scales)
            return np.where(spread > 0, spread, 1.0)  # what pads the last block has no scale
        groups, outputs, _ = self.weights.shape
        return np.broadcast_to(scales, (groups, outputs, 1)).repeat(len(self.gram) // groups, axis=0)

    def _rounded(self, scales: np.ndarray, thorough: bool = False) -> np.ndarray:
        """For each channel the proposal with the least output error: (groups * blocks, outputs, block)."""
        blocks, gram, qtype = self._blocks, self.gram, self.qtype
        nearest = np.clip(np.rint(blocks / scales), qtype.qmin, qtype.qmax).astype(np.int8)
        found = [gptq.round_weights(blocks, scales, self._factors, qtype)]
        if thorough:
            proposals = [codes for codes, _ in found]
            if qtype.bits < 8 and adaround.available():
                learned = adaround.learn(blocks, scales, gram, qtype)
                proposals += [] if learned is None else [learned]
            found = [descent.improve(blocks, codes, scales, gram, qtype) for codes in proposals]
            found = [(codes, output_errors(blocks, codes, scales, gram)) for codes in found]
        best, least = nearest, output_errors(blocks, nearest, scales, gram)
        for codes, errors in found:
            best = np.where((errors < least)[:, :, None], codes, best)
            least = np.minimum(errors, least)
        return best


def output_errors(weights: np.ndarray, codes: np.ndarray, scales: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """(groups, outputs): e.T @ G @ e for the error e of each output channel, in the weights' precision."""
    left = weights - codes * np.asarray(scales, weights.dtype)
    return np.einsum("goj,goj->go", left @ gram.astype(weights.dtype, copy=False), left)
