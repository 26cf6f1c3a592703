"""Which state is kept: validation images, clean and in a fixed set of degradations, and the AUC over all of them.

One AUC over clean and degraded scores together, not their mean: a detector has one threshold, so a re-saved photo must
not be scored like a clean fake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from common.parallel import in_order
from discriminator.network import Network
from discriminator.training.feed import degrade
from faces.dataset import to_float
from faces.degrade import Degradation, preset
from metrics.classification import roc_auc

BATCH = 64
SEED = 0x5E1EC7


class IndexedImages(Protocol):
    """uint8 [N, C, R, R], one by one: an array or `Rows` of one."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> np.ndarray: ...


@dataclass
class Validation:
    """images uint8 [N, C, R, R], labels int64 [N] (1 = fake); view i of `views` judges each of them once more."""

    images: IndexedImages
    labels: np.ndarray
    views: tuple[tuple[str, tuple[Degradation, ...]], ...]

    @classmethod
    def of(cls, images: IndexedImages, labels: np.ndarray, degradation: Degradation) -> Validation:
        """Each image clean, and once degraded: by the training's chain, "web" and "hard" in turn. (Without any chain
        in training: the same, for the question stays the same.)"""
        chain = preset("train") if not degradation.steps else degradation
        return cls(images, labels, (("clean", ()), ("degraded", (chain, preset("web"), preset("hard")))))

    def __len__(self) -> int:
        return len(self.images)

    def view(self, number: int, i: int) -> np.ndarray:
        """Image `i` in view `number`, uint8 [C, R, R], always the same."""
        image, chains = self.images[i], self.views[number][1]
        if not chains:
            return image
        # Neighbours are of one class in most sets: the turn goes by the image's place within its class.
        rng = np.random.Generator(np.random.PCG64([SEED, number, i]))
        return degrade(chains[i % len(chains)], image, rng)


@torch.inference_mode()
def scores(
    net: Network,
    validation: Validation,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Logits float64 [views, N] of a network in evaluation mode."""
    device = next(net.parameters()).device
    total = len(validation) * len(validation.views)
    ready = in_order(lambda k: validation.view(*divmod(k, len(validation))), total, max(1, workers))
    out, part = [], []
    for done, image in enumerate(ready, 1):
        part.append(image)
        if len(part) == BATCH or done == total:
            x = to_float(torch.from_numpy(np.stack(part)).to(device))
            out.append(net.verdict(x).logit.float().cpu())
            part = []
            if progress is not None:
                progress(done, total)
    return torch.cat(out).double().numpy().reshape(len(validation.views), len(validation))


def figures(validation: Validation, logits: np.ndarray) -> dict[str, float]:
    """The AUC that decides ("auc"), that of each view, and the balanced accuracy at logit 0 of each view."""
    labels = validation.labels
    out = {"auc": roc_auc(np.tile(labels, len(logits)), logits.ravel())}
    for (name, _), row in zip(validation.views, logits, strict=True):
        out[f"auc_{name}"] = roc_auc(labels, row)
        called = row >= 0
        out[f"balanced_accuracy_{name}"] = float((called[labels == 1].mean() + (~called[labels == 0]).mean()) / 2)
    return out
