"""A probe: what every training image looks like on all levels of a network that stays as it is, and one linear layer.

No epochs: the features (`discriminator.levels`) of each image, clean and under some draws of the degradations, are
found once; one linear layer with a strong bound on its weights is fitted to them, as a logistic regression or as a
matched filter. Either has one answer, so nothing is chosen on validation images.

Features come in parts of a fixed number of images. A whole part lies in the run's folder; a run that goes on takes the
parts that are there and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import torch

from common.clock import clock
from common.errors import UserError
from common.parallel import in_order
from common.words import counted
from discriminator.levels import Levels
from discriminator.training.feed import LabelledFeed, shares
from discriminator.training.linear import Fitted, Part, fit_logistic, fit_matched_filter
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation
from faces.dataset import to_float
from training import checkpoint
from training.processes import Processes
from training.telemetry import Telemetry

FOLDER = "features"
PART = 256  # views
AT_ONCE = 8  # through the network: what a processor's cache takes


class Probe:
    """One training, told to and stopped like a `Fit`. A step is a batch of views.

    net: with the weights it is to have. folder: for features and checkpoints (None: neither is written)."""

    def __init__(
        self,
        net: Levels,
        feed: LabelledFeed,
        validation: Validation,
        recipe: Recipe,
        report: Telemetry,
        *,
        peers: Processes | None = None,
        workers: int = 1,
    ) -> None:
        self.peers = peers or Processes()
        if self.peers.size > 1:
            raise UserError(f"`model` {net.cfg.model}: is fitted by one process, not {self.peers.size}; start it alone")
        if recipe.random_crop and not net.any_size:
            raise UserError(f"`random_crop` {recipe.random_crop}: this network takes whole images only; leave it out")
        self.net = net.to(self.peers.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.ema = self.net
        self.feed, self.validation, self.recipe, self.report = feed, validation, recipe, report
        self.workers, self.checkpoint_minutes = workers, 10.0
        self.folder: Path | None = None
        self.stop: Callable[[], bool] = lambda: False
        self.images = [(number, i) for number, group in enumerate(feed.groups) for i in range(len(group))]
        self.reals = [(number, i) for number, i in self.images if not feed.groups[number].label]
        self.views = len(self.images) * (1 + recipe.draws) + len(self.reals) * recipe.background_draws
        self.parts: list[Part] = []
        self.elapsed = 0.0
        self.fitted: Fitted | None = None

    # ---- as a Fit ------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        return -(-self.views // self.recipe.batch)

    @property
    def step(self) -> int:
        return -(-min(len(self.parts) * PART, self.views) // self.recipe.batch)

    def schedule(self) -> str:
        """What it will do, for people."""
        r = self.recipe
        return (
            f"{len(self.net.centre)} features of {counted(self.views, 'view')}: {counted(len(self.images), 'image')},"
            f" clean and in {r.draws} draws"
            + (f", the reals in {r.background_draws} more" if r.background_draws else "")
            + f"; {'logistic regression' if r.probe_fit == 'logistic' else 'matched filter'}, l2 {r.l2:g}"
        )

    def load_state_dict(self, state: dict) -> None:
        """UserError where it is of another network, or the features cannot be read."""
        try:
            self.net.load_state_dict(state["net"])
            self.elapsed = float(state["elapsed"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(checkpoint.misfit(error)) from None
        while self.folder is not None and len(self.parts) * PART < self.views:
            path = self._file(len(self.parts))
            if not path.is_file():
                break
            rows = min(PART, self.views - len(self.parts) * PART)
            self.parts.append(Part.load(path, rows, len(self.net.centre)))

    def save(self) -> None:
        """A checkpoint now, if there is a folder: the features lie beside it."""
        if self.folder is not None:
            state = {"step": self.step, "elapsed": self.elapsed, "net": self.net.state_dict()}
            checkpoint.save(self.folder, self.step, state, "detector")

    def run(self) -> bool:
        """Features, then the fit (True); or until `stop` (False), which counts after a whole part."""
        began, saved = time.monotonic() - self.elapsed, time.monotonic()
        mark, mark_at = time.monotonic(), len(self.parts) * PART
        with contextlib.closing(self._images(mark_at)) as images:
            while (done := len(self.parts) * PART) < self.views:
                features = []
                for first in range(done, min(done + PART, self.views), AT_ONCE):
                    count = min(AT_ONCE, self.views - first)
                    features.append(self._features(np.stack([next(images) for _ in range(count)])))
                    pace = (time.monotonic() - mark) / (first + count - mark_at)
                    self._show(first + count, pace)
                self._keep(Part.of(torch.cat(features)))
                now = time.monotonic()
                self.elapsed = now - began
                stopped = self.stop() and len(self.parts) * PART < self.views
                if len(self.parts) == 1 or stopped or now - saved > 60 * self.checkpoint_minutes:
                    self.save()
                    saved = now
                if stopped:
                    return False
        self._fit()
        self.elapsed = time.monotonic() - began
        self.save()
        return True

    def best_step(self) -> int:
        return self.step

    def best_network(self) -> Levels:
        """The network with its layer fitted, in evaluation mode."""
        if self.fitted is None:
            raise UserError("the probe has not been fitted")
        return self.net.trimmed()

    # ---- the features --------------------------------------------------------------------------------------------

    def _images(self, first: int) -> Generator[np.ndarray, None, None]:
        """The views from `first` on, uint8 [C, S, S]: all images clean, then all in the first draw, and so on; then all
        reals in the first draw of the background."""
        shown = len(self.images) * (1 + self.recipe.draws)

        def view(k: int) -> np.ndarray:
            if first + k < shown:
                draw, which = divmod(first + k, len(self.images))
                number, i = self.images[which]
                return self.feed.view(number, draw, i)
            draw, which = divmod(first + k - shown, len(self.reals))
            number, i = self.reals[which]
            return self.feed.background(number, 1 + draw, i)

        yield from in_order(view, self.views - first, max(1, self.workers), chunk=4)

    @torch.inference_mode()
    def _features(self, images: np.ndarray) -> torch.Tensor:
        found = self.net.features(to_float(torch.from_numpy(images).to(self.peers.device))).cpu()
        if not torch.isfinite(found).all():
            raise UserError("the network gives features that are not numbers; give other weights")
        return found

    def _keep(self, part: Part) -> None:
        if self.folder is not None:
            self._file(len(self.parts)).parent.mkdir(exist_ok=True)
            part.save(self._file(len(self.parts)))
        self.parts.append(part)

    def _file(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / FOLDER / f"part-{number:05d}.safetensors"

    def _show(self, done: int, pace: float) -> None:
        left = clock((self.views - done) * pace)
        self.report.progress(f"features {done}/{self.views}  {1 / max(pace, 1e-9):.1f} images/s  {left} left")

    # ---- the fit -------------------------------------------------------------------------------------------------

    def weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Labels, weights and those of the background's covariance, float64 [views]: half of the weight is the reals'
        (but for `balance` none), a group has its share, and all of its views count alike. The background's further
        views count for the covariance only, the fakes for all but this."""
        groups = self.feed.groups
        share = shares(groups, "none" if self.recipe.balance == "none" else "sampling")
        each = torch.tensor([share[number] / len(groups[number]) for number, _ in self.images], dtype=torch.float64)
        labels = torch.tensor([float(groups[number].label) for number, _ in self.images], dtype=torch.float64)
        views = 1 + self.recipe.draws
        more = torch.tensor([share[number] / len(groups[number]) for number, _ in self.reals], dtype=torch.float64)
        more = more.repeat(self.recipe.background_draws)
        labels, each = labels.repeat(views), each.repeat(views)
        background = torch.cat([each * (1 - labels), more])
        weights = torch.cat([each / each.sum(), torch.zeros_like(more)])
        return torch.cat([labels, torch.zeros_like(more)]), weights, background / background.sum()

    def _fit(self) -> None:
        told = lambda iteration: self.report.progress(f"fitting: iteration {iteration}")  # noqa: E731
        began = time.monotonic()
        labels, weights, background = self.weights()
        if self.recipe.probe_fit == "logistic":
            found = fit_logistic(self.parts, labels, weights, self.recipe.l2, told)
        else:
            found = fit_matched_filter(self.parts, labels, weights, self.recipe.l2, told, background)
        self.fitted = found
        self.net.settle(found.centre, found.gain, found.weight, found.bias)
        size = float(found.weight.norm())
        how = "" if found.converged else "; the minimum was not reached: give a larger `l2`"
        self.report.say(
            f"fitted      {int((found.gain > 0).sum())} features that vary, {counted(found.iterations, 'iteration')} in"
            f" {clock(time.monotonic() - began)}: cross-entropy {found.loss:.4f}, size of the weights {size:.3f}{how}"
        )
