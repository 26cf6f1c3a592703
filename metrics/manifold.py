"""How much of one set lies among the other: improved precision and recall, density and coverage.

Kynkäänniemi et al. (2019, arXiv:1904.06991, equation 1): the manifold of a set is the union of balls round its members
that reach to their k-th nearest neighbour. Precision: the share of generated images inside the balls of the real ones;
recall: the share of real ones inside those of the generated. Naeem et al. (2020, arXiv:2002.09797, equations 2 and 4):
density counts in how many balls a generated image lies, over k; coverage is the share of real balls that hold one.

The published precision and recall use VGG16's second fully connected layer as features; of other features they are
other numbers. Nothing here knows what the vectors are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError

K_PRECISION, K_DENSITY = 3, 5  # as published
_TILE = 4096  # vectors that are centred at a time
_ROUNDING = 4e-6  # of |a|^2 + |b|^2: squared distances below it are those of equal vectors, in float32


@dataclass(frozen=True)
class Manifold:
    """Shares in [0, 1], but for the density, which has no upper bound and is 1 for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    k: int = K_PRECISION,
    k_density: int = K_DENSITY,
    block: int = 512,
    device: str | torch.device = "cpu",
) -> Manifold:
    """Precision, recall (of `k` neighbours), density and coverage (of `k_density`) of features [n, d] and [m, d].

    Distances are computed in float32, `block` rows at a time: beyond the vectors themselves, which may be a memory map,
    memory is a few block x max(n, m). UserError for unequal widths, or sets of no more than k images.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise UserError(
            f"precision and recall: features of shapes {real.shape} and {fake.shape} are not [n, d], [m, d]"
        )
    most = max(k, k_density)
    if min(len(real), len(fake)) <= most:
        raise UserError(
            f"precision, recall, density and coverage need more than {most} images in each set, got {len(real)} real "
            f"and {len(fake)} generated"
        )
    centre = real.mean(axis=0, dtype=np.float64).astype(np.float32)  # shorter vectors, smaller rounding errors
    r, f = (_Points(x, centre, device, block) for x in (real, fake))
    real_radii, real_wide = r.radii(k, k_density)
    fake_radii = f.radii(k)[0]
    precise = torch.zeros(len(fake), dtype=torch.bool, device=device)
    inside = torch.zeros(len(fake), dtype=torch.int64, device=device)
    recalled, covered = [], []
    for rows, distances in r.distances(f):  # [block, m]
        recalled.append((distances <= fake_radii).any(dim=1))
        precise |= (distances <= real_radii[rows, None]).any(dim=0)
        wide = distances <= real_wide[rows, None]
        inside += wide.sum(dim=0)
        covered.append(wide.any(dim=1))
    return Manifold(
        precision=float(precise.double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(inside.sum().double() / (k_density * len(fake))),
        coverage=float(torch.cat(covered).double().mean()),
    )


class _Points:
    """Vectors of a set, not copied; what is computed with is a tile of them less `centre`."""

    def __init__(self, x: np.ndarray, centre: np.ndarray, device: str | torch.device, block: int):
        self.x, self.centre, self.device, self.block = x, centre, device, block
        self.norms = torch.cat([self.tile(start).square().sum(dim=1) for start in range(0, len(x), _TILE)])

    def tile(self, start: int, length: int = _TILE) -> torch.Tensor:
        part = np.asarray(self.x[start : start + length], np.float32) - self.centre
        return torch.from_numpy(part).to(self.device)

    def distances(self, other: _Points):
        """Squared distances to all of `other`, a block of rows at a time: (rows, [block, m])."""
        for start in range(0, len(self.x), self.block):
            rows = slice(start, min(start + self.block, len(self.x)))
            mine = self.tile(start, self.block)
            d = torch.empty(len(mine), len(other.x), device=self.device)
            for first in range(0, len(other.x), _TILE):
                theirs = other.tile(first)
                scale = self.norms[rows, None] + other.norms[None, first : first + len(theirs)]
                found = torch.addmm(scale, mine, theirs.T, alpha=-2)
                d[:, first : first + len(theirs)] = found.masked_fill_(found < _ROUNDING * scale, 0)
            yield rows, d

    def radii(self, *ks: int) -> list[torch.Tensor]:
        """Squared distances [n] to the k-th nearest other point, for each k."""
        found = []
        for rows, d in self.distances(self):
            d[torch.arange(len(d)), torch.arange(rows.start, rows.stop)] = torch.inf  # a point is not its neighbour
            found.append(d.topk(max(ks), dim=1, largest=False).values)
        nearest = torch.cat(found)
        return [nearest[:, k - 1] for k in ks]
