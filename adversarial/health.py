"""Signs of a training that goes wrong, read from the statistics of each tick, and one line of advice for each.

Nothing here changes a run (`adversarial.divergence` does). The thresholds are rules of thumb; docs/troubleshooting.md
says what each sign means.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

CERTAIN = 0.95  # |E[sign D]| of both classes from which on the discriminator is called too sure
BROKEN = 1000.0  # mean score
WARM_UP = 1.0  # kimg before which the scores say nothing
PATIENCE = 3  # ticks in a row before a sign counts
BLIND_PATIENCE = 5
MEMORY = 20  # ticks whose gradient norms the newest is compared with
EXPLODED = 20.0  # times their median
SKIPPED = 0.01  # share of a tick's steps without a finite gradient
LOST = 0.5  # share of the best diversity so far
ALIKE, ALIKE_KIMG = 0.3, 200.0  # diversity relative to the reals that is too low once so many kimg were shown
WORSE, WORSE_ROWS = 1.3, 2  # FID this many times the best, in so many measurements in a row
REPEAT = 25  # ticks after which a sign that stays is told again
CELLS = 16  # side to which images are reduced before they are compared


def diversity(images: np.ndarray) -> float:
    """Root mean square difference of grey levels (0 to 1) over all pairs of images, reduced to 16 x 16 pixels.

    images: uint8 [N >= 2, C, H, W], H = W a multiple of 16 or less than 16. It compares layouts and colours, not
    details: a coarse measure, but one that a collapse to a few images cannot hide from.
    """
    n, c, h, w = images.shape
    k = max(1, h // CELLS)
    small = images.reshape(n, c, h // k, k, w // k, k).mean(axis=(3, 5)).reshape(n, -1) / 255
    # the mean square difference of two members is twice the variance (with n - 1)
    return math.sqrt(2 * small.var(axis=0, ddof=1).mean())


def feature_diversity(features: np.ndarray) -> float:
    """Root mean square difference of features over all pairs of images; features: [N >= 2, D]."""
    return math.sqrt(2 * features.var(axis=0, ddof=1).mean())


class Remembered:
    """What all attributes hold is part of a run's state; one that an older state lacks stays as it is."""

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        for name in vars(self):
            if name in state:
                setattr(self, name, state[name])


class Health(Remembered):
    """Takes in each tick and FID; what it remembers is part of a run's state, so a resumed run says the same."""

    def __init__(self) -> None:
        self.since: dict[str, float] = {}  # sign -> kimg at which it was seen first, of those present now
        self.count: dict[str, int] = {}  # sign -> ticks in a row
        self.norms: dict[str, list[float]] = {}
        self.most_diverse = 0.0
        self.fids: list[float] = []  # since the best one
        self.told: dict[str, str] = {}  # sign -> the last line said of it

    def tick(
        self, rows: dict, kimg: float, diversity: float | None, leak: str | None, *, pinned: str | None = None
    ) -> tuple[dict, list[str]]:
        """One tick's {name: {num, mean, std}}, the samples' diversity relative to the reals' (None: not measured) and
        ADA's own warnings. Returns scalars for telemetry and lines of advice that are due now."""
        found: dict[str, str] = {}
        scalars: dict[str, float] = {}
        _scores(rows, kimg, found, scalars)
        self._gradients(rows, found, scalars)
        _skipped(rows, found, scalars)
        if diversity is not None:
            scalars["Health/diversity"] = diversity
            if diversity < LOST * self.most_diverse or (kimg >= ALIKE_KIMG and diversity < ALIKE):
                found["alike"] = (
                    f"the samples differ from each other only {diversity:.2f} times as much as the reals do (at best"
                    f" {max(self.most_diverse, diversity):.2f}): the generator collapses; look at fakes-*.png, and go"
                    " back to an earlier checkpoint with a larger `gamma`"
                )
            self.most_diverse = max(self.most_diverse, diversity)
        elif "alike" in self.since:  # not measured in this tick: what was true stays true
            found["alike"] = ""
        if leak:
            found["leak"] = leak
        elif pinned:
            found["pinned"] = pinned
        return scalars, self._due(found, kimg)

    def _gradients(self, rows: dict, found: dict[str, str], scalars: dict[str, float]) -> None:
        """Their norms beside those of the ticks before."""
        for name in ("G", "D"):
            norm = _mean(rows, f"Gradients/{name}")
            if not math.isfinite(norm):
                continue
            past = self.norms.setdefault(name, [])
            if len(past) >= MEMORY // 2:
                ratio = norm / max(statistics.median(past), 1e-12)
                scalars[f"Health/gradient_{name}_to_median"] = ratio
                if ratio > EXPLODED:
                    found[f"gradient {name}"] = (
                        f"the gradients of {name} are {ratio:.3g} times what they were: the training is about to break;"
                        " if it does, go back to an earlier checkpoint with a lower `lr` or a larger `gamma`"
                    )
            past.append(norm)
            del past[:-MEMORY]

    def _due(self, found: dict[str, str], kimg: float) -> list[str]:
        lines = []
        for sign in [s for s in self.count if s not in found]:
            del self.count[sign]
            self.since.pop(sign, None)
        for sign, text in found.items():
            patience = {"sure": PATIENCE, "blind": BLIND_PATIENCE, "pinned": PATIENCE}.get(sign, 1)
            n = self.count[sign] = self.count.get(sign, 0) + 1
            self.since.setdefault(sign, kimg)
            if text and n >= patience and (n - patience) % REPEAT == 0:
                self.told[sign] = f"{text} (seen at {kimg:.1f} kimg)"
                lines.append(text + (f" (so since {self.since[sign]:.1f} kimg)" if n > patience else ""))
        return lines

    def fid(self, row: dict, best: dict, checkpoint: str) -> list[str]:
        """One FID and the best so far. Returns a line once when it has been much worse several times in a row.

        checkpoint: what `resume` needs to go back to the best one.
        """
        if row["best"]:
            self.fids = []
            return []
        self.fids.append(row["fid"])
        if len(self.fids) < WORSE_ROWS or any(fid <= WORSE * best["fid"] for fid in self.fids[-WORSE_ROWS:]):
            return []
        if len(self.fids) > WORSE_ROWS and all(fid > WORSE * best["fid"] for fid in self.fids[-WORSE_ROWS - 1 :]):
            return []  # told already
        return [
            f"{row['metric']} was {best['fid']:.2f} at {best['nimg'] / 1000:g} kimg and is {row['fid']:.2f} now:"
            " training on may make it worse; generator-best.safetensors is kept, and `resume`"
            f" {checkpoint} goes back there (add a larger `gamma`, say); copy the folder first if you want to keep what"
            " came after"
        ]


def _mean(rows: dict, name: str) -> float:
    return rows[name]["mean"] if name in rows and rows[name]["num"] else math.nan


def _scores(rows: dict, kimg: float, found: dict[str, str], scalars: dict[str, float]) -> None:
    """What the discriminator says of reals and fakes."""
    signs, scores = ([_mean(rows, f"Loss/{what}/{of}") for of in ("real", "fake")] for what in ("signs", "scores"))
    gap, largest = scores[0] - scores[1], max(map(abs, scores))
    if math.isfinite(gap):
        scalars["Health/score_gap"] = gap
    if largest > BROKEN:
        found["broken"] = (
            f"the discriminator's scores are about {largest:.0e}, where less than 100 is healthy: the training is"
            " breaking; if that stays, it goes back to its last healthy checkpoint by itself; what helps is a lower"
            " `lr` or a larger `gamma` (also with `resume`)"
        )
    if kimg >= WARM_UP and signs[0] > CERTAIN and signs[1] < -CERTAIN:
        found["sure"] = (
            f"the discriminator is right about {50 * (1 + signs[0]):.0f} % of the reals and"
            f" {50 * (1 - signs[1]):.0f} % of the fakes: it has won, or knows the training images by heart; raise"
            " `gamma` (also with `resume`), add data or `mirror`, and keep `aug` ada"
        )
    if kimg >= WARM_UP and gap < 0:
        found["blind"] = (
            "the discriminator has rated fakes above reals for some time: it no longer guides the generator;"
            " lower `lr` or `gamma` (also with `resume`)"
        )


def _skipped(rows: dict, found: dict[str, str], scalars: dict[str, float]) -> None:
    """Steps without a finite gradient."""
    bad = round(sum(r["mean"] * r["num"] for name, r in rows.items() if name.startswith("Gradients/skipped")))
    steps = bad + sum(rows[f"Gradients/{n}"]["num"] for n in ("G", "D", "V") if f"Gradients/{n}" in rows)
    if steps:
        scalars["Health/skipped_steps"] = bad / steps
    if bad and bad > SKIPPED * steps:
        found["skipped"] = (
            f"{bad} of {steps} steps were skipped for gradients that were not finite; if that goes on, resume with"
            " `precision` fp32, or a lower `lr`"
        )
