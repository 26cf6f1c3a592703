"""Numbers of a set of generated images, most of them against a set of real ones.

Every result says its feature width, resize mode, sample counts, weights and seed: numbers that differ in any of them
cannot be compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from common.errors import UserError
from common.words import counted
from metrics.collect import Features
from metrics.features import FeatureNetwork
from metrics.frechet import frechet_distance, frechet_from_features
from metrics.halving import FEWEST as HALVED
from metrics.halving import frechet_interval
from metrics.inception_score import SPLITS, inception_score
from metrics.kernel import kid
from metrics.manifold import K_DENSITY, K_PRECISION, manifold
from metrics.sliced import mind
from metrics.stats import GaussianStats

KINDS = {
    "fid": (),
    "ci": ("vectors",),
    "kid": ("vectors",),
    "mind": ("vectors",),
    "pr": ("vectors",),
    "is": ("vectors", "classifier"),
    "ppl": ("network",),
}
"""The metrics, and what each needs beyond statistics. ci: FID's interval."""

AGAINST_REALS = ("fid", "ci", "kid", "mind", "pr")
_IN_TRAINING = "|".join(AGAINST_REALS)


FEWEST = {"fid": 2, "ci": HALVED, "kid": 2, "mind": 2, "pr": max(K_PRECISION, K_DENSITY) + 1, "is": 2 * SPLITS}
"""Images of a set that each needs at least."""


def check_enough(kinds: Collection[str], count: int, whose: str) -> None:
    """UserError where a set of `count` images is too small for a metric: before features are computed. whose: what the
    line begins with."""
    for kind in kinds:
        if count < FEWEST.get(kind, 0):
            sets = " of each set" if kind in AGAINST_REALS else ""
            raise UserError(
                f"{whose}: {counted(count, 'image')}; {kind} needs {FEWEST[kind]} or more{sets}, better thousands: give"
                f" more, or leave {kind} out"
            )


def parse_metric(name: str) -> tuple[str, int]:
    """What a metric name of the training asks for: 'fid1k' -> ('fid', 1000), 'kid500' -> ('kid', 500), 'fid50k_full' ->
    ('fid', 50000). UserError for a name of another form or fewer than two images.
    """
    match = re.fullmatch(rf"({_IN_TRAINING})([1-9]\d*)(k?)(_full)?", name)
    count = int(match[2]) * (1000 if match[3] else 1) if match else 0
    if match is None or count < 2:
        raise UserError(
            f"`metrics`: metric '{name}' is unknown; give fid1k, fid5k, fid10k, fid50k or another number of images"
            " (kid5k, mind5k, pr5k and ci5k add the kernel and the sliced distance, precision and recall, and FID's"
            " interval; evaluate.py has all the others)"
        )
    check_enough([match[1]], count, f"`metrics` {name}")
    return match[1], count


def metric_name(kind: str, count: int) -> str:
    """The inverse of `parse_metric`."""
    return f"{kind}{count // 1000}k" if count % 1000 == 0 else f"{kind}{count}"


def parse_kinds(text: str) -> list[str]:
    """'fid, kid' -> ['fid', 'kid'], doubles dropped. UserError for a name that is none of KINDS."""
    kinds = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"`metrics`: '{kind}' is unknown; choose among {', '.join(KINDS)} (as in `metrics` fid,kid)"
            )
    if not kinds:
        raise UserError(f"`metrics`: nothing is asked for; choose among {', '.join(KINDS)}")
    return kinds


def needs_vectors(kinds: Collection[str]) -> bool:
    return any("vectors" in KINDS[kind] for kind in kinds)


def compare(
    kinds: Collection[str],
    fake: Features,
    real: Features | None,
    features: FeatureNetwork | StatedFeatures,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float | int]:
    """The numbers of `kinds`, as far as asked for. 'fid': fid; 'ci': fid_unbiased, fid_low, fid_high (where there is
    an interval), fid_halvings (progress: called with the halvings done and all of them); 'kid': kid, kid_low, kid_high,
    kid_standard_error, kid_spread, kid_subsets, kid_subset_size; 'mind': mind, mind_standard_error, mind_directions;
    'pr': precision, recall, density, coverage, pr_k, density_k; 'is': inception_score, inception_score_spread,
    inception_score_splits.

    UserError where `real` comes from other features, or something that a metric needs is not there.
    """
    found: dict[str, float | int] = {}
    check_same_features(fake.stats, features, "the generated images' statistics")
    if real is not None:
        check_same_features(real.stats, features, "the real statistics")
        found |= _against(kinds, fake, real, seed, device)
        if "ci" in kinds:
            ci = frechet_interval(fake.kept(), real.kept(), frechet(fake, real), seed=seed, progress=progress)
            found |= {"fid_unbiased": ci.value, "fid_halvings": ci.halvings}
            if math.isfinite(ci.high):
                found |= {"fid_low": ci.low, "fid_high": ci.high}
    elif against := [kind for kind in kinds if kind in AGAINST_REALS]:
        raise UserError(f"{', '.join(against)} compare with real images: give `real`")
    if "is" in kinds:
        if features.classifier is None:
            raise UserError("the Inception Score needs the classifier of the full network: give its weights")
        score, spread = inception_score(fake.kept(), features.classifier.numpy(), seed=seed)
        found |= {"inception_score": score, "inception_score_spread": spread, "inception_score_splits": SPLITS}
    return found


def _against(
    kinds: Collection[str], fake: Features, real: Features, seed: int, device: str | torch.device
) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    if "fid" in kinds:
        found["fid"] = frechet(fake, real)
    if "kid" in kinds:
        k = kid(fake.kept(), real.kept(), seed=seed)
        found |= {"kid": k.mean, "kid_low": k.low, "kid_high": k.high}
        found |= {"kid_standard_error": k.standard_error, "kid_spread": k.spread}
        found |= {"kid_subsets": k.subsets, "kid_subset_size": k.size}
    if "mind" in kinds:
        s = mind(fake.kept(), real.kept(), seed=seed, device=device)
        found |= {"mind": s.value, "mind_standard_error": s.standard_error, "mind_directions": s.directions}
    if "pr" in kinds:
        m = manifold(real.kept(), fake.kept(), device=device)
        found |= {"precision": m.precision, "recall": m.recall, "density": m.density, "coverage": m.coverage}
        found |= {"pr_k": K_PRECISION, "density_k": K_DENSITY}
    return found


def frechet(a: Features, b: Features) -> float:
    """FID of two sets, from the vectors where they are few and at hand (faster then), else from the statistics."""
    if a.vectors is not None and b.vectors is not None and max(len(a.vectors), len(b.vectors)) <= len(a.stats.mu):
        return frechet_from_features(a.vectors, b.vectors)
    return frechet_distance(a.stats.mu, a.stats.sigma, b.stats.mu, b.stats.sigma)


@dataclass(frozen=True)
class StatedFeatures:
    """What two files of statistics say of the features they are of; None for what neither says."""

    dims: int
    resize: str | None = None
    weights_sha256: str | None = None
    features: str = "inception"
    used: str | None = None  # no runtime: nothing is computed
    classifier: torch.Tensor | None = None

    @classmethod
    def of(cls, a: GaussianStats, b: GaussianStats) -> StatedFeatures:
        said = {**b.meta, **a.meta}
        return cls(len(a.mu), said.get("resize"), said.get("weights_sha256"), said.get("features", "inception"))

    def describe(self) -> dict:
        named = {} if self.features == "inception" else {"features": self.features}
        return {**named, "dims": self.dims, "resize": self.resize, "weights_sha256": self.weights_sha256}


def check_same_features(stats: GaussianStats, features: FeatureNetwork | StatedFeatures, whose: str) -> None:
    """UserError where `stats` say that they were made with other features."""
    if len(stats.mu) != features.dims:
        raise UserError(
            f"{whose} have {len(stats.mu)} dimensions, the others {features.dims}; use the same `dims` for both"
        )
    for key, value in features.describe().items():
        if stats.meta.get(key, value) != value:
            raise UserError(f"{whose} were made with {key} {stats.meta[key]}, the others with {value}; make them again")
