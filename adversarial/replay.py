"""A reservoir of fakes of older generators, so that the verdict head does not forget what it once could tell."""

from __future__ import annotations

import numpy as np

from common.errors import UserError

MAX_BYTES = 64 << 20


class Replay:
    """At most `capacity` uint8 images [C, H, W], or as many as MAX_BYTES hold: a uniform sample over everything ever
    pushed.

    Reservoir sampling (Vitter 1985, algorithm R): the i-th image pushed replaces a random slot with probability
    capacity/i. The draws follow from (seed, number pushed), so the state is the images and one counter.
    """

    def __init__(self, capacity: int, shape: tuple[int, int, int], seed: int) -> None:
        size = int(np.prod(shape))
        self.capacity = max(1, min(capacity, MAX_BYTES // size))
        self.images = np.zeros((self.capacity, *shape), np.uint8)
        self.kimg = np.zeros(self.capacity, np.float32)
        self.pushed = 0
        self.seed = seed

    def __len__(self) -> int:
        return min(self.pushed, self.capacity)

    def push(self, images: np.ndarray, kimg: float) -> None:
        """Offer images [n, C, H, W] made by the generator as it was at `kimg`."""
        rng = np.random.default_rng([self.seed, self.pushed])
        for image in images:
            slot = self.pushed if self.pushed < self.capacity else int(rng.integers(0, self.pushed + 1))
            if slot < self.capacity:
                self.images[slot] = image
                self.kimg[slot] = kimg
            self.pushed += 1

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` images [count, C, H, W] drawn with replacement; at least one must have been pushed."""
        return self.images[rng.integers(0, len(self), count)]

    def state_dict(self) -> dict:
        import torch

        n = len(self)
        return {
            "images": torch.from_numpy(self.images[:n].copy()),
            "kimg": torch.from_numpy(self.kimg[:n].copy()),
            "pushed": self.pushed,
            "capacity": self.capacity,
        }

    def load_state_dict(self, state: dict) -> None:
        n = len(state["images"])
        if state["capacity"] != self.capacity:
            raise UserError(f"replay of capacity {state['capacity']} does not fit one of {self.capacity}")
        self.images[:n] = state["images"].numpy()
        self.kimg[:n] = state["kimg"].numpy()
        self.pushed = int(state["pushed"])
