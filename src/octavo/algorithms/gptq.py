"""GPTQ: round weights one input feature at a time, and let each make up for the errors of those before it.

For a layer's squared output error the Hessian is the Gram matrix of its inputs, the same for all output channels of a
group: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022). The
features are taken in the order of falling importance. With the damped Gram matrix H = R @ R.T, R upper triangular, the
error of an output channel is |R.T @ (w - q)|^2; its component j holds only features up to j, so the q_j next to
w_j + sum over k < j of R[k, j] / R[j, j] * (w_k - q_k) is the best that is left: the nearest-plane form of the
algorithm, which needs no inverse (Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane
Algorithm", 2025). Where a Gram matrix isn't positive definite, its damping grows until it is.

Needs: the Gram matrix of the op's inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from octavo.qtypes import QType

_DAMPING = 0.01  # of the mean diagonal, as in the paper
_BLOCK = 32  # features that are rounded between two matrix products


@dataclass(frozen=True)
class Factors:
    """What rounding needs to know of the inputs.

    Attributes:
      order: (groups, features), the order in which features are rounded.
      upper: (groups, features, features), upper triangular R with R @ R.T the damped Gram matrix in that order.
      added: (groups, features), what damping put on the diagonal, in that order.
    """

    order: np.ndarray
    upper: np.ndarray
    added: np.ndarray

    @property
    def importance(self) -> np.ndarray:
        """(groups, features): what a squared error of each weight costs once all later ones have made up for it."""
        diagonal = np.diagonal(self.upper, axis1=1, axis2=2)
        importance = np.empty(diagonal.shape)
        np.put_along_axis(importance, self.order, diagonal**2, axis=1)
        return importance


def factor(gram: np.ndarray, damping: float = _DAMPING) -> Factors:
    """Order and factor of each group's damped Gram matrix.

    A feature that is always zero gets the mean diagonal: it is rounded to nearest and passes nothing on. A group whose
    inputs are all zero or not finite is rounded to nearest altogether.

    Args:
      gram: (groups, features, features), symmetric, positive semidefinite up to rounding.
      damping: added to the diagonal, as a share of its mean.
    """
    count = gram.shape[1]
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    mean = diagonal.mean(axis=1)
    useless = ~(np.isfinite(gram).all(axis=(1, 2)) & (mean > 0))
    order = np.argsort(-np.where(useless[:, None], 0, diagonal), axis=1, kind="stable")
    ordered = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2)
    ordered[useless] = np.eye(count)
    mean = np.where(useless, 1.0, mean)
    dead = np.diagonal(ordered, axis1=1, axis2=2) <= 0
    ordered[dead[:, :, None] | dead[:, None, :]] = 0
    which, feature = np.nonzero(dead)
    ordered[which, feature, feature] = mean[which]
    upper = _upper_factors(ordered, mean, damping)
    added = np.einsum("gjk,gjk->gj", upper, upper) - np.take_along_axis(diagonal, order, axis=1)
    return Factors(order, upper, added)


def _upper_factors(matrices: np.ndarray, mean: np.ndarray, damping: float) -> np.ndarray:
    """Upper factors of all damped matrices; those that need more damping get it, one by one.

    Reversing rows and columns turns the lower Cholesky factor of a reversed matrix into an upper one.
    """
    eye = np.eye(matrices.shape[1])
    try:
        lower = np.linalg.cholesky((matrices + eye * (damping * mean)[:, None, None])[:, ::-1, ::-1])
        return lower[:, ::-1, ::-1]
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return _upper_factors(matrices, mean, damping * 10) if damping < 1e6 else eye[None]
        one = [_upper_factors(matrices[i : i + 1], mean[i : i + 1], damping) for i in range(len(matrices))]
        return np.concatenate(one)


def round_weights(
    weights: np.ndarray, scales: np.ndarray, factors: Factors, qtype: QType
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the weights, and the output error that they leave.

    Args:
      weights: (groups, outputs, features), real values; float32 ones are worked on as such.
      scales: broadcasts against the weights.
      factors: as from `factor`.
      qtype: the weights' type.

    Returns:
      (codes, errors): int8, (groups, outputs, features); and e.T @ G @ e of each channel's error e, (groups, outputs).
    """
    kind = np.result_type(weights, np.float32)
    upper = factors.upper.astype(kind, copy=False)
    diagonal = np.diagonal(upper, axis1=1, axis2=2)
    ratio = upper / diagonal[:, None, :]
    place = factors.order.T, np.arange(len(weights))  # where (feature, group) is in (features, groups, outputs)
    wanted = np.ascontiguousarray(weights.transpose(2, 0, 1), kind)[place]
    steps = np.broadcast_to(scales, (*weights.shape[:2], scales.shape[2])).transpose(2, 0, 1).astype(kind)
    steps = steps[place] if len(steps) > 1 else np.broadcast_to(steps, wanted.shape)
    count = len(wanted)
    codes, errors, damped = np.empty(wanted.shape, np.int8), np.empty_like(wanted), np.zeros(wanted.shape[1:], kind)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        targets = wanted[start:end].copy()
        if start:
            earlier = ratio[:, :start, start:end].transpose(0, 2, 1) @ errors[:start].transpose(1, 0, 2)
            targets += earlier.transpose(1, 0, 2)
        for j, target in enumerate(targets, start):
            target += np.einsum("gk,kgo->go", ratio[:, start:j, j], errors[start:j])
            nearest = np.rint(target / steps[j])
            codes[j] = np.minimum(np.maximum(nearest, qtype.qmin, out=nearest), qtype.qmax, out=nearest)
            nearest *= steps[j]
            np.subtract(wanted[j], nearest, out=errors[j])
            target -= nearest
        damped += np.einsum("jgo,jgo,gj->go", targets, targets, diagonal[:, start:end] ** 2)
    restored = np.empty_like(codes)
    restored[place] = codes
    left = damped - np.einsum("jgo,jgo,gj->go", errors, errors, factors.added.astype(kind))
    return restored.transpose(1, 2, 0), left
