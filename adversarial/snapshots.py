"""What a run leaves at intervals and at its end: generators, their FID, sample grids, detectors, final figures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from adversarial import verdict_phase
from adversarial.config import GameConfig
from adversarial.game import Game
from adversarial.health import diversity, feature_diversity
from adversarial.quality import FidMonitor, beside_fid
from common.clock import clock
from common.errors import UserError
from common.files import save_atomically, write_json
from common.outputs import plain
from common.reading import json_of
from discriminator.detector import Detector
from faces.dataset import to_float
from faces.degrade import preset as degradation_preset
from metrics.few import auc_text, balanced_text, counts_text, share_text
from stylegan2_ada.files import save_generator
from synth.grid import contact_sheet
from synth.options import Rendering
from synth.sample import sample
from training.data import RunData
from training.run_folder import SNAPSHOTS, snapshot_path, snapshots
from training.telemetry import Telemetry

BEST = "generator-best.safetensors"


class Diverse(NamedTuple):
    """How diverse samples are, relative to as many reals: in layouts and colours, and to the discriminator's eye."""

    pixels: float
    features: float


class Snapshots:
    """Writes into a run's folder what people look at and use; only `generator` does anything on ranks other than 0."""

    def __init__(self, folder: Path, cfg: GameConfig, game: Game, data: RunData, fid: FidMonitor, tel: Telemetry):
        self.folder, self.cfg, self.game, self.data, self.fid, self.tel = folder, cfg, game, data, fid, tel

    def take(self, *, final: bool, detector: bool) -> dict | None:
        """The generator as a file, its FID, and the detector as it would judge today.

        Returns the FID's row, None where none was measured.
        """
        game = self.game
        kimg = game.nimg / 1000
        path = snapshot_path(self.folder, "generator", game.nimg)
        if self.tel.is_main:
            facts = self.cfg.data_facts
            meta = {"kimg": kimg, "data": facts["name"], "fingerprint": facts["fingerprint"]}
            meta |= {"patches": facts["patches"]["size"]} if "patches" in facts else {}
            save_generator(path, game.G_ema, meta | {k: facts[k] for k in ("classes",) if k in facts})
        row = self.fid.measure(game.G_ema, game.nimg, final=final)
        if not self.tel.is_main:
            return None
        self._leave_other_best(kimg)
        if row:
            self.tel.metric(row)
            self.tel.say(
                f"{row['metric']} {row['fid']:.2f}{beside_fid(row)} at {kimg:.2f} kimg ({row['dims']} dimensions,"
                f" {clock(row['seconds'])})" + ("  best so far" if row["best"] else "")
            )
            if row["best"]:
                self._keep_as_best(path)
        self._prune(game.nimg)
        if detector:
            self.save_detector()
        return row

    def _keep_as_best(self, path: Path) -> None:
        save_atomically(self.folder / BEST, lambda tmp: shutil.copyfile(path, tmp) and None)

    def _prune(self, nimg: int) -> None:
        """Remove generators but the last `keep` up to that of `nimg` images and the first of every `keep_every` kimg.

        Later ones belong to a course the run has left: it was resumed from an earlier checkpoint.
        """
        o = self.cfg.options
        found = snapshots(self.folder, "generator")
        ours = [(at, path) for at, path in found if at <= nimg]
        stay = {path for _, path in ours[-o.keep :]}
        if o.keep_every is not None:
            window = max(1, round(o.keep_every * 1000))
            stay.update({at // window: path for at, path in reversed(ours)}.values())
        for _, old in found:
            if old not in stay:
                old.unlink(missing_ok=True)

    def _leave_other_best(self, kimg: float) -> None:
        """A best generator of later than `kimg` is of a course the run has left, like `_prune`'s: in its place comes
        the best one of this course, where that is still there."""
        path, best = self.folder / BEST, self.fid.best
        if kimg_of(path) <= kimg:
            return
        path.unlink(missing_ok=True)
        for nimg, own in snapshots(self.folder, "generator"):
            if best is not None and nimg <= best["nimg"] and kimg_of(own) == best["nimg"] / 1000:
                self._keep_as_best(own)

    def forget_after(self, nimg: int) -> None:
        """Remove generators and sheets of later than `nimg` images: of a course that the run has left."""
        for kind in SNAPSHOTS:
            self._forget(kind, nimg)

    def _forget(self, kind: str, nimg: int) -> None:
        for at, path in snapshots(self.folder, kind):
            if at > nimg:
                path.unlink(missing_ok=True)

    def save_detector(self, **mark) -> dict:
        """The detector as it judges today, calibrated on the validation images; `mark` joins its row of metrics."""
        try:
            detector, values = verdict_phase.calibrated_detector(self.game, self.data)
        except UserError as e:  # scores that are not numbers
            raise UserError(
                f"{self.folder}: the training has diverged ({e}); start again with a smaller `lr` or a larger `gamma`"
            ) from None
        detector.save(self.folder / "detector.safetensors")
        nimg = self.game.nimg
        row = {"nimg": nimg, "kimg": nimg / 1000, "metric": "verdict", **mark, **values}
        n = values["valid_n_real"], values["valid_n_fake"]
        scalars = {f"Metrics/verdict_{k}": v for k, v in values.items() if isinstance(v, float)}
        self.tel.record("metrics.jsonl", row, scalars, nimg)
        self.tel.say(
            f"verdict on validation images: AUC {auc_text(values['valid_auc'], *n)}, balanced accuracy"
            f" {balanced_text(values['valid_balanced_accuracy_at_half'], *n)}{counts_text(*n)}"
        )
        return values

    def _real_grid(self) -> np.ndarray:
        n = _grid_cells(self.cfg.resolution)
        return self.data.train.batch(self.game.feed.reals[self._grid_index(n)]).numpy()

    @torch.no_grad()
    def _fake_grid(self) -> np.ndarray:
        """The same seeds every time; with classes, each seed's is that of the real in the same cell of reals.png."""
        n = _grid_cells(self.cfg.resolution)
        feed, G = self.game.feed, self.game.G_ema
        if feed.classes is None:
            return sample(G, range(n), batch=16)
        of = feed.classes[self._grid_index(n)].tolist()
        images: dict[int, np.ndarray] = {}
        for k in sorted(set(of)):
            seeds = [i for i in range(n) if of[i] == k]
            images |= zip(seeds, sample(G, seeds, Rendering(class_index=k), batch=16), strict=True)
        return np.stack([images[i] for i in range(n)])

    def _grid_index(self, n: int) -> np.ndarray:
        return np.linspace(0, len(self.game.feed.reals) - 1, n).astype(int)

    def reals(self) -> None:
        """reals.png: training images from all over the set."""
        self._grid(self._real_grid(), self.folder / "reals.png")

    def fakes(self) -> Diverse:
        """fakes-<kimg>.png: the averaged generator on the same seeds every time.

        Returns how diverse they are beside as many reals (`adversarial.health.diversity`, `feature_diversity`).
        """
        images, reals = self._fake_grid(), self._real_grid()
        self._grid(images, snapshot_path(self.folder, "fakes", self.game.nimg))
        self._forget("fakes", self.game.nimg)  # a report shows the last one as that of today
        pixels, features = ([of(x) for x in (images, reals)] for of in (diversity, self._feature_diversity))
        return Diverse(pixels[0] / max(pixels[1], 1e-9), features[0] / max(features[1], 1e-9))

    @torch.no_grad()
    def _feature_diversity(self, images: np.ndarray) -> float:
        """Of what the discriminator's trunk makes of uint8 [n, C, H, W] before its minibatch statistic."""
        net = self.game.D if self.game.D_ema is None else self.game.D_ema
        found = []
        for i in range(0, len(images), 16):
            x = to_float(torch.from_numpy(np.ascontiguousarray(images[i : i + 16])).to(self.game.world.device))
            found.append(net.trunk.features(x, force_fp32=True)[-1].flatten(1).double().cpu())
        return feature_diversity(torch.cat(found).numpy())

    def _grid(self, images: np.ndarray, path: Path) -> None:
        sheet = contact_sheet(images)
        save_atomically(path, lambda tmp: Image.fromarray(sheet).save(tmp, format="PNG"))
        self.tel.image(f"Images/{path.name.split('-')[0].split('.')[0]}", sheet, self.game.nimg)

    def final(self, warned: Sequence[str] = ()) -> None:
        """The shipped detector of the run and what it does on images nothing was chosen on. warned: what the run had to
        say against itself; it stands above the figures once more."""
        for line in warned:
            self.tel.say(f"warning: {line}")
        values = self.save_detector(final=True)
        game, data = self.game, self.data
        calibration = Detector.load(self.folder / "detector.safetensors").calibration
        held, measured_on = (data.valid, "validation") if data.test is None else (data.test, "test")
        presets = {"clean": "none", "web": "web", "hard": "hard"}
        judged = {
            k: verdict_phase.judge(game, held, degradation_preset(v), "test", keep=k == "clean")
            for k, v in presets.items()
        }
        figures = {f"held_out_{k}": verdict_phase.figures(v, calibration) for k, v in judged.items()}
        result = {"kimg": game.nimg / 1000, "validation": values, "detector": "detector.safetensors"}
        result |= {"measured_on": measured_on, **figures}
        clean = judged["clean"]
        if game.feed.classes is None:  # with classes the adversarial head judges image and class together
            result["adversarial_logit_auc"] = verdict_phase.negative_control(game, clean)

        def write(tmp: Path) -> None:
            with open(tmp, "wb") as f:  # by name numpy would append .npz to it
                score = calibration.probability(clean.logits)
                np.savez_compressed(f, score=score, label=clean.labels, origin=clean.origin)

        save_atomically(self.folder / "scores.npz", write)
        write_json(self.folder / "verdict.json", plain(result))
        f = figures["held_out_clean"]
        n = f["n_real"], f["n_fake"]
        self.tel.say(
            f"{measured_on} images: AUC {auc_text(f['auc'], *n)}, balanced accuracy"
            f" {balanced_text(f['balanced_accuracy_at_half'], *n)}, false alarms"
            f" {share_text(f['false_alarm_rate'], n[0])} of {n[0]} at the shipped threshold, which finds"
            f" {share_text(f['tpr'], n[1])} of the fakes{counts_text(*n)}"
        )
        self.tel.say(f"detector    {self.folder / 'detector.safetensors'}")


def kimg_of(path: Path) -> float:
    """How far the training was that a generator file is of; -1 where there is no such file, or it doesn't say."""
    try:
        with safe_open(path, framework="pt") as file:
            return float(json_of((file.metadata() or {})["meta"])["kimg"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return -1.0


def _grid_cells(resolution: int) -> int:
    return 64 if resolution <= 64 else 35 if resolution <= 128 else 24
