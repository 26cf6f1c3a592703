"""Joins detectors, calibrates the joint answer, and says whether it was worth it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from common.device import pick_device
from common.errors import UserError
from common.words import counted
from discriminator.calibration import FPRS, Calibration, calibrate, default_fpr_for, sigmoid, threshold_at_fpr
from discriminator.detector import Detector
from discriminator.ensemble import Ensemble, EnsembleConfig, Head, Majority, Member, Stack, Weighted
from discriminator.ensemble_fit import as_given, cross_fitted, fit_head, joined_scores
from discriminator.locate import find_detector
from discriminator.options import MODELS, SHIPPED
from discriminator.origins import lessons_told, said_by_all
from discriminator.soup import soup
from discriminator.two_views import TwoViews
from discriminator.wise_ft import wise_ft
from evaluation.ensemble_scores import (
    MemberScores,
    check_order,
    deal_rows,
    fit_parts,
    open_all,
    read_oof,
    score_parts,
    tell_parts,
)
from evaluation.listener import Listener
from evaluation.options import SOUP, WISE_FT, EnsembleOptions
from evaluation.scoring import LabelledImages, Scorer, chosen, spread
from faces.degrade import preset
from faces.preprocess import Preprocess
from metrics.classification import roc_auc, tpr_at_fpr
from metrics.scores import groups_in_words
from metrics.significance import delong, paired

ALPHA = 0.8
SEEN = 384  # training images of a class that batch norms' statistics are found on


@dataclass(frozen=True)
class Words:
    """What the result of a method is called (`it`), and what it was made of."""

    it: str = "the ensemble"
    part: str = "member"
    best: str = "its best member"
    starred: str = "best member on the images that were fitted on"

    @classmethod
    def of(cls, method: str, names: Sequence[str]) -> Words:
        """names: of what it was made of, none of which it is called by."""
        words = cls()
        if method == SOUP:
            best = "the best network it was made of"
            words = cls("the soup", "network", best, f"{best}, by the images it was calibrated on")
        elif method == WISE_FT:
            words = cls("the wise-ft network", "network", names[0], "what it was made of")
        return replace(words, it=f"{words.it} (new)") if words.it in names else words


@dataclass
class EnsembleComparison:
    """What was made, called `name`, beside what it was made of, on images `of`. systems: {name: {"auc", "found",
    "false_alarms", "balanced", "tpr_at_fpr_…"}}; best: the best of what it was made of, best_is: that in words; gaps:
    it less the best, with intervals; words: what that means."""

    of: str
    n_real: int
    n_fake: int
    best: str
    target: float
    systems: dict[str, dict[str, float]]
    gaps: dict[str, dict[str, float]]
    p: float
    words: str
    name: str = Words.it
    best_is: str = Words.starred
    notes: list[str] = field(default_factory=list)


@dataclass
class EnsembleResult:
    """The detector, calibrated, by which method, what it was made of (names), and what it is worth beside that."""

    detector: Detector
    method: str
    names: list[str]
    comparison: EnsembleComparison

    def to_json(self) -> dict:
        d = self.detector
        return {
            "sha256": d.sha256, "meta": d.meta, "comparison": asdict(self.comparison),
            "calibration": d.calibration.to_dict(),
        }  # fmt: skip


def make_ensemble(options: EnsembleOptions, listener: Listener = Listener()) -> EnsembleResult:  # noqa: B008 (frozen)
    """Fit, calibrate, compare. UserError, one line, for what a person can mend."""
    device = pick_device(options.device)
    members = [Detector.load(detector_file(spec), device) for spec in options.models]
    names = short_names(options.models)
    _check_members(options, members)
    words = Words.of(options.method, names)
    for name, member in zip(names, members):
        p = member.preprocess
        listener.tell(f"{words.part} {name}: {p.resolution}x{p.resolution}, sha256 {member.sha256[:12]}…")

    check_order(options, members)
    judged = list(members)
    if options.method == SOUP:
        judged.append(soup(members, options.models))
    elif options.method == WISE_FT:
        judged.append(_between(options, members[0], listener))
    fit, test = _gather(options, members, judged, listener)
    notes = list(fit.notes)
    if len({m.trained_on_aligned_faces for m in members}) > 1:
        notes.append(
            f"some {words.part}s know aligned faces only, others whole photos: photos will be brought to aligned faces"
            " for all"
        )
    for line in notes:
        listener.tell(f"note: {line}")
    if options.method in (SOUP, WISE_FT):
        detector, scores = blended(options.method, names, judged, fit)
    else:
        detector, scores = join(options.method, names, members, fit, options.weights)
    detector.meta[made_in(options.method)]["notes"] = notes
    found = compare_with_members(
        detector, dict(zip(names, members)), fit, scores, test, words, resamples=options.resamples, seed=options.seed
    )
    return EnsembleResult(detector, options.method, names, found)


def _between(options: EnsembleOptions, member: Detector, listener: Listener) -> Detector:
    """wise-ft's network, its norms' statistics of training images, clean, both classes mixed evenly."""
    alpha = ALPHA if options.alpha is None else options.alpha
    assert options.backbone_weights is not None
    part = next((p for p in open_all(options) if any(item.split == "train" for item in p.source.items)), None)
    if part is None:
        raise UserError(
            f"`data` {', '.join(options.data)}: has no training split, on whose images batch norms' statistics are"
            " found; give the set that the network was taught with"
        )
    train = np.array([item.split == "train" for item in part.source.items])
    rows = [spread(np.flatnonzero(train & (part.labels == label)), SEEN) for label in (0, 1)]
    index = np.concatenate(rows)[np.argsort(np.concatenate([np.linspace(0, 1, len(r)) for r in rows]), kind="stable")]
    seen = chosen(part, index)
    listener.tell(f"batch norms' statistics: of {counted(len(index), 'training image')} of {part.spec}")
    scorer = Scorer(member, options)
    images = (
        pixels for some in scorer.prepared(seen, preset("none")) for _, pixels in some if isinstance(pixels, np.ndarray)
    )
    return wise_ft(member, options.models[0], options.backbone_weights, alpha, images)


# ---- checks -------------------------------------------------------------------------------------------------------


def _check_members(options: EnsembleOptions, members: Sequence[Detector]) -> None:
    seen: dict[str, str] = {}
    for spec, member in zip(options.models, members):
        if isinstance(member.net, Ensemble):
            raise UserError(f"{spec}: is an ensemble itself; give its members instead")
        if isinstance(member.net, TwoViews):
            raise UserError(f"{spec}: joins two views already; give the detector of faces that it was made of instead")
        check_looks_once(spec, member)
        if first := seen.get(member.sha256):
            raise UserError(f"{spec}: is the same detector as {first}; each counts once, leave one out")
        seen[member.sha256] = spec
        out = Path(options.out)
        if out.exists() and out.resolve() == find_detector(spec).resolve():
            raise UserError(f"`out` {options.out}: is what the new one is made of; choose another name")
        if not options.oof:
            check_no_fold(spec, member, "give the out-of-fold scores with `oof` RUN/oof.csv, one for each member")


def check_no_fold(spec: str, detector: Detector, instead: str) -> None:
    """UserError for a fold's detector, where validation images are judged. instead: what to give."""
    if "fold" in detector.meta:
        raise UserError(
            f"{spec}: is one fold of a cross-validation, taught with most of its set, the validation images included;"
            f" {instead}"
        )


def check_looks_once(spec: str, detector: Detector) -> None:
    """UserError for a detector that looks twice where the first look is what counts."""
    if detector.second_look is not None:
        raise UserError(f"{spec}: looks twice at some images already; give the detector that it was made of")


def detector_file(spec: str, parameter: str = "models") -> Path:
    """The detector file that `spec`, a file or a run folder, means. UserError where it is none that PyTorch reads."""
    path = find_detector(spec, parameter=parameter)
    if path.suffix.lower() == ".onnx":
        raise UserError(f"{spec}: is a network exported for ONNX Runtime; give the detector.safetensors it came from")
    return path


def short_names(specs: Sequence[str]) -> list[str]:
    """What detectors are called in tables: the last part of each path that tells them apart, for a run its folder's
    name, for the one that comes with the project «shipped»."""
    parts = []
    for spec in specs:
        path = Path(spec)
        if path.resolve() in (MODELS, *SHIPPED):
            parts.append(["shipped"])
            continue
        if path.name in ("", "..", *(f"detector{ending}" for ending in (".safetensors", ".onnx"))):
            path = path.resolve()  # its run's name may not be in what was typed
        words = [w for w in path.parts if w not in ("/", ".", "..")]
        last = path.name.rsplit(".", 1)[0] if path.suffix in (".safetensors", ".csv") else path.name
        words = [*words[:-1], last] if words else [last]
        while words[-1] in ("detector", "models") and len(words) > 1:
            words = words[:-1]
        parts.append(words)
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(words[-depth:]) for words in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(words)} ({i + 1})" for i, words in enumerate(parts)]


# ---- data ---------------------------------------------------------------------------------------------------------


def _gather(
    options: EnsembleOptions, members: Sequence[Detector], judged: Sequence[Detector], listener: Listener
) -> tuple[MemberScores, MemberScores | None]:
    """(what is fitted and calibrated on, what tests), of `judged`, which are the members and what was made of them."""
    valid_parts: list[LabelledImages] = []
    test_parts: list[LabelledImages] = []
    out_of_fold = read_oof(options.oof) if options.oof else None
    if out_of_fold is not None:
        for spec in options.oof:
            folds = len(np.unique(out_of_fold.folds))
            listener.tell(
                f"{spec}: out-of-fold scores of {counted(len(out_of_fold.labels), 'image')} in {counted(folds, 'fold')}"
            )
    if options.data:
        known = None if out_of_fold is None else set(out_of_fold.paths)
        valid_parts, test_parts = fit_parts(options, members, oof_paths=known)
    one = options.method in (SOUP, WISE_FT)
    tell_parts(listener, valid_parts, test_parts, "calibrated" if one else "fitted and calibrated")
    fit = out_of_fold or score_parts(judged, valid_parts, options, listener, degraded=True, what="validation")
    if not options.each_source:
        fit = replace(fit, sources=None)
    if out_of_fold is None:
        fit.folds = deal_rows(fit, options.seed)
    if not test_parts:
        return fit, None
    test = score_parts(judged, test_parts, options, listener, degraded=False, what="test")
    if len(np.unique(test.labels)) < 2:
        raise UserError(f"`data` {', '.join(options.data)}: its test images are of one class only; give some with both")
    return fit, test


# ---- fitting ------------------------------------------------------------------------------------------------------


def join(
    method: str, names: Sequence[str], members: Sequence[Detector], fit: MemberScores, weights: Sequence[float] = ()
) -> tuple[Detector, np.ndarray]:
    """(the ensemble with its calibration, its scores float64 [views, n] on the rows, cross-fitted where something was
    fitted). weights: of `weighted`, where they are given and not fitted. UserError where a class is missing."""
    views, n, count = fit.z.shape
    labels = np.tile(fit.labels, views)
    z, folds = fit.z.reshape(-1, count), np.tile(fit.folds, views)
    calibrations = [m.calibration for m in members]
    _check_classes(fit)

    def fitted(z: np.ndarray, labels: np.ndarray):
        if weights:
            return Weighted(weights=np.array(weights) / np.sum(weights))
        return fit_head(method, z, labels, calibrations)

    head = fitted(z, labels)
    learnt = isinstance(head, (Weighted, Stack)) and not weights
    scores = as_given(cross_fitted(z, labels, folds, fitted) if learnt else joined_scores(head, z))
    calibration = _calibration(scores, fit)
    sizes = (head.axes.shape[0], len(head.vectors)) if isinstance(head, Stack) else (0, 0)
    named = [Member(m.net.cfg.to_dict(), _look_of(m), m.calibration, name, m.sha256) for m, name in zip(members, names)]
    net = Ensemble(EnsembleConfig(tuple(named), method, sizes), [m.net for m in members], head)
    meta: dict = {"model": "ensemble", "parameters": sum(p.numel() for p in net.parameters())}
    alike = said_by_all([m.meta for m in members])
    meta |= {key: alike[key] for key in ("patches", "train_images") if key in alike} | _origin(members, fit)
    meta["ensemble"] = {
        "method": method, "members": list(names), "sha256": [m.sha256 for m in members], "fitted_on": fit.said,
        "cross_fitted_folds": int(len(np.unique(fit.folds))) if learnt else 0,
    }  # fmt: skip
    detector = Detector(net, net.preprocess, calibration, meta)
    return detector, scores.reshape(views, n)


def blended(
    method: str, names: Sequence[str], judged: Sequence[Detector], fit: MemberScores
) -> tuple[Detector, np.ndarray]:
    """As `join`, of a soup or of wise-ft's network, which is the last of `judged` and of the rows' scores; what it was
    made of comes before."""
    _check_classes(fit)
    *parts, mixed = judged
    scores = fit.z[:, :, -1]
    calibration = _calibration(scores.ravel(), fit)
    meta = mixed.meta | _origin(parts, fit)
    meta[made_in(method)] |= {"names": list(names)}
    return Detector(mixed.net, mixed.preprocess, calibration, meta), scores


def _check_classes(fit: MemberScores) -> None:
    if len(np.unique(fit.labels)) < 2:
        raise UserError("calibrating needs real and fake images; give `data` with both")


def _calibration(scores: np.ndarray, fit: MemberScores) -> Calibration:
    """scores [views * n], view by view."""
    views, n_real = len(fit.z), int((fit.labels == 0).sum())
    sources = None if fit.sources is None else np.tile(fit.sources, views)
    labels = np.tile(fit.labels, views)
    return calibrate(scores, labels, default_fpr=default_fpr_for(n_real), views=views, sources=sources)


def made_in(method: str) -> str:
    """Where a header says what a detector was made of."""
    return {SOUP: "soup", WISE_FT: "wise_ft"}.get(method, "ensemble")


def _origin(members: Sequence[Detector], fit: MemberScores) -> dict:
    """What a header says of where a joined detector comes from."""
    return fit.origin | lessons_told(m.meta for m in members) | {
        "trained_on": ", ".join(dict.fromkeys(str(m.meta.get("trained_on")) for m in members)),
        "face": "ffhq" if any(m.trained_on_aligned_faces for m in members) else "whole",
    }  # fmt: skip


# ---- comparing ----------------------------------------------------------------------------------------------------


def compare_with_members(
    detector: Detector,
    members: Mapping[str, Detector],
    fit: MemberScores,
    scores: np.ndarray,
    test: MemberScores | None,
    told: Words,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> EnsembleComparison:
    """A detector and what it was made of at the same false-alarm rates; the best of that is chosen where the detector
    was fitted, not where it is tested. scores [views, n]: the detector's on the rows `fit`."""
    names = list(members)
    head = head_of(detector)  # none: a single network, whose scores come last
    flat = np.tile(fit.labels, fit.z.shape[0])
    aucs = [roc_auc(flat, fit.z[:, :, k].ravel()) for k in range(len(names))]
    best = names[int(np.argmax(aucs))]
    target = detector.calibration.default_fpr
    if test is not None:
        rows, z = test, test.z[0]
        joint = z[:, -1] if head is None else as_given(joined_scores(head, z))
        all_scores = {told.it: joint} | {name: z[:, k] for k, name in enumerate(names)}
        called = {told.it: detector.calibration.probability(joint) >= detector.calibration.at(target).threshold}
        for k, (name, member) in enumerate(members.items()):
            called[name] = sigmoid(z[:, k]) >= _point(member.calibration, target).threshold
        of = "test images, at thresholds set on validation images"
    else:
        rows = fit
        all_scores = {told.it: scores[0]} | {name: fit.z[0, :, k] for k, name in enumerate(names)}
        whole = {told.it: scores} | {name: fit.z[:, :, k] for k, name in enumerate(names)}
        called = {name: _cross_called(whole[name], fit, target) for name in all_scores}
        of = (
            "images, those it was calibrated on, each judged at a threshold set without its fold"
            if head is None
            else "images, those it was fitted on, cross-fitted: each judged by what was fitted and set without its fold"
        )
    reals = int((rows.labels == 0).sum())
    fprs = [f for f in FPRS if reals * f >= 1] or [max(FPRS)]
    shown = target if target in fprs else max(fprs)
    systems = _systems(rows, all_scores, called, fprs)
    gaps = paired(
        rows.labels, {told.it: all_scores[told.it], best: all_scores[best]}, fprs,
        called={told.it: called[told.it], best: called[best]}, groups=rows.groups, count=resamples, seed=seed,
    )[best]  # fmt: skip
    p = delong(rows.labels, all_scores[told.it], all_scores[best]).p
    found = EnsembleComparison(
        of, reals, len(rows.labels) - reals, best, shown, systems, gaps, p,
        _in_words(told, gaps, best, shown, 1 if head is None else len(names)), told.it, told.starred,
    )  # fmt: skip
    if together := groups_in_words(rows.groups):
        found.notes.append(f"intervals: {together}; DeLong's p counts images")
    if isinstance(head, Majority):
        fake, plain_vote = rows.labels == 1, all_scores[told.it] >= 0
        found.notes.append(
            f"the plain majority (ties by the mean) finds {100 * plain_vote[fake].mean():.1f} % of the fakes at"
            f" {100 * plain_vote[~fake].mean():.1f} % false alarms"
        )
    if test is None:
        found.notes.append(
            "no test images: these scores are of the folds' detectors, which the members in the file may not be"
            if fit.out_of_fold
            else f"no test images: the {told.part}s chose their best state by validation images, maybe these"
        )
    return found


def _look_of(member: Detector) -> Preprocess:
    if not isinstance(member.preprocess, Preprocess):
        raise UserError("a member is a single network; give the detectors that it was made of instead")
    return member.preprocess


def head_of(detector: Detector) -> Head | None:
    """What joins an ensemble's members; None where they became one network."""
    return detector.net.head if isinstance(detector.net, Ensemble) else None


def _point(calibration: Calibration, target: float):
    try:
        return calibration.at(target)
    except UserError:
        return calibration.at()


def _cross_called(scores: np.ndarray, fit: MemberScores, target: float) -> np.ndarray:
    """bool [n] for the first view: called FAKE at a threshold that was set without the image's fold."""
    called = np.zeros(scores.shape[1], bool)
    for fold in np.unique(fit.folds):
        out = fit.folds == fold
        threshold = threshold_at_fpr(scores[:, ~out & (fit.labels == 0)].ravel(), target)
        called[out] = scores[0, out] >= threshold
    return called


def _systems(rows: MemberScores, scores: dict, called: dict, fprs: Sequence[float]) -> dict[str, dict[str, float]]:
    fake, out = rows.labels == 1, {}
    for name, values in scores.items():
        hit, alarm = float(called[name][fake].mean()), float(called[name][~fake].mean())
        out[name] = {"auc": roc_auc(rows.labels, values), "found": hit, "false_alarms": alarm}
        out[name] |= {"balanced": (1 - alarm + hit) / 2, "accuracy": float((called[name] == fake).mean())}
        out[name] |= {f"tpr_at_fpr_{f:g}": tpr_at_fpr(rows.labels, values, f) for f in fprs}
    return out


def between(low: float, high: float, form: str) -> str:
    """An interval of a difference in words."""
    if not math.isfinite(low):
        return "the same in every resample, which has no interval"
    return f"95 % interval {form.format(low)} to {form.format(high)}"


def _in_words(told: Words, gaps: dict, best: str, target: float, count: int) -> str:
    gap = gaps[f"tpr_at_fpr_{target:g}"]
    value, low, high = (100 * gap[key] for key in ("value", "low", "high"))
    said = f"{value:+.1f} points of fakes found at {100 * target:g} % false alarms"
    said += f" ({between(low, high, '{:+.1f}')})"
    if told.best == best:  # it was made of this alone
        return f"here, beside {best}: {said}; what it is for are sets that {best} was not taught on: judge both on such"
    if low > 0:
        return f"{told.it} beats {told.best}, {best}: {said}"
    if high < 0:
        return f"{told.it} is WORSE than {told.best}, {best}: {said}; use {best} alone"
    plain = f"{told.it} does NOT beat {told.best}, {best}, as far as these images can tell: {said}"
    return plain if count == 1 else f"{plain}; {best} alone needs one network instead of {count}"
