"""The images of a step, found from (seed, step, micro-batch) alone."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adversarial.replay import Replay
from faces.dataset import DecodedFaces, IndexStream, to_uint8
from faces.degrade import Degradation, apply_batch
from faces.patches import Patches
from training.randomness import derive


class Feed:
    """Training images of both classes.

    Reals feed the generator's game in a shuffled order without repetition within an epoch; the verdict head gets
    random reals and fakes, both through the same random degradation, as uint8 in and out.
    """

    def __init__(
        self,
        faces: DecodedFaces | Patches,
        degradation: Degradation,
        seed: int,
        classes: tuple[np.ndarray, int] | None = None,
        *,
        odd_by_chance: bool = True,
    ) -> None:
        """classes: the class of each image of `faces` without its mirror images, and how many there are. odd_by_chance:
        see `verdict`; else the last one of an odd number is always a fake just made, as in runs of older versions."""
        base = faces.count
        labels = np.asarray(faces.labels[:base])
        real, fake = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
        copies = range(0, len(faces), base)  # each image, then its mirror images
        self.faces = faces
        self.reals = np.concatenate([real + start for start in copies])
        self.fakes = np.concatenate([fake + start for start in copies])
        self.degradation = degradation
        self.seed = seed
        self.odd_by_chance = odd_by_chance
        self.stream = IndexStream(len(self.reals), seed)
        # the class of each of the reals, and how many there are
        self.classes = None if classes is None else torch.as_tensor(classes[0])[self.reals % base]
        self.num_classes = 0 if classes is None else classes[1]

    def reals_at(self, position: int, count: int) -> Tensor:
        """uint8 [count, C, H, W]: the reals at `position` of the endless shuffled order."""
        return self.faces.batch(self.reals[self.stream.at(position, count)], (self.seed, position))

    def classes_at(self, position: int, count: int) -> Tensor | None:
        """One-hot classes [count, C] of the same reals; None where the run has no classes."""
        return None if self.classes is None else self._one_hot(self.classes[self.stream.at(position, count)])

    def random_classes(self, count: int) -> Tensor | None:
        """One-hot classes [count, C] of random reals, drawn by torch's generator: as frequent as in the data."""
        return None if self.classes is None else self._one_hot(self.classes[torch.randint(len(self.reals), (count,))])

    def _one_hot(self, classes: Tensor) -> Tensor:
        return F.one_hot(classes, self.num_classes).float()

    def _half(self, n: int, rng: np.random.Generator) -> int:
        """n / 2 on average; nothing is drawn for an even number."""
        return n // 2 + (int(rng.integers(2)) if n % 2 and self.odd_by_chance else 0)

    def verdict(
        self, step: int, part: int, count: int, current: np.ndarray, replay: Replay
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Half reals, half fakes for the verdict head of one micro-batch.

        Fakes are shared out between the data set's labelled fakes (half, where there are any), replayed ones and
        `current`, uint8 [n >= 1, C, H, W] just generated (a half of the rest each); of an odd number chance gives the
        last one to either, so that a batch of two or four learns from all of them in turn.

        Returns (clean, degraded) uint8 [count, C, H, W] and labels [count] float, 1 = fake; the two views show the same
        images in the same order.
        """
        key = derive(self.seed, step, "verdict", part)
        rng = np.random.default_rng(key)
        n_fake = count // 2
        n_real = count - n_fake
        n_set = self._half(n_fake, rng) if len(self.fakes) else 0
        n_replay = self._half(n_fake - n_set, rng) if len(replay) else 0
        n_now = n_fake - n_set - n_replay
        groups = [self.faces.batch(self.reals[rng.integers(0, len(self.reals), n_real)], (key, 0)).numpy()]
        if n_set:
            fakes = self.fakes[rng.integers(0, len(self.fakes), n_set)]
            groups.append(self.faces.batch(fakes, (key, n_real)).numpy())
        if n_replay:
            groups.append(replay.sample(n_replay, rng))
        groups.append(current[rng.integers(0, len(current), n_now)])
        clean = np.concatenate(groups)
        degraded = apply_batch(self.degradation, clean, int(rng.integers(2**62)))
        labels = torch.cat([torch.zeros(n_real), torch.ones(n_fake)])
        return torch.from_numpy(clean), torch.from_numpy(degraded), labels


def on_cpu(images: Tensor) -> np.ndarray:
    """Images in [-1, 1] as `synth.py` would save them: uint8 [N, C, H, W]."""
    return to_uint8(images.detach().float()).cpu().numpy()
