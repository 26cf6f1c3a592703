"""A study: arms of training data compared by a plan that was written before.

The detector is a probe: the features of a network that stays as it is are found once for every image, and each arm and
seed is a logistic regression on some of them. The tests are opened when all fits are done, and their scores handed out
once, with the results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from common import reading
from common.clock import clock
from common.device import pick_device
from common.errors import BadImage, UserError
from common.files import write_json, written_whole
from common.outputs import check_folder, plain
from common.words import counted
from evaluation.listener import Listener
from evaluation.options import StudyOptions
from evaluation.study_compare import Findings, Scored, compare, threshold_of
from evaluation.study_features import Features
from evaluation.study_fit import Probe, Taught, choose, fit_arm, fit_key, load_fit, save_fit
from evaluation.study_plan import Arm, Material, Plan, read_plan
from evaluation.study_raw import RawLogit
from evaluation.study_sources import Opened, open_material

RESULTS, SCORES, STATE, FEATURES = "results.json", "scores.npz", "study.json", "features"


@dataclass
class StudyResult:
    """plan: with its SHA-256; seeds: how many were fitted; arms: {name: facts of its fits}; skipped: what was left out
    and why, as (kind, name, reason); images: {source or test: number used}; opened: when scores were handed out."""

    plan: Plan
    seeds: int
    network: str
    arms: dict[str, list[dict]]
    thresholds: dict[str, list[float]]
    findings: Findings
    images: dict[str, int]
    skipped: list[tuple[str, str, str]]
    opened: list[str]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict:
        found = self.findings
        return plain({
            "plan": {"sha256": self.plan.sha256, "title": self.plan.title, "asked_seeds": self.plan.seeds,
                     "endpoint": list(self.plan.endpoint), "conditions": list(self.plan.conditions),
                     "fpr": self.plan.fpr},
            "seeds": self.seeds, "network": self.network, "resamples": self.plan.resamples,
            "test_scores_handed_out": self.opened,
            "endpoint": {arm: asdict(one) for arm, one in found.endpoint.items()},
            "comparisons": [asdict(one) for one in found.differences],
            "rates": {
                test: {condition: {arm: asdict(one) for arm, one in arms.items()} for condition, arms in of.items()}
                for test, of in found.rates.items()
            },
            "arms": self.arms, "thresholds": self.thresholds, "images": self.images,
            "skipped": [list(one) for one in self.skipped], "notes": self.notes,
        })  # fmt: skip


def run_study(asked: StudyOptions, listener: Listener) -> StudyResult:
    """All of a study, or what is missing of it. UserError where its results are there already, or the plan is another
    than the one that its fits began with."""
    plan, out = read_plan(asked.plan), Path(asked.out)
    check_folder("`out`", out.absolute())
    if (out / RESULTS).exists() and not asked.force:
        raise UserError(
            f"`out` {out}: this study has its results ({RESULTS}): test scores are handed out once; choose another"
            " folder, or `force`, which the results will tell"
        )
    torch.set_num_threads(asked.threads or torch.get_num_threads())
    state = _begun(out, plan)
    work = _Work(plan, asked, Features(plan, Path(asked.features or out / FEATURES), pick_device(asked.device),
                                       asked.workers, listener), listener)  # fmt: skip
    work.open_sources()
    _write_state(out, state)  # from here on the plan stays what it is
    work.fit_all(out / "fits")
    return work.judge(out, state)


def _begun(out: Path, plan: Plan) -> dict:
    """The state of the folder. UserError where its fits began with another plan."""
    path = out / STATE
    if not path.is_file():
        return {"plan": plan.sha256, "opened": []}
    try:
        state = reading.json_file(path)
        before, _ = state["plan"], list(state["opened"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; give another `out`") from None
    if before != plan.sha256:
        raise UserError(
            f"`plan`: has changed since this study's fits began (SHA-256 {before[:12]}… then, {plan.sha256[:12]}… now):"
            f" put the old plan back, or give another `out` (its `features` may be {out / FEATURES})"
        )
    return state


def _write_state(out: Path, state: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / STATE, state)


class _Work:
    """One study going on."""

    def __init__(self, plan: Plan, asked: StudyOptions, features: Features, listener: Listener) -> None:
        self.plan, self.asked, self.features, self.listener = plan, asked, features, listener
        self.seeds = asked.seeds or plan.seeds
        self.skipped: list[tuple[str, str, str]] = []
        self.images: dict[str, int] = {}
        self.stamps: dict[str, str] = {}
        self.offered: dict[str, Taught] = {}
        self.valid: list[Opened] = []
        self.fits: dict[str, list[Probe]] = {}
        self.raw: dict[str, RawLogit] = {}
        self.notes = list(plan.notes)
        if self.seeds != plan.seeds:
            self.notes.append(f"the plan asks for {counted(plan.seeds, 'seed')}, {self.seeds} were fitted")

    # ---- before the tests

    def open_sources(self) -> None:
        """Sources that an arm asks for, and the photos that set thresholds."""
        for name in self.plan.thresholds:
            self.valid.append(self._opened(self.plan.sources[name]))
        asked_for = {name for arm in self.plan.arms for name in arm.sources}
        for name in (name for name in self.plan.sources if name in asked_for):
            try:
                opened = self._opened(self.plan.sources[name])
            except UserError as error:
                self._skip("source", name, str(error))
                continue
            self._tell_small(opened)
            views = self.features.taught(opened)
            self.offered[name] = Taught(views, opened.decoder)
            self._count(name, views[0])
        for arm in self.plan.arms:
            if missing := [name for name in arm.sources if name not in self.offered]:
                self._skip("arm", arm.name, f"no {', '.join(missing)}")
        if not any(self._goes(arm) for arm in self.plan.arms):
            raise UserError(
                "no arm of the plan has all of its sources: " + "; ".join(f"{n}: {r}" for _, n, r in self.skipped)
            )

    def _opened(self, material: Material) -> Opened:
        found = open_material(material, self.plan, self.asked.data_root)
        self.stamps[material.name] = found.stamp
        self.notes += found.notes
        return found

    def _tell_small(self, opened: Opened) -> None:
        """Looks at its first image."""
        try:
            height, width = opened.read(0).shape[:2]
        except BadImage:
            return
        if not opened.cut and min(height, width) < (side := self.plan.probe.resolution):
            self.notes.append(f"{opened.name}: its first image has {width} x {height} pixels and is enlarged to {side}:"
                              " softness may be what is learnt of it")  # fmt: skip

    def _count(self, name: str, table) -> None:
        self.images[name] = len(table)
        for bad, reason in table.bad[:20]:
            self.listener.warn(f"left out {bad}: {reason}")
        if table.bad:
            self.notes.append(f"{name}: {counted(len(table.bad), 'image')} of no use, left out")

    def _skip(self, kind: str, name: str, reason: str) -> None:
        self.skipped.append((kind, name, reason))
        self.listener.warn(f"{kind} {name} left out: {reason}")

    def _goes(self, arm: Arm) -> bool:
        return not any(kind == "arm" and name == arm.name for kind, name, _ in self.skipped)

    def fit_all(self, folder: Path) -> None:
        """Every arm in every seed; those whose sources are too small are left out whole."""
        for number, arm in enumerate(self.plan.arms):
            if not self._goes(arm):
                continue
            try:
                if arm.run:
                    self.raw[arm.name] = RawLogit.open(arm.run, self.features.device)
                    continue
                chosen = [choose(arm, self.plan, seed, self.offered) for seed in range(self.seeds)]
            except UserError as error:
                self._skip("arm", arm.name, str(error))
                continue
            self.fits[arm.name] = [
                self._fit(arm, folder / f"{number:02d}-{seed}.safetensors", seed, chosen[seed])
                for seed in range(self.seeds)
            ]
        if not self.fits:
            raise UserError("no arm of the plan can be fitted: " + "; ".join(f"{n}: {r}" for _, n, r in self.skipped))

    def _fit(self, arm: Arm, path: Path, seed: int, chosen: list) -> Probe:
        key = fit_key(
            chosen, self.stamps, json.dumps([self.features.net.cfg.to_dict(), self.plan.sha256]), self.plan.probe.l2
        )
        if (found := load_fit(path, key)) is not None:
            return found
        began = time.monotonic()
        found = fit_arm(chosen, self.offered, self.plan.probe.l2)
        save_fit(path, key, found)
        f = found.facts
        slow = "" if f["converged"] else "; the minimum was not reached"
        spent = clock(time.monotonic() - began)
        self.listener.tell(
            f"{arm.name}, seed {seed}: cross-entropy {f['loss']:.4f}, {f['iterations']} iterations in {spent}{slow}"
        )
        return found

    # ---- the tests

    def judge(self, out: Path, state: dict) -> StudyResult:
        """Open the tests, score, compare, and keep the scores."""
        self.offered.clear()  # room for the rest
        tests = self._tests()
        valid, scores = self._scores(self.valid, "valid"), {}
        scores = {name: self._scores([opened], name) for name, opened in tests.items()}
        arms = [arm.name for arm in self.plan.arms if arm.name in self.fits or arm.name in self.raw]
        scored = {
            arm: Scored(
                {c: v[arm] for c, v in valid.items()},
                {test: {c: v[arm] for c, v in of.items()} for test, of in scores.items()},
            )
            for arm in arms
        }  # fmt: skip
        pairs = []
        for one in self.plan.comparisons:
            if {one.first, one.second} <= set(arms):
                pairs.append((one.first, one.second))
            else:
                self._skip("comparison", f"{one.first} - {one.second}", "an arm of it was left out")
        found = compare(
            scored, pairs, self.plan.endpoint, self.plan.fpr, resamples=self.plan.resamples, seed=self.plan.seed
        )
        thresholds = {
            arm: [threshold_of(s.valid, k, self.plan.fpr) for k in range(self.seeds)] for arm, s in scored.items()
        }
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        state = {**state, "opened": [*state["opened"], now]}
        _write_state(out, state)
        _keep(out / SCORES, scored)
        if len(state["opened"]) > 1:
            self.notes.append(f"test scores were handed out {len(state['opened'])} times: {', '.join(state['opened'])}")
        facts = {arm: [one.facts for one in self.fits.get(arm, [])] for arm in arms}
        return StudyResult(self.plan, self.seeds, f"{self.plan.probe.model}, weights {self.features.origin}", facts,
                           thresholds, found, self.images, self.skipped, state["opened"], self.notes)  # fmt: skip

    def _tests(self) -> dict[str, Opened]:
        found = {}
        for name, material in self.plan.tests.items():
            try:
                found[name] = self._opened(material)
            except UserError as error:
                if name in self.plan.endpoint:
                    raise UserError(f"test {name!r}, of the primary endpoint: {error}") from None
                self._skip("test", name, str(error))
        return found

    def _scores(self, opened: list[Opened], name: str) -> dict[str, dict[str, np.ndarray]]:
        """condition -> arm -> float64 [seeds, images]."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for condition in self.plan.conditions:
            tables = [self.features.measured(one, condition) for one in opened]
            found[condition] = {
                arm: np.stack([np.concatenate([fit.logits(table) for table in tables]) for fit in fits])
                for arm, fits in self.fits.items()
            }
            for arm, raw in self.raw.items():
                views = [
                    raw.scores(one, table.kept, self.features.conditions[condition], self.plan.seed)
                    for one, table in zip(opened, tables)
                ]
                found[condition][arm] = np.tile(np.concatenate(views), (self.seeds, 1))
            if condition == self.plan.conditions[0]:
                for one, table in zip(opened, tables):
                    self._count(one.name, table)
        return found


def _keep(path: Path, scored: Mapping[str, Scored]) -> None:
    """Every score, under "arm/valid or test/condition": float64 [seeds, images]."""
    arrays: dict[str, np.ndarray] = {}
    for arm, one in scored.items():
        for test, conditions in {"valid": one.valid, **one.tests}.items():
            arrays |= {f"{arm}/{test}/{condition}": values for condition, values in conditions.items()}
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
