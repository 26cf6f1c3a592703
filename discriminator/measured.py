"""What a detector was measured to find, and to accuse wrongly: the rates that stand beside each of its verdicts.

They come from the first of these that belongs to the detector: `<its name>.measured.json` beside it (the shipped one
has such a file, made by `benchmarks/measured.py`), the `verdict.json` of the run that made it, or the validation images
of its own calibration. Rates hold at one threshold; at a threshold of the user's own none is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError
from common.reading import json_file
from discriminator.verdict import Threshold
from metrics.few import ENOUGH, exact_interval

FORMAT, VERSION = "ganface-measured", 1
ENDING = ".measured.json"
OWN, OTHERS, PHOTOS = ROLES = ("own", "others", "photos")


@dataclass(frozen=True)
class Share:
    """`called` of `of` scores of a set were called FAKE. views: how many of the scores belong to each image; of two
    views of a photo there is one photo, so intervals count images."""

    name: str
    called: int
    of: int
    views: int = 1

    @property
    def value(self) -> float:
        return self.called / self.of

    @property
    def images(self) -> int:
        return self.of // self.views

    def interval(self) -> tuple[float, float]:
        """A fraction of an image is rounded outwards, as in `calibration`."""
        low, high = self.called // self.views, -(-self.called // self.views)
        return exact_interval(low, self.images)[0], exact_interval(high, self.images)[1]

    def __str__(self) -> str:
        views = f" views of {self.images}" if self.views > 1 else ""
        return f"{self.name}: {self.called} of {self.of}{views}"


@dataclass(frozen=True)
class Rates:
    """What is known at the threshold in force, each empty where it was not measured. own: fakes of the kind that the
    detector learnt from; others: fakes of other generators; photos: real photos. remark: what must be said of them, or
    ""."""

    own: tuple[Share, ...] = ()
    others: tuple[Share, ...] = ()
    photos: tuple[Share, ...] = ()
    remark: str = ""

    def lines(self) -> list[str]:
        """Sentences for people, without a full stop."""
        told = [
            ("fakes of the kind it learnt from: {} found", self.own, ""),
            (
                "fakes of other generators: {} found", self.others,
                "fakes of other generators: not measured; expect it to miss many",
            ),
            ("false alarms: {} of real photos called FAKE", self.photos, ""),
        ]  # fmt: skip
        if not (self.own or self.others or self.photos):
            told = []
        lines = [text.format(span(s)) + f" ({in_sets(s)})" if s else without for text, s, without in told]
        lines = [line for line in lines if line]
        return [*lines, self.remark] if self.remark else lines

    def says(self) -> str:
        """The same in a sentence, without the sets."""
        if not (self.own or self.others or self.photos):
            return f"{self.remark[:1].upper()}{self.remark[1:]}." if self.remark else ""
        found = [f"{span(self.own)} of its own kind of fakes"] if self.own else []
        found += [f"{span(self.others)} of other generators'"] if self.others else []
        parts = [f"finds {' and '.join(found)}"] if found else []
        parts += [f"accuses {span(self.photos)} of photos"] if self.photos else []
        without = "" if self.others else "; with other generators it was not measured"
        return f"This detector {' and '.join(parts)}{without}."

    def to_dict(self) -> dict:
        """Plain JSON types."""
        known = {"own_fakes_found": self.own, "other_generators_found": self.others, "false_alarms": self.photos}
        row: dict = {"says": self.says(), "lines": self.lines()}
        for name, shares in known.items():
            sets = [{**asdict(share), "share": share.value} for share in shares]
            low, high = ends(shares) if shares else (None, None)
            row[name] = {"low": low, "high": high, "sets": sets} if shares else None
        return row


def ends(shares: Sequence[Share]) -> tuple[float, float]:
    """The lowest and the highest share."""
    values = [share.value for share in shares]
    return min(values), max(values)


def span(shares: Sequence[Share]) -> str:
    """ "40 to 72 %", or one number where the sets agree; of few images "100 % (95 % interval 40 to 100 %)"."""
    low, high = (_percent(value) for value in ends(shares))
    text = f"{high} %" if low == high else f"{low} to {high} %"
    few = [share.interval() for share in shares if share.images < ENOUGH]
    if few:
        text += f" (95 % interval {100 * min(a for a, _ in few):.0f} to {100 * max(b for _, b in few):.0f} %)"
    return text


def in_sets(shares: Sequence[Share]) -> str:
    """Each set with what was counted there."""
    return ", ".join(map(str, shares))


def _percent(share: float) -> str:
    """Two digits; never 0 or 100 of what is not quite."""
    number = float(f"{100 * share:.2g}")
    if share < 1 and number >= 100:
        return "above 99"
    return f"{number:g}"


def rates_of(file: Path, detector, threshold: Threshold) -> Rates:
    """The rates of a detector (`DetectorBase`) that was found in `file`, at the threshold in force. UserError for a
    file of rates that is damaged."""
    if threshold.own:
        return Rates(remark="what is found at a threshold of your own, and what is accused, was not measured")
    target, names = threshold.point.target_fpr, {detector.sha256, detector.source_sha256} - {""}
    beside = file.with_suffix(ENDING)
    if beside.is_file() and (told := _beside(beside, names)) is not None:
        if (rates := _at(beside, told, target)) is not None:
            return rates
    elif (run := _of_run(file.with_name("verdict.json"), threshold)) is not None:
        return run
    return _of_validation(threshold, detector.calibration.n_fake)


def _beside(path: Path, names: set[str]) -> Mapping | None:
    """What the file says, None where it is about another detector."""
    try:
        told = json_file(path)
        if told["format"] != FORMAT or told["version"] != VERSION:
            raise ValueError
        return told if told["detector_sha256"] in names else None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: is no file of measured rates that this program reads; make it again with benchmarks/measured.py,"
            " or remove it"
        ) from None


def _at(path: Path, told: Mapping, target: float) -> Rates | None:
    """The rates at the threshold for a false-alarm rate, None where they were not measured there."""
    shares: dict[str, list[Share]] = {role: [] for role in ROLES}
    try:
        for row in told["sets"]:
            called = [k for fpr, k in row["called"].items() if math.isclose(float(fpr), target, rel_tol=1e-6)]
            if called:
                share = Share(str(row["name"]), int(called[0]), int(row["of"]))
                if not 0 <= share.called <= share.of or not share.of:
                    raise ValueError
                shares[row["role"]].append(share)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: its sets are damaged; make it again with benchmarks/measured.py") from None
    own, others, photos = (tuple(shares[role]) for role in ROLES)
    return Rates(own, others, photos) if own or others or photos else None


def _of_run(path: Path, threshold: Threshold) -> Rates | None:
    """What the run of an adversarial game says of its own detector on images that nothing was chosen on; None where
    there is no such file or it is about another threshold."""
    try:
        told = json_file(path)
        held, where = told["held_out_clean"], str(told["measured_on"])
        if not math.isclose(held["threshold"], threshold.point.threshold, rel_tol=1e-9):
            return None
        counts = [(held["tpr"], held["n_fake"]), (held["false_alarm_rate"], held["n_real"])]
        name = f"the run's own {where} images"
        own, photos = (Share(name, round(rate * n), n) for rate, n in counts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Rates((own,) if own.of else (), (), (photos,) if photos.of else ())


def _of_validation(threshold: Threshold, fakes: int) -> Rates:
    """What the thresholds were set on: better than nothing, and somewhat too good. fakes: how many fakes there were."""
    point, name = threshold.point, "validation images, on which the threshold was set"
    views = point.views
    reals, fakes = point.n_real * views, fakes * views
    photos = (Share(name, point.false_alarms, reals, views),) if reals else ()
    if point.tpr is None or not fakes:
        return Rates(photos=photos, remark="how many fakes are found was not measured at this threshold")
    return Rates((Share(name, round(point.tpr * fakes), fakes, views),), (), photos)
