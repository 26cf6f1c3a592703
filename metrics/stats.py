"""Mean and covariance of feature vectors, in one pass, in float64; files in pytorch-fid's npz format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import reading
from common.errors import UserError
from common.files import written_whole

MAX_BYTES = 128 << 20  # of a file's arrays, unpacked: 4096 features; Inception's 2048 take 34 MB


@dataclass(frozen=True)
class GaussianStats:
    """A fitted Gaussian: ``mu`` [d], ``sigma`` [d, d] (divisor n - 1), both float64.

    ``n`` is the number of samples, None where a file does not say. ``meta`` holds what the features were (dims, resize,
    weights_sha256, source), empty where a file does not say.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None = None
    meta: dict = field(default_factory=dict)


class StreamingStats:
    """Running mean and scatter of feature vectors of ``dims`` numbers.

    Vectors are gathered into blocks of fixed size and each block is merged by the pairwise update of Chan, Golub &
    LeVeque (1983), so the result is free of cancellation and the same, bit for bit, however the vectors arrive in
    batches. Memory: one [dims, dims] matrix and one block, however many vectors.
    """

    _BLOCK = 512

    def __init__(self, dims: int):
        self.dims = dims
        self._n = 0
        self._mean = np.zeros(dims)
        self._scatter = np.zeros((dims, dims))
        self._block = np.empty((self._BLOCK, dims))
        self._held = 0

    @property
    def n(self) -> int:
        """Number of vectors so far."""
        return self._n + self._held

    def update(self, features: np.ndarray) -> None:
        """Adds vectors [n, dims]. UserError for another width, or NaN or infinite features; nothing is added then."""
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != self.dims:
            raise UserError(f"feature statistics are {self.dims} wide, got an array of shape {features.shape}")
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise UserError(
                f"image {self.n + int(np.argmax(bad))}: its features hold NaN or infinite values "
                f"({int(bad.sum())} such in this batch); look at the images and the network they came from"
            )
        start = 0
        while start < len(features):
            count = min(self._BLOCK - self._held, len(features) - start)
            self._block[self._held : self._held + count] = features[start : start + count]
            self._held += count
            start += count
            if self._held == self._BLOCK:
                self._flush()

    def finish(self, meta: dict | None = None) -> GaussianStats:
        """The fitted Gaussian. More may be added afterwards. UserError with fewer than two vectors, which have no
        covariance."""
        if self.n < 2:
            raise UserError(f"statistics need two images or more, got {self.n}")
        self._flush()
        return GaussianStats(self._mean.copy(), self._scatter / (self._n - 1), self._n, dict(meta or {}))

    def _flush(self) -> None:
        if self._held:
            n, total = self._held, self.n
            mean = self._block[:n].mean(axis=0)
            centred, delta = self._block[:n] - mean, mean - self._mean
            self._scatter += centred.T @ centred
            self._scatter += np.outer(delta, delta) * (self._n * n / total)
            self._mean += delta * (n / total)
            self._n, self._held = total, 0


def save_stats(path: str | Path, stats: GaussianStats) -> None:
    """Writes an npz that pytorch-fid can read (``mu``, ``sigma``), with ``n`` and ``meta`` (JSON) beside them, whole or
    not at all."""
    path = Path(path)
    extra: dict[str, Any] = {} if stats.n is None else {"n": np.int64(stats.n)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary, temporary.open("wb") as out:
            np.savez(out, mu=stats.mu, sigma=stats.sigma, meta=json.dumps(stats.meta, sort_keys=True), **extra)
    except OSError as error:
        raise UserError(
            f"{path}: statistics cannot be written there ({error.strerror}); choose another place"
        ) from error


def load_stats(path: str | Path) -> GaussianStats:
    """Reads statistics written by ``save_stats`` or by pytorch-fid (``mu``, ``sigma``). UserError for a file that is
    absent or is something else."""
    path = Path(path)
    wanted = "give an .npz with 'mu' and 'sigma' as pytorch-fid writes it"
    try:
        found = reading.npz_file(path, ("mu", "sigma", "n", "meta"), most=MAX_BYTES)
        if not {"mu", "sigma"} <= set(found):
            raise UserError(f"{path}: no 'mu' and 'sigma' in it; {wanted}")
        mu, sigma = found["mu"], found["sigma"]
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise UserError(f"{path}: 'mu' {mu.shape} and 'sigma' {sigma.shape} do not fit together; {wanted}")
        mu, sigma = (values.astype(np.float64, casting="same_kind") for values in (mu, sigma))
        n = int(found["n"]) if "n" in found else None
        meta = reading.json_of(str(found["meta"])) if "meta" in found else {}
        if not isinstance(meta, dict):
            raise TypeError("meta")
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or 'not an npz file'}); {wanted}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: not a statistics file, or damaged; {wanted}") from error
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path}: its numbers are not all finite; make it again")
    if (
        not np.allclose(sigma, sigma.T, rtol=1e-5, atol=1e-6 * np.abs(sigma).max(initial=0))
        or (sigma.diagonal() < 0).any()
    ):
        raise UserError(f"{path}: 'sigma' is no covariance (not symmetric, or of negative variances); {wanted}")
    return GaussianStats(mu, sigma, n, meta)
