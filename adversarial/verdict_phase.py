"""After the game: the verdict head learns on alone against a frozen generator, is calibrated and measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adversarial.game import Game
from discriminator.calibration import Calibration, calibrate, default_fpr_for
from discriminator.detector import Detector
from faces.dataset import DecodedFaces, to_float
from faces.degrade import Degradation, apply_batch
from faces.degrade import preset as degradation_preset
from faces.preprocess import Preprocess
from metrics.classification import roc_auc
from training.data import RunData
from training.randomness import derive, seed_torch

CURRENT_FAKES = 16  # fresh fakes per step of the verdict-only phase
JUDGED_AT_ONCE = (64, 64 * 128**2)  # images, and pixels: 64 of 128 pixels, 16 of 256, which take half a GB


def begin_verdict_phase(game: Game) -> None:
    """Freeze the game: the discriminator goes on from its averaged trunk, which no longer moves."""
    game.D.load_state_dict(game.detector.state_dict())
    game.D.trunk.requires_grad_(False)


def verdict_step(game: Game, index: int) -> None:
    """Step `index` of the verdict-only phase: fresh fakes of the frozen generator, replay, labelled fakes, reals.

    The learning rate falls to zero along a half cosine; the averaged weights follow with a half-life of 5 % of the
    phase, so that the last, quiet part decides.
    """
    cfg = game.cfg
    total = cfg.verdict_steps
    it = game.step_index + index
    game.G.requires_grad_(False)
    for p in game.verdict_params:
        p.requires_grad_(True)
        p.grad = None
    for group in game.opt_V.param_groups:
        group["lr"] = game.factor * cfg.options.verdict_lr * 0.5 * (1 + math.cos(math.pi * index / total))
    for m in game.parts():
        seed = seed_torch(cfg.options.seed, it, "finish", m)
        current = game.sample_ema(CURRENT_FAKES, "finish", seed % 2**31)
        game.verdict_backward(it, m, cfg.verdict_part, current)
    game.update("V", game.opt_V, game.verdict_params)
    beta = 0.5 ** (1 / max(0.05 * total, 1e-8))
    owned = {id(p) for p in game.verdict_params}
    pairs = [(e, p) for e, p in zip(game.detector.parameters(), game.D.parameters(), strict=True) if id(p) in owned]
    torch._foreach_lerp_([e.data for e, _ in pairs], [p.data for _, p in pairs], 1 - beta)


@torch.no_grad()
def logits_of(game: Game, images: np.ndarray, *, adversarial: bool = False) -> np.ndarray:
    """Averaged discriminator's verdict logits (or minus its adversarial logits: high = fake) for uint8 [N, C, H, W]."""
    out: list[Tensor] = []
    net, (most, pixels) = game.detector, JUDGED_AT_ONCE
    batch = max(1, min(most, pixels // (images.shape[2] * images.shape[3])))
    for i in range(0, len(images), batch):
        x = to_float(torch.from_numpy(np.ascontiguousarray(images[i : i + batch])).to(game.world.device))
        out.append((-_one_by_one(net, x) if adversarial else net.verdict(x).logit).float().cpu())
    return torch.cat(out).double().numpy()


def _one_by_one(net, x: Tensor) -> Tensor:
    """Adversarial logits [N] with every image its own minibatch-std group: padded by copies of itself."""
    group = max(1, net.cfg.trunk.mbstd_group_size)
    return torch.cat([net.adversarial(x[i : i + 1].expand(group, -1, -1, -1))[:1, 0] for i in range(len(x))])


@dataclass
class ScoredImages:
    """Scores of one set of images: P(fake) [n], labels, and where each came from; the images if they were kept."""

    logits: np.ndarray
    labels: np.ndarray
    origin: np.ndarray
    images: np.ndarray | None


def judge(game: Game, faces: DecodedFaces, degradation: Degradation, phase: str, *, keep: bool = False) -> ScoredImages:
    """Logits of a held-out split: its reals, its fakes if labelled, and as many fresh fakes of the averaged generator.

    Fresh fakes come from seeds no training step used. Images pass `degradation` first ('none' leaves them alone). keep:
    with the images in the result, which at 256 pixels are 0.2 MB each.
    """
    labels = np.asarray(faces.labels[: len(faces.images)])
    reals = faces.images[labels == 0]
    fakes = faces.images[labels == 1]
    own = game.sample_ema(len(reals), phase, 2**31 - 1)
    images = np.concatenate([reals, fakes, own])
    origin = np.array(["real"] * len(reals) + ["data set"] * len(fakes) + ["own generator"] * len(own))
    del reals, fakes, own
    images = apply_batch(degradation, images, derive(game.cfg.options.seed, 0, phase))
    labels = (origin != "real").astype(np.int64)
    return ScoredImages(logits_of(game, images), labels, origin, images if keep else None)


def calibrated_detector(game: Game, data: RunData) -> tuple[Detector, dict]:
    """The averaged discriminator as a stand-alone detector, calibrated on the validation split.

    Temperature and thresholds are fitted on the clean images and their degraded copies together, so that a stated
    false-alarm rate holds for re-saved photos too. Returns it with its validation figures.
    """
    clean = judge(game, data.valid, degradation_preset("none"), "calibrate")
    rough = judge(game, data.valid, degradation_preset(game.cfg.options.degradation), "calibrate")
    logits = np.concatenate([clean.logits, rough.logits])
    labels = np.concatenate([clean.labels, rough.labels])
    n_real = int((clean.labels == 0).sum())
    calibration = calibrate(logits, labels, default_fpr=default_fpr_for(n_real), views=2)
    cfg = game.cfg
    meta = {
        "trained_on": cfg.data_facts.get("name"),
        "fingerprint": cfg.data_facts.get("fingerprint"),
        "train_images": (cfg.data_facts.get("counts") or {}).get("train"),
        "kimg": game.nimg / 1000,
        "verdict_kimg": cfg.verdict_kimg,
        "calibrated_on": "validation images, each once clean and once degraded",
        "degradation": cfg.options.degradation,
        "validation_images": {"real": n_real, "fake": int(len(clean.labels) - n_real)},
    }
    if patches := cfg.data_facts.get("patches"):
        # patches of files at their own pixel scale: what is judged should be such patches, not a photo made smaller
        meta |= {"patches": patches["size"], "face": "whole", "validation_photos": patches["photos"]["valid"]}
    detector = Detector(game.detector, Preprocess.from_dict(cfg.data_facts["preprocess"]), calibration, meta)
    return detector, {f"valid_{k}": v for k, v in figures(clean, calibration).items()}


def figures(judged: ScoredImages, calibration: Calibration) -> dict:
    """AUC and accuracy at the shipped threshold, for all fakes and per origin; false-alarm rate of the reals."""
    point = calibration.at()
    score = calibration.probability(judged.logits)
    real = judged.labels == 0
    called = score >= point.threshold
    out = {"false_alarm_rate": float(called[real].mean()), "n_real": int(real.sum()), "threshold": point.threshold}
    out["n_fake"] = int((~real).sum())
    groups = {"": ~real} | {
        f"_{o.replace(' ', '_')}": judged.origin == o for o in dict.fromkeys(judged.origin[~real].tolist())
    }
    for name, fake in groups.items():
        both = real | fake
        balanced_half = 0.5 * (float((score[real] < 0.5).mean()) + float((score[fake] >= 0.5).mean()))
        out[f"auc{name}"] = float(roc_auc(judged.labels[both], score[both]))
        out[f"balanced_accuracy_at_half{name}"] = balanced_half
        out[f"tpr{name}"] = float(called[fake].mean())
        out[f"balanced_accuracy{name}"] = 0.5 * (float((~called[real]).mean()) + float(called[fake].mean()))
    return out


def negative_control(game: Game, judged: ScoredImages) -> float:
    """AUC of the raw adversarial logit on the same images, which were kept: a GAN's own critic is known to be a poor
    detector."""
    assert judged.images is not None
    return float(roc_auc(judged.labels, logits_of(game, judged.images, adversarial=True)))
