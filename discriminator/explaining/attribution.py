"""Maps of why a network said what it said, by the methods of `discriminator.explaining.methods`.

What is explained is the network's logit (above 0: FAKE), of the very numbers that it was given. «Taken away» means
blurred: a face of 8 x 8 means a side, since a black or grey square is a trace of its own to a network that looks for
traces.

- patches: the artefact branch's own map. gradcam: `discriminator.gradcam`.
- saliency: the slope's absolute value, the largest of the channels (Simonyan et al. 2014).
- integrated-gradients: from the blurred face (Sundararajan et al. 2017): the map's sum is the difference of the scores.
- lrp: `discriminator.explaining.relevance`.
- shap: expected gradients over blurred and plain faces (Lundberg & Lee 2017; Erion et al. 2021), captum's GradientShap.
- occlusion (Zeiler & Fergus 2014), lime (Ribeiro et al. 2016), kernel-shap (Lundberg & Lee 2017): of the squares of a
  grid, by the network's answers alone: they serve ONNX detectors, too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from discriminator.detector_base import DetectorBase
from discriminator.explaining.attributions import NO_PATCHES, Attribution, why_not
from discriminator.explaining.methods import METHODS
from discriminator.explaining.places import Places
from discriminator.explaining.relevance import NoRule, relevance
from discriminator.gradcam import with_gradients
from discriminator.second_look import joined

AT_ONCE = 4  # images in a pass with gradients
WIDTH = 0.25  # of LIME's kernel, over the cosine distance of what is left from all


@dataclass(frozen=True)
class Effort:
    """steps: of the path of integrated gradients, and drawn references of SHAP. squares: a side of occlusion's grid;
    coarse: of LIME's and kernel SHAP's. samples: how many coalitions these two judge. seed: of what is drawn."""

    steps: int = 16
    squares: int = 8
    coarse: int = 8
    samples: int = 256
    seed: int = 0


class Explainer:
    """Explains what `detector` said.

    answers: who computes the network for methods that only ask it (an exported twin is quicker); default: the same."""

    def __init__(self, detector: DetectorBase, effort: Effort = Effort(), answers: DetectorBase | None = None) -> None:  # noqa: B008
        self.detector, self.effort, self.answers = detector, effort, answers or detector
        self.places = Places(detector.preprocess)
        net = getattr(detector, "net", None)
        self.net = None if net is None else with_gradients(net)
        self.device = getattr(detector, "device", torch.device("cpu"))

    def __call__(self, seen: np.ndarray, method: str, *, towards_fake: bool = True) -> Attribution:
        """seen: what the network saw, as `DetectorBase.prepared` made it. towards_fake: what a Grad-CAM asks for."""
        begin = time.perf_counter()
        values, note = self._values(seen, method, towards_fake)
        if values is not None and not np.isfinite(values).all():
            values, note = None, f"{method} gives values that are not numbers here"
        return Attribution(method, values, note, time.perf_counter() - begin)

    def _values(self, seen: np.ndarray, method: str, towards_fake: bool) -> tuple[np.ndarray | None, str]:
        if why := why_not(method, self.detector):
            return None, why
        pixels = self.detector.preprocess.normalise(seen)[None]
        if method == "patches":
            maps = self.answers.raw(pixels).maps
            if maps is None:
                return None, NO_PATCHES
            return (2 * maps[0] - 1).astype(np.float32), ""
        if method == "gradcam":
            cam = self._looking(pixels, lambda image: self.detector.gradcam(image, towards_fake))
            if cam is None:
                return None, "gradcam: this network has no map of features on the way to its answer"
            cam = cam / (cam.max() or 1)
            return (cam if towards_fake else -cam).astype(np.float32), self.places.note

        def one(image: np.ndarray) -> np.ndarray:
            with _seeded(self.effort.seed):
                values = _MAPS[method](self, self.places.row(torch.from_numpy(image)))
            return values.detach().float().cpu().numpy()

        try:  # what only asks for answers hears what both looks say
            return self._looking(pixels, one) if METHODS[method].gradients else one(pixels), self.places.note
        except NoRule as error:
            return None, f"lrp: there is no rule for «{error}», which this network uses"

    def _looking(self, pixels: np.ndarray, one: Callable[[np.ndarray], np.ndarray | None]) -> np.ndarray | None:
        """The map of an image [1, …], and where the detector looks twice the mean with that of the mirror image, turned
        back, which counts as much as in the score."""
        first, look = one(pixels), self.detector.second_look
        weight = np.zeros(1) if look is None else look.weight(self.answers.once(pixels).logits)
        again = one(self.detector.preprocess.mirrored(pixels)) if weight.any() else None
        return first if first is None or again is None else joined(first[None], again[None, :, ::-1], weight)[0]

    # ---- the network as a function of rows

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits [N], with gradients, of rows [N, L]."""
        assert self.net is not None
        return self.net.verdict(self.places.image(rows).to(self.device)).logit

    def answer(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits float64 [N] without gradients, of rows [N, L]; a few at a time."""
        images = self.places.image(rows.detach()).float().cpu().numpy()
        some = 1 if self.answers.in_threads else self.answers.batch
        parts = [self.answers.raw(images[i : i + some]).logits for i in range(0, len(images), some)]
        return torch.from_numpy(np.concatenate(parts))


# ---- methods: rows [1, L] to [h, w] ---------------------------------------------------------------------------------


def _saliency(own: Explainer, row: torch.Tensor) -> torch.Tensor:
    from captum.attr import Saliency

    found = Saliency(own.score).attribute(row.clone().requires_grad_(), abs=True)
    return own.places.strongest(found[0].detach())


def _integrated(own: Explainer, row: torch.Tensor) -> torch.Tensor:
    from captum.attr import IntegratedGradients

    found = IntegratedGradients(own.score).attribute(
        row.clone().requires_grad_(), own.places.filled(row), n_steps=own.effort.steps, internal_batch_size=AT_ONCE
    )
    return own.places.summed(found[0].detach())


def _lrp(own: Explainer, row: torch.Tensor) -> torch.Tensor:
    return own.places.summed(relevance(own.score, row)[0])


def _shap(own: Explainer, row: torch.Tensor) -> torch.Tensor:
    from captum.attr import GradientShap

    places, left, parts = own.places, own.effort.steps, []
    references = torch.cat([places.filled(row, 4), places.filled(row, 8), places.filled(row, 16), places.grey(row)])
    while left > 0:
        count = min(left, AT_ONCE)
        found = GradientShap(own.score).attribute(row.clone().requires_grad_(), references, n_samples=count)
        parts.append(found[0].detach() * count)
        left -= count
    return places.summed(torch.stack(parts).sum(0) / own.effort.steps)


def _occlusion(own: Explainer, row: torch.Tensor) -> torch.Tensor:
    from captum.attr import FeatureAblation

    grid = min(own.effort.squares, own.places.side)
    cells = own.places.cells(grid)
    found = FeatureAblation(own.answer).attribute(
        row.double(), own.places.filled(row).double(), feature_mask=cells[None], perturbations_per_eval=8
    )[0]
    return _of_cells(found, cells, grid)


def _lime(own: Explainer, row: torch.Tensor) -> torch.Tensor:
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    grid, cells = _coarse(own)
    lime = Lime(own.answer, SkLearnRidge(alpha=0.01), similarity_func=_near)
    return _coalitions(own, lime, row, grid, cells)


def _kernel_shap(own: Explainer, row: torch.Tensor) -> torch.Tensor:
    from captum.attr import KernelShap

    grid, cells = _coarse(own)
    return _coalitions(own, KernelShap(own.answer), row, grid, cells)


def _coarse(own: Explainer) -> tuple[int, torch.Tensor]:
    grid = min(own.effort.coarse, own.places.side)
    return grid, own.places.cells(grid)


def _coalitions(own: Explainer, how: Any, row: torch.Tensor, grid: int, cells: torch.Tensor) -> torch.Tensor:
    found = how.attribute(
        row, own.places.filled(row), feature_mask=cells[None], n_samples=own.effort.samples,
        perturbations_per_eval=8, return_input_shape=False,
    )  # fmt: skip
    return found.reshape(-1)[: grid * grid].reshape(grid, grid)


def _near(original: torch.Tensor, changed: torch.Tensor, left: torch.Tensor, **_: Any) -> torch.Tensor:
    """LIME's kernel: how like a coalition, of zeros and ones [1, n], is to the whole: exp(-(1 - sqrt(share))^2 /
    width^2), with the cosine distance from ones alone."""
    share = left.float().mean()
    return torch.exp(-((1 - share.sqrt()) ** 2) / WIDTH**2)


def _of_cells(values: torch.Tensor, cells: torch.Tensor, grid: int) -> torch.Tensor:
    """[g, g] of values [L] that are alike within a cell."""
    total = torch.zeros(grid * grid + 1, dtype=values.dtype).index_add_(0, cells, values)
    count = torch.zeros_like(total).index_add_(0, cells, torch.ones_like(values))
    return (total / count.clamp(min=1))[: grid * grid].reshape(grid, grid)


_MAPS: dict[str, Callable[[Explainer, torch.Tensor], torch.Tensor]] = {
    "saliency": _saliency, "integrated-gradients": _integrated, "lrp": _lrp, "lime": _lime, "shap": _shap,
    "kernel-shap": _kernel_shap, "occlusion": _occlusion,
}  # fmt: skip


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """captum draws from the global generators: they are set, and set back afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
