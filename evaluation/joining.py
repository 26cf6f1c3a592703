"""Two trained detectors made two views of one, on validation photos alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from common.device import pick_device
from common.errors import BadImage, UserError
from common.words import counted
from discriminator.calibration import calibrate, default_fpr_for
from discriminator.detector import Detector
from discriminator.ensemble import Ensemble
from discriminator.join import Join
from discriminator.pixels import Pixels
from discriminator.two_views import Part, TwoViews, TwoViewsConfig
from discriminator.two_views_fit import contradictions, fit_join, joint
from discriminator.views import FaceAndPixels
from evaluation.ensemble import check_looks_once, detector_file, short_names
from evaluation.ensemble_scores import LEAST, check_enough, fit_parts, rendered_alike, turns
from evaluation.listener import Listener
from evaluation.options import JoinOptions
from evaluation.scoring import LabelledImages, Scorer, chosen
from faces.degrade import PRESETS, Degradation, preset
from faces.pixel_crops import PixelCrops
from faces.preprocess import Preprocess
from metrics.answers import called_fake
from metrics.classification import roc_auc


@dataclass
class JoinedViews:
    """The detector, and the validation photos it was fitted on: raw logits float64 [views, n, 2] of face and pixels
    (NaN: too few pixels), labels [n]; sets [n]: of which `data` each is; skipped: (name, reason)."""

    detector: Detector
    join: Join
    logits: np.ndarray
    labels: np.ndarray
    sets: np.ndarray
    skipped: list[tuple[str, str]]


def join_views(options: JoinOptions, listener: Listener = Listener()) -> JoinedViews:  # noqa: B008 (frozen)
    """Fit, calibrate. UserError, one line, for what a person can mend."""
    device = pick_device(options.device)
    specs = (options.face, options.pixels)
    face, pixels = (Detector.load(detector_file(spec), device) for spec in specs)
    for spec, detector in zip(specs, (face, pixels), strict=True):
        check_looks_once(spec, detector)
    blank, cfg = _unfitted(options, face, pixels)
    p = cfg.preprocess.pixels
    listener.tell(
        f"face {options.face}: {face.preprocess.resolution}x{face.preprocess.resolution}; pixels {options.pixels}:"
        f" {p.grid} x {counted(p.grid, 'crop')} of {p.side}x{p.side}"
    )
    parts = rendered_alike(fit_parts(options, [face, pixels])[0], [face])
    for part in parts:
        listener.tell(f"fitted and calibrated on {part.describe()}")
    scorer = Scorer(blank, options)
    logits, views = _logits(scorer, parts, options.degradation, listener)
    labels = np.concatenate([part.labels for part in parts]).astype(int)
    sets = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    good = np.isfinite(logits[:, :, 0]).all(axis=0)
    check_enough(
        labels[good],
        lambda few: (
            f"`data` {', '.join(options.data)}: {few} validation photos can be judged; fitting takes {LEAST} of each"
            " class at least"
        ),
    )
    logits, labels, sets = logits[:, good], labels[good], sets[good]
    flat = logits.reshape(-1, 2)
    join = fit_join(options.join, flat, np.tile(labels, views), np.tile(sets, views))
    n_real = int((labels == 0).sum())
    scores = joint(join, flat)[1]
    fpr, labelled = default_fpr_for(n_real), np.tile(labels, views)
    of = np.tile(sets, views) if options.each_source else None
    calibration = calibrate(scores, labelled, default_fpr=fpr, views=views, sources=of)
    net = TwoViews(replace(cfg, join=join), face.net, pixels.net)
    said = "; ".join(f"{part.spec} ({', '.join(part.notes)})" for part in parts)
    said += ", each image clean and once degraded (the training's usual chain, web, hard in turn)" * (views > 1)
    meta = {
        "model": "two_views", "parameters": sum(one.numel() for one in net.parameters()),
        "trained_on": face.meta.get("trained_on"), "calibrated_on": said,
        "validation_images": {"real": n_real, "fake": len(labels) - n_real},
        "face": "ffhq" if face.trained_on_aligned_faces else "whole",
        "two_views": {
            "face": {"sha256": face.sha256, "meta": face.meta},
            "pixels": {"sha256": pixels.sha256, "meta": pixels.meta},
            "join": options.join, "fitted_on": said,
        },
    }  # fmt: skip
    detector = Detector(net, net.preprocess, calibration, meta)
    return JoinedViews(detector, join, logits, labels, sets, list(scorer.skipped.items()))


def _unfitted(options: JoinOptions, face: Detector, pixels: Detector) -> tuple[Detector, TwoViewsConfig]:
    """The two networks side by side, not joined yet."""
    if isinstance(face.net, TwoViews | Ensemble) or not isinstance(face.preprocess, Preprocess):
        raise UserError(f"{options.face}: is several networks already; give the detector of faces alone")
    if isinstance(face.net, Pixels):
        raise UserError(
            f"{options.face}: looks at pixels; name the detector of faces first, the one of pixels behind it"
        )
    if not pixels.net.any_size or not isinstance(pixels.preprocess, Preprocess):
        raise UserError(f"{options.pixels}: takes no crops of any size; give one of `train_detector.py --model pixels`")
    crops = PixelCrops(options.side or pixels.preprocess.resolution, options.grid, pixels.preprocess.channels)
    names = short_names([options.face, options.pixels])
    own = [Part(d.net.cfg.to_dict(), name, d.sha256) for d, name in zip((face, pixels), names, strict=True)]
    cfg = TwoViewsConfig(own[0], own[1], FaceAndPixels(face.preprocess, crops))
    return Detector(TwoViews(cfg, face.net, pixels.net), cfg.preprocess, face.calibration, face.meta), cfg


def _logits(
    scorer: Scorer, parts: Sequence[LabelledImages], degraded: bool, listener: Listener
) -> tuple[np.ndarray, int]:
    """(raw logits float64 [views, n, 2] over all parts, NaN for what can't be read or is not there; views)."""
    total = sum(map(len, parts)) * (1 + degraded)
    bar = listener.bar(total=total, title="validation scores", unit="img")
    scorer.advance = bar.update
    views = [np.concatenate([_of_part(scorer, part, PRESETS["none"]) for part in parts])]
    if degraded:
        worse = []
        for part in parts:
            values = np.full((len(part), 2), np.nan)
            for name, rows in turns(part):
                values[rows] = _of_part(scorer, chosen(part, rows), preset(name))
            worse.append(values)
        views.append(np.concatenate(worse))
    bar.close()
    return np.stack(views), len(views)


@torch.inference_mode()
def _of_part(scorer: Scorer, part: LabelledImages, degradation: Degradation) -> np.ndarray:
    """float64 [n, 2]"""
    detector, values = scorer.detector, np.full((len(part), 2), np.nan)
    assert isinstance(detector, Detector) and isinstance(net := detector.net, TwoViews)
    for some in scorer.prepared(part, degradation):
        good = [(i, row) for i, row in some if not isinstance(row, BadImage)]
        scorer.skipped |= {error.name: error.reason for _, error in some if isinstance(error, BadImage)}
        for at in range(0, len(good), detector.batch):
            few = good[at : at + detector.batch]
            rows = torch.from_numpy(detector.preprocess.normalise(np.stack([row for _, row in few])))
            out = net.view_logits(rows.to(detector.device))
            pixels = torch.where(out.there, out.pixels, torch.full_like(out.pixels, float("nan")))
            both = torch.stack([out.face.logit, pixels], 1).double().cpu().numpy()
            values[[i for i, _ in few]] = both
    return values


def lines_of(found: JoinedViews) -> list[str]:
    """What was fitted, for people."""
    join, views = found.join, len(found.logits)
    flat, labels = found.logits.reshape(-1, 2), np.tile(found.labels, views)
    z, score = joint(join, flat)
    there = np.isfinite(z[:, 1])
    lines = [f"left out {name}: {reason}" for name, reason in found.skipped[:5]]
    if len(found.skipped) > 5:
        lines.append(f"and {len(found.skipped) - 5} more that can't be read")
    lines.append(f"{int(there.sum())} of {len(there)} views of photos have pixels enough for crops")
    for k, name in enumerate(("face", "pixels")):
        some = np.isfinite(z[:, k])
        lines.append(
            f"{name:<7} AUC {roc_auc(labels[some], z[some, k]):.4f}; log-odds = logit / {join.temperatures[k]:.3f}"
            f" {join.biases[k]:+.3f}"
        )
    how = (
        f"the larger of face {-join.thresholds[0]:+.3f} and pixels {-join.thresholds[1]:+.3f}"
        if join.method == "either"
        else f"{join.weights[0]:.3f} face + {join.weights[1]:.3f} pixels {join.offset:+.3f}, the face alone without"
    )
    point = found.detector.calibration.at()
    unsure = contradictions(join, flat)
    said = called_fake(found.detector.calibration.probability(score), point.threshold, unsure)
    lines.append(f"joined  AUC {roc_auc(labels, score):.4f}; {how}")
    lines.append(f"threshold {point.threshold:.4f}: {point.describe()}")
    lines.append(
        f"found {100 * said[labels == 1].mean():.1f} % of the fakes, accused {100 * said[labels == 0].mean():.2f} % of"
        " the reals (UNSURE is neither)"
    )
    lines.append(
        f"contradiction: the face more than {join.apart[0]:.2f} above its pixels, or these more than"
        f" {join.apart[1]:.2f} above it: {100 * unsure.mean():.2f} % of the validation photos become UNSURE"
    )
    return lines
