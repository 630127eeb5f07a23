"""Answers that agree with those to the neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from lightning_distill.errors import ConfigError
from lightning_distill.knowledge_fusion.base import Floats, FusionContext, FusionStep
from lightning_distill.structures import UNLABELLED

_BLOCK: Final = 1024
"""Samples whose neighbours are sought at a time: memory grows with the samples, not with their square."""
_POWER: Final = 3
_TOLERANCE: Final = 1e-8


def neighbour_graph(embedding: NDArray[Any], neighbours: int) -> sparse.csr_array:
    """W = A + A^T with A_ij = max(0, cos(v_i, v_j))^3 where j is among the nearest of i, else 0.

    The nearest are those of largest cosine, a sample itself not among them. A row of zeros has no neighbour.

    Args:
        embedding: float "samples dim".
        neighbours: Of each sample; all others where there are fewer.

    Returns:
        Sparse float64 "samples samples", symmetric, its diagonal 0.

    >>> neighbour_graph(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), 1).toarray()
    array([[0., 2., 0., 0.],
           [2., 0., 0., 0.],
           [0., 0., 0., 2.],
           [0., 0., 2., 0.]])

    Source: Iscen et al., "Label propagation for deep semi-supervised learning" (1904.04717), section 3.2 and
    its exponent of 3. The neighbours are exact.
    """
    count, nearest = len(embedding), min(neighbours, len(embedding) - 1)
    if nearest < 1:
        return sparse.csr_array((count, count), dtype=np.float64)
    v = np.asarray(embedding, np.float64)
    norm = np.linalg.norm(v, axis=1, keepdims=True)
    v = v / np.where(norm > 0, norm, 1)
    short = v.astype(np.float32)  # is enough to tell who is near, and half the time
    places, weights = [], []
    for at in range(0, count, _BLOCK):
        likeness = short[at : at + _BLOCK] @ short.T
        rows = np.arange(len(likeness))
        likeness[rows, rows + at] = -np.inf
        near = np.argpartition(-likeness, nearest - 1, axis=1)[:, :nearest]
        cosines = np.einsum("id,ikd->ik", v[at : at + _BLOCK], v[near])
        places.append(near)
        weights.append(np.maximum(cosines, 0.0) ** _POWER)
    starts = np.arange(count + 1) * nearest
    near, weight = np.concatenate(places).ravel(), np.concatenate(weights).ravel()
    graph = sparse.csr_array((weight, near, starts), shape=(count, count))
    return sparse.csr_array(graph + graph.T)


def propagated(graph: sparse.csr_array, seeds: Floats, alpha: float) -> Floats:
    """F = (1 - alpha) (I - alpha S)^-1 Y with S = D^-1/2 W D^-1/2, D the row sums of W on a diagonal.

    Each row of F is then divided by its sum. It is a compromise between the row's own seed and the rows of
    its neighbours. The equations are solved by conjugate gradients, one class at a time, to a residual of
    1e-8.

    Args:
        graph: W, sparse "samples samples", symmetric, 0 or more.
        seeds: Y, float64 "samples classes", rows that add up to 1.
        alpha: From 0, the seeds alone, to below 1.

    Returns:
        float64 "samples classes".

    Raises:
        ConfigError: If alpha is so near 1 that no solution is found.

    >>> chain = sparse.csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> propagated(chain, np.array([[1.0, 0.0], [0.5, 0.5]]), 0.5).round(3)
    array([[0.833, 0.167],
           [0.667, 0.333]])

    Source: Zhou et al., "Learning with local and global consistency" (NIPS 2003), section 2, equation 4.
    """
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = sparse.diags_array(np.where(degree > 0, degree, 1.0) ** -0.5)
    system = sparse.csr_array(sparse.eye_array(len(seeds)) - alpha * (scale @ graph @ scale))
    found = np.empty_like(seeds)
    for c in range(seeds.shape[1]):
        own = (1 - alpha) * seeds[:, c]
        found[:, c], rounds = cg(system, own, x0=seeds[:, c], rtol=_TOLERANCE)
        if rounds:
            raise ConfigError(
                where="LabelPropagation.alpha",
                found=f"{alpha}, and no solution after {rounds} rounds",
                expected="an alpha for which there is one",
                fix="take it further from 1, such as 0.99",
            )
    found = np.maximum(found, 0.0)  # by rounding alone
    return found / found.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class LabelPropagation(FusionStep):
    """Propagates labels and answers among neighbours in the teacher's embedding.

    Seeds are the known labels, of all domains, as one-hot rows, and elsewhere the answers; see
    `neighbour_graph` and `propagated`. Samples of the source domains help, but their own answers stay.

    Args:
        neighbours: Of each sample, 1 or more.
        alpha: How far the neighbours count, from 0 (not at all) to below 1.

    Raises:
        ConfigError: If these are out of range; in `apply`, if there is no embedding, or it is not finite.

    >>> twins = FusionContext(np.array([False, True]), np.array([0, UNLABELLED]), np.ones((2, 4)))
    >>> LabelPropagation(1, 0.5).apply(np.array([[0.9, 0.1], [0.5, 0.5]]), twins).round(3)
    array([[0.9  , 0.1  ],
           [0.667, 0.333]])

    Source: Zhou et al. (NIPS 2003), with the graph of Iscen et al. (1904.04717). There a sample without label
    has a seed of zeros; here it has what the teacher says.
    """

    neighbours: int = 10
    alpha: float = 0.8

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(
                where="LabelPropagation.neighbours", found=self.neighbours, expected="1 or more", fix="try 10"
            )
        if not 0 <= self.alpha < 1:
            raise ConfigError(
                where="LabelPropagation.alpha", found=self.alpha, expected="0 to below 1", fix="try 0.8"
            )

    def apply(self, probabilities: Floats, context: FusionContext) -> Floats:
        """Propagate, and take the rows of the new domain."""
        embedding = context.embedding
        if embedding is None or not bool(np.isfinite(embedding).all()):
            raise ConfigError(
                where="LabelPropagation",
                found="no embedding of the first teacher"
                if embedding is None
                else "an embedding with NaN or inf",
                expected="knowledge with an embedding of each sample",
                fix="write the knowledge again, with a teacher that has one",
            )
        seeds = probabilities.copy()
        known = np.flatnonzero(context.label != UNLABELLED)
        seeds[known] = np.eye(probabilities.shape[1])[context.label[known]]
        found = propagated(neighbour_graph(embedding, self.neighbours), seeds, self.alpha)
        return np.where(context.target[:, None], found, probabilities)
