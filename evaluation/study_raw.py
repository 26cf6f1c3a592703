"""The raw adversarial logit of a finished run of train_gan.py as a detector's score: a control."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError
from discriminator.detector import Detector
from discriminator.hybrid import HybridDiscriminator
from discriminator.locate import find_detector
from evaluation.study_sources import Opened, expanded
from faces.degrade import Degradation

BATCH = 16


@dataclass(frozen=True)
class RawLogit:
    """What the discriminator said in the game, negated: high = fake."""

    net: HybridDiscriminator
    detector: Detector

    @classmethod
    def open(cls, run: str, device: torch.device) -> RawLogit:
        """UserError where the run has no discriminator of the game's."""
        detector = Detector.load(find_detector(expanded(run, None)), device)
        if not isinstance(detector.net, HybridDiscriminator):
            raise UserError(f"{run}: its detector is no hybrid discriminator; give a run of train_gan.py")
        return cls(detector.net, detector)

    @torch.inference_mode()
    def scores(self, opened: Opened, kept: np.ndarray, condition: Degradation, seed: int) -> np.ndarray:
        """float64 [n] of the images at the positions `kept`."""
        found = []
        for first in range(0, len(kept), BATCH):
            images = [self._image(opened, int(i), condition, seed) for i in kept[first : first + BATCH]]
            logits = self.net.adversarial(torch.from_numpy(np.stack(images)).to(self.detector.device))
            found.append(-logits.double().flatten().cpu())
        return torch.cat(found).numpy()

    def _image(self, opened: Opened, i: int, condition: Degradation, seed: int) -> np.ndarray:
        key = [seed, zlib.crc32(condition.name.encode()), zlib.crc32(opened.names[i].encode("utf-8", "replace"))]
        photo = condition.apply(opened.read(i), np.random.Generator(np.random.PCG64(key)))
        return self.detector.preprocess(photo)
