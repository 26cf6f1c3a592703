"""Features of a study's images: found once by the network that stays as it is, and kept in the study's folder.

They lie in parts of a fixed number of images, each whole or absent, under a key of all that they depend on: a study
that goes on takes the parts that are there.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
import safetensors.torch
import torch

from common import reading
from common.clock import clock
from common.errors import BadImage, UserError
from common.files import write_bytes, write_json
from common.parallel import in_order
from common.words import counted, none_of
from discriminator.backbones import load_pretrained
from discriminator.levels import Levels
from discriminator.models import new_network
from discriminator.network_options import NetworkOptions
from discriminator.training.data import load_degradation
from discriminator.training.linear import Part
from discriminator.training.probe import AT_ONCE
from evaluation.listener import Listener
from evaluation.study_plan import Network, Plan
from evaluation.study_sources import Opened, Views
from faces.dataset import to_float
from faces.degrade import Degradation, grid
from faces.preprocess import Preprocess

PART = 256  # images
FORMAT = 1


@dataclass(frozen=True)
class Table:
    """Features of the images that can be used, in one view. kept: int64 [n], their positions in the source; bad: (name,
    reason) of the others."""

    parts: list[Part]
    kept: np.ndarray
    bad: list[tuple[str, str]]

    def rows(self, positions: np.ndarray) -> torch.Tensor:
        """float64 [m, F] of the images at these positions in the source, in their order."""
        where = np.searchsorted(self.kept, positions)
        ends = np.cumsum([len(part.values) for part in self.parts])
        out = torch.empty(len(positions), self.parts[0].values.shape[1], dtype=torch.float64)
        of = np.searchsorted(ends, where, side="right")
        for number in np.unique(of):
            part, mine = self.parts[number], np.flatnonzero(of == number)
            at = torch.from_numpy(where[mine] - (ends[number] - len(part.values)))
            out[torch.from_numpy(mine)] = part.wide(at)
        return out

    def __len__(self) -> int:
        return len(self.kept)


def new_probe(how: Network) -> tuple[Levels, str]:
    """The network without a fit, and where its weights are from."""
    chosen = NetworkOptions(levels=how.levels, correlations=how.correlations, patches=False)
    net = new_network(how.model, how.side, options=chosen)
    if not isinstance(net, Levels):
        raise UserError(f"[probe] model {how.model}: a study fits probes; give levels:NAME")
    origin = "random" if how.weights == "random" else load_pretrained(net, how.weights)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last), origin


class Features:
    """The features of a plan's images under `folder`."""

    def __init__(self, plan: Plan, folder: Path, device: torch.device, workers: int | None, listener: Listener) -> None:
        self.plan, self.folder, self.workers, self.listener = plan, folder, workers, listener
        net, self.origin = new_probe(plan.probe)
        self.net, self.device = net.to(device), device
        self.views = Views(Preprocess(plan.probe.resolution, saved=plan.probe.saved), plan.probe.side, plan.seed)
        self.degradation = load_degradation(plan.probe.degradation)
        self.conditions = {"clean": Degradation("clean")}
        for name in plan.conditions:
            if name not in (known := grid()):
                raise UserError(f"[endpoint]: condition {name!r} is unknown; there are {', '.join(known)}")
            self.conditions[name] = known[name]
        self._weights = _digest_of(net)

    @property
    def number(self) -> int:
        return len(self.net.centre)

    def taught(self, opened: Opened) -> list[Table]:
        """The clean view and the plan's draws of degraded ones."""
        chain = self.degradation

        def view(draw: int) -> Table:
            return self._of(
                opened, f"taught {draw}", chain.to_dict(), lambda i: self.views.taught(opened, i, draw, chain)
            )

        return [view(draw) for draw in range(1 + self.plan.probe.draws)]

    def measured(self, opened: Opened, condition: str) -> Table:
        """The view under one of the plan's conditions."""
        how = self.conditions[condition]
        return self._of(opened, condition, how.to_dict(), lambda i: self.views.measured(opened, i, how))

    # ---- files

    def _of(self, opened: Opened, view: str, how: dict, look: Callable[[int], np.ndarray]) -> Table:
        place = self.folder / f"{_slug(opened.name)}-{_slug(view)}-{self._key(opened, view, how)}"
        place.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(opened), PART)
        todo = [s for s in starts if not (place / _part(s)).is_file() or _reasons(place, s) is None]
        if todo:
            self._make(opened, view, place, todo, look)
        parts, kept, bad = [], [], []
        for start in starts:
            part, mine = self._load(place / _part(start))
            if len(mine):
                parts.append(part)
                kept.append(mine)
            bad += [(opened.names[start + k], reason) for k, reason in _reasons(place, start) or ()]
        if not parts:
            raise UserError(none_of(len(opened), "image", "can be used", ": ".join(bad[0]), opened.name))
        return Table(parts, np.concatenate(kept), bad)

    def _key(self, opened: Opened, view: str, how: dict) -> str:
        probe = self.plan.probe
        what = [FORMAT, self._weights, self.net.cfg.to_dict(), probe.resolution, probe.saved, probe.crop,
                self.plan.seed, view, how, opened.stamp, opened.name, np.__version__, PIL.__version__, cv2.__version__,
                torch.__version__, self.device.type]  # fmt: skip
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def _make(self, opened: Opened, view: str, place: Path, todo: list[int], look: Callable) -> None:
        wanted = [i for start in todo for i in range(start, min(start + PART, len(opened)))]

        def one(k: int) -> np.ndarray | BadImage:
            try:
                return look(wanted[k])
            except BadImage as error:
                return error

        bar = self.listener.bar(total=len(wanted), title=f"{opened.name}, {view}", unit="img")
        images = in_order(one, len(wanted), self.workers, chunk=4)
        began = time.monotonic()
        for start in todo:
            number = min(PART, len(opened) - start)
            found = [next(images) for _ in range(number)]
            bad = [(k, image.reason) for k, image in enumerate(found) if isinstance(image, BadImage)]
            good = np.setdiff1d(np.arange(number), [k for k, _ in bad]).astype(np.int64)
            write_json(place / f"{_part(start)}.json", bad)
            rows = []
            for first in range(0, len(good), AT_ONCE):
                rows.append(self._look(np.stack([found[k] for k in good[first : first + AT_ONCE]])))
                bar.update(len(rows[-1]))
            bar.update(number - len(good))
            part = Part.of(torch.cat(rows)) if rows else Part(*(torch.zeros(n, 0) for n in (0, 1, 1)))
            tensors = {**part._asdict(), "kept": torch.from_numpy(good + start)}
            write_bytes(place / _part(start), safetensors.torch.save(tensors))
        bar.close()
        spent = time.monotonic() - began
        pace = len(wanted) / max(spent, 1e-9)
        self.listener.tell(
            f"features of {opened.name}, {view}: {counted(len(wanted), 'image')} in {clock(spent)}, {pace:.0f} a second"
        )

    @torch.inference_mode()
    def _look(self, images: np.ndarray) -> torch.Tensor:
        planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        found = self.net.features(to_float(planes.to(self.device))).cpu()
        if not torch.isfinite(found).all():
            raise UserError("[probe]: the network gives features that are not numbers; give other weights")
        return found

    def _load(self, path: Path) -> tuple[Part, np.ndarray]:
        try:
            found = safetensors.torch.load(path.read_bytes())
            kept = found.pop("kept").numpy()
            part = Part(**found)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise UserError(f"{path}: can't be read ({reason}); remove it, and it is made again") from None
        if len(kept) and part.values.shape != (len(kept), self.number):
            raise UserError(f"{path}: holds other features than this study's; remove it, and it is made again")
        return part, kept


def _part(start: int) -> str:
    return f"part-{start // PART:05d}.safetensors"


def _reasons(place: Path, start: int) -> list[tuple[int, str]] | None:
    """(place in the part, reason) of its images of no use; None where that can't be told: by files of a version that
    kept names, too, which are those of the place where the images were seen first."""
    try:
        return [
            (range(PART)[number], str(reason)) for number, reason in reading.json_file(place / f"{_part(start)}.json")
        ]
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _digest_of(net: Levels) -> str:
    digest = hashlib.sha256()
    for key, value in net.state_dict().items():
        digest.update(key.encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
