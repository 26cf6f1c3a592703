"""One linear layer on features that are found once: what they are kept as, and the two ways to fit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import scipy.optimize
import scipy.sparse.linalg
import torch
from torch.nn import functional

from common.errors import UserError
from common.files import write_bytes

MOST_ITERATIONS = 1000
LEAST_SPREAD = 1e-5  # a feature that varies by less of its size (and by less than 1e-6) is a constant


class Part(NamedTuple):
    """Features [n, F] as float16 `values` * `unit` + `zero`; `unit`, `zero` float32 [F], so that what is rounded is of
    the size of the part's own deviations."""

    values: torch.Tensor
    unit: torch.Tensor
    zero: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> Part:
        wide = features.double()
        zero = wide.mean(0).float()
        unit = wide.std(0, correction=0).clamp(min=1e-12).float()
        return cls(((features - zero) / unit).half(), unit, zero)

    def wide(self, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:  # noqa: B008 (a slice does not change)
        """float64 [n, F] of all rows, or of some."""
        return self.values[rows].double() * self.unit.double() + self.zero.double()

    def save(self, path: Path) -> None:
        write_bytes(path, safetensors.torch.save(self._asdict()))

    @classmethod
    def load(cls, path: Path, rows: int, features: int) -> Part:
        """UserError where the file isn't a part of that size."""
        try:
            part = cls(**safetensors.torch.load(path.read_bytes()))
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise UserError(f"{path}: can't be read ({reason}); remove it, and it is made again") from None
        if part.values.shape != (rows, features):
            raise UserError(f"{path}: holds other features than this run's; remove it, and it is made again")
        return part


@dataclass(frozen=True)
class Fitted:
    """centre, gain, weight float64 [F], bias: of standardised features (x - centre) * gain. loss: the weighted mean
    cross-entropy. converged: whether the minimum was reached."""

    centre: torch.Tensor
    gain: torch.Tensor
    weight: torch.Tensor
    bias: float
    loss: float
    iterations: int
    converged: bool


def fit_logistic(
    parts: list[Part],
    labels: torch.Tensor,
    weights: torch.Tensor,
    l2: float,
    told: Callable[[int], None] = lambda iteration: None,
) -> Fitted:
    """The minimum of the weighted mean cross-entropy + l2 / 2 * |w|^2 over standardised features, in float64.

    labels float64 [n] (1 = fake); weights float64 [n] with the sum 1, which also make the mean and the deviation that
    standardise. The bias is free. By L-BFGS (Liu and Nocedal 1989) from 0."""
    rows = _rows(parts)
    centre, gain = _standard(parts, weights)
    signs = 1 - 2 * labels

    def loss_of(x: np.ndarray) -> tuple[float, torch.Tensor]:
        """The mean cross-entropy at x (the weights, then the bias), and its gradient."""
        at = torch.from_numpy(x)
        weight, bias = at[:-1] * gain, at[-1]
        loss, slope = 0.0, torch.zeros_like(at)
        for part, row in zip(parts, rows):
            seen = _Seen.of(part, centre)
            logits = seen.along(weight, bias)
            loss += float(weights[row] @ functional.softplus(signs[row] * logits))
            each = weights[row] * (logits.sigmoid() - labels[row])
            slope[:-1] += gain * seen.back(each)
            slope[-1] += each.sum()
        return loss, slope

    def aim(x: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = loss_of(x)
        slope[:-1] += l2 * torch.from_numpy(x[:-1])
        return loss + l2 / 2 * float(x[:-1] @ x[:-1]), slope.numpy()

    steps = _Steps(told)
    bounds = {"maxiter": MOST_ITERATIONS, "maxfun": 2 * MOST_ITERATIONS, "maxcor": 20, "gtol": 1e-7, "ftol": 1e-13}
    found = scipy.optimize.minimize(
        aim, np.zeros(len(centre) + 1), jac=True, method="L-BFGS-B", callback=steps, options=bounds
    )
    weight = torch.from_numpy(found.x[:-1].copy())
    return Fitted(centre, gain, weight, float(found.x[-1]), loss_of(found.x)[0], int(found.nit), bool(found.success))


def fit_matched_filter(
    parts: list[Part],
    labels: torch.Tensor,
    weights: torch.Tensor,
    ridge: float,
    told: Callable[[int], None] = lambda iteration: None,
    background: torch.Tensor | None = None,
) -> Fitted:
    """The direction in which fakes lie apart, in units of what reals vary by: w = (S + ridge * I)^-1 (f - r), where
    r, f are the means of reals and fakes and S the covariance of the reals alone, of standardised features, in float64.
    S may have weights of its own, `background` float64 [n], which count views whose other weight is 0, too.

    The matched filter of a target against its background (Manolakis and Shaw, IEEE Signal Processing Magazine 19(1),
    2002); with the covariance of both classes it would be Fisher's discriminant (1936), whose answer hangs on how the
    fakes of one generator vary, too.
    The bias puts 0 half-way between the means. Arguments as of `fit_logistic`. By conjugate gradients from 0."""
    rows = _rows(parts)
    centre, gain = _standard(parts, weights)
    seen = [(part, labels[row], weights[row]) for part, row in zip(parts, rows)]
    real, fake = (
        sum(_Seen.of(part, centre).back(each * (label == kind)) for part, label, each in seen)
        * gain
        / weights[labels == kind].sum()
        for kind in (0, 1)
    )
    if background is None:
        background = weights * (labels == 0)
    behind = [(part, background[row]) for part, row in zip(parts, rows) if bool((background[row] > 0).any())]
    mass = background.sum()
    middle = sum(_Seen.of(part, centre).back(each) for part, each in behind) * gain / mass

    def covariance(x: np.ndarray) -> np.ndarray:
        """S x + ridge x."""
        at = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64).reshape(-1))
        out = ridge * at
        for part, each in behind:
            piece = _Seen.of(part, centre)
            along = piece.along(at * gain, 0) - middle @ at
            out += (gain * piece.back(each * along) - middle * (each @ along)) / mass
        return out.numpy()

    steps = _Steps(told)
    size = len(centre)
    operator = scipy.sparse.linalg.LinearOperator((size, size), matvec=covariance, dtype=np.float64)
    found, left = scipy.sparse.linalg.cg(
        operator, (fake - real).numpy(), rtol=1e-8, maxiter=MOST_ITERATIONS, callback=steps
    )
    weight = torch.from_numpy(found)
    bias = -float(weight @ (fake + real)) / 2
    signs = 1 - 2 * labels
    loss = sum(
        float(each @ functional.softplus(signs[row] * _Seen.of(part, centre).along(weight * gain, bias)))
        for (part, _, each), row in zip(seen, rows)
    )
    return Fitted(centre, gain, weight, bias, loss, steps.count, left == 0)


class _Steps:
    """Counts a solver's steps, and tells of each."""

    def __init__(self, told: Callable[[int], None]) -> None:
        self.told, self.count = told, 0

    def __call__(self, x: np.ndarray) -> None:
        self.count += 1
        self.told(self.count)


class _Seen(NamedTuple):
    """A part in float64, less the mean."""

    values: torch.Tensor
    unit: torch.Tensor
    zero: torch.Tensor

    @classmethod
    def of(cls, part: Part, centre: torch.Tensor) -> _Seen:
        return cls(part.values.double(), part.unit.double(), part.zero.double() - centre)

    def along(self, weight: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
        """[n]: each image's features times `weight`, and `bias`."""
        return self.values @ (self.unit * weight) + (self.zero @ weight + bias)

    def back(self, each: torch.Tensor) -> torch.Tensor:
        """[F]: the sum of the images' features, each `each` times."""
        return self.unit * (each @ self.values) + self.zero * each.sum()


def _standard(parts: list[Part], weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / deviation [F] of all views; 0 where a feature is a constant."""
    rows = _rows(parts)
    centre = sum((weights[row] @ part.wide() for part, row in zip(parts, rows)), torch.zeros(1))
    variance = sum((weights[row] @ (part.wide() - centre).square() for part, row in zip(parts, rows)), torch.zeros(1))
    spread = variance.sqrt()
    return centre, torch.where(spread > 1e-6 + LEAST_SPREAD * centre.abs(), 1 / spread, 0)


def _rows(parts: list[Part]) -> list[slice]:
    """Which images each part is of."""
    ends = np.cumsum([len(part.values) for part in parts]).tolist()
    return [slice(end - len(part.values), end) for part, end in zip(parts, ends)]
