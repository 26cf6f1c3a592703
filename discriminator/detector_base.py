"""From photos to verdicts, whoever computes the network: what `Detector` (PyTorch) and `OnnxDetector` share.

Photo, preprocessing, logit, calibration, verdict: this course is here once, without PyTorch, so the two cannot drift
apart.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from discriminator.calibration import Calibration
from discriminator.crop_watch import CropWatch
from discriminator.join import SHAPE_ALONE, Join
from discriminator.quality import caution
from discriminator.second_look import SecondLook, joined
from discriminator.verdict import Threshold, Verdict, decide
from discriminator.views import FaceAndPixels, Preparation
from faces.finding.quality import has_few
from faces.pixel_crops import Region

ALIGNED_SETS = ("flickr140k", "rvf10k")  # named sets of which every photo is an aligned crop, as in FFHQ
VERSIONS = (1, 2)  # of a detector's file
NOT_NUMBERS = "the detector's network gives values that are not numbers: the file is damaged, retrain it"


def check_version(path: str | os.PathLike, header: dict) -> None:
    """UserError for the header of a file of another version."""
    if (version := header.get("version")) not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise UserError(f"{path}: detector file version {version}, this program reads {known}; update the program")


def versioned(detector: DetectorBase) -> dict:
    """Of its file's header: version 2 and the second look where it looks twice, which programs of version 1 would leave
    out unsaid."""
    if detector.second_look is None:
        return {"version": VERSIONS[0]}
    return {"version": VERSIONS[1], "second_look": detector.second_look.to_dict()}


def second_look_from(header: dict) -> SecondLook | None:
    """Of a file's header. UserError for one that is damaged, or in a file of version 1."""
    given = header.get("second_look")
    if (given is not None) != (header["version"] == VERSIONS[1]):
        raise UserError("a file of version 2 has a second look, and one of version 1 has none")
    return None if given is None else SecondLook.from_dict(given)


def reason_of(error: Exception) -> str:
    """Why a header does not fit, in words."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def notes_joined(*notes: str) -> str:
    """Notes on one verdict as one."""
    return "; ".join(note for note in notes if note)


class Raw(NamedTuple):
    """What a network gives: raw logits float64 [N]; patch maps float32 [N, h, w] in [0, 1], None without them; of a
    network that joins two views their calibrated log-odds float32 [N, 2] of face and pixels, NaN for pixels that are
    not there."""

    logits: np.ndarray
    maps: np.ndarray | None
    views: np.ndarray | None = None


class DetectorBase:
    """A subclass has `preprocess`, `calibration`, `meta`, `sha256` and `once`.

    source_sha256: of the detector file that an exported one came from. in_threads: whether it does most when many
    threads ask it for one image each; else one thread is to ask it for many at once. has_patches: False where it is
    known to give no maps. join: what joins the views of a network that has two. second_look: at which photos it looks
    twice."""

    preprocess: Preparation
    calibration: Calibration
    meta: dict
    sha256: str
    source_sha256: str = ""
    in_threads: bool = False
    has_patches: bool = True
    join: Join | None = None
    second_look: SecondLook | None = None

    def once(self, pixels: np.ndarray) -> Raw:
        """Preprocessed float32 [N, C, R, R] (or rows [N, L]) in [-1, 1] to what the network says of them, looking once.
        UserError if a logit is not finite."""
        raise NotImplementedError

    def raw(self, pixels: np.ndarray) -> Raw:
        """As `once`, and where `second_look` says so the mean of that and what it says of the mirror image."""
        first = self.once(pixels)
        if self.second_look is None:
            return first
        weight = self.second_look.weight(first.logits)
        if not (rows := np.flatnonzero(weight)).size:
            return first
        again = self.once(self.preprocess.mirrored(pixels[rows]))

        def both(once: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
            out = once.copy()
            out[rows] = joined(once[rows], mirrored, weight[rows])
            return out

        maps = first.maps if again.maps is None or first.maps is None else both(first.maps, again.maps[:, :, ::-1])
        views = first.views if again.views is None or first.views is None else both(first.views, again.views)
        return Raw(both(first.logits, again.logits), maps, views)

    def prepared(self, image: np.ndarray, photo: np.ndarray | None = None, region: Region | None = None) -> np.ndarray:
        """What the network is to see, uint8, of an image [H, W, 3]. photo, region: where it was cut out, for networks
        that look at a photo's own pixels; without a region the image is its own photo."""
        if isinstance(self.preprocess, FaceAndPixels):
            return self.preprocess.uint8(image, photo if region is not None else None, region)
        return self.preprocess.uint8(image, region is not None)

    def note_on_pixels(self, prepared: np.ndarray) -> str:
        """What to say where `prepared` holds no pixels of the photo's own for a network that looks at them, else ""."""
        p = self.preprocess
        if isinstance(p, FaceAndPixels) and not p.has_crops(prepared):
            return SHAPE_ALONE.format(side=p.pixels.side)
        return ""

    @property
    def batch(self) -> int:
        """Images at once: on a CPU the network gains nothing from many, and they take memory."""
        return 8

    def gradcam(self, pixels: np.ndarray, towards_fake: bool) -> np.ndarray | None:
        """What in an image, preprocessed as for `once` (N = 1), spoke for FAKE (or for REAL), looking once: float32
        [h, w] in [0, 1]. None where there are no gradients, or no such map."""
        return None

    def predict(self, images: Iterable[np.ndarray], *, batch: int = 32, fpr: float | None = None) -> list[Verdict]:
        """Verdicts in the order of `images`, each uint8 [H, W, 3] RGB of any size, judged whole.

        Images are taken one by one and only their preprocessed form is kept, so a generator that decodes files needs
        the memory of one photo. A detector of aligned faces must be given aligned crops: at the first photo that is
        none a UserWarning says so; `reports.library.judge` finds and cuts out the faces.
        fpr: which calibrated false-alarm rate sets the threshold (default: the file's). An image's verdict does not
        depend on its neighbours. UserError for a rate that was not calibrated or a network that gives no numbers.
        """
        if batch < 1:
            raise UserError(f"`batch` must be at least 1, not {batch}")
        threshold = Threshold.of(self.calibration, fpr=fpr)
        verdicts: list[Verdict] = []

        def one(image: np.ndarray) -> tuple[np.ndarray, str]:
            if self.trained_on_aligned_faces:
                self._watch(image)
            prepared = self.prepared(image)
            return prepared, notes_joined(self.note(image), self.note_on_pixels(prepared))

        prepared = map(one, images)
        while part := list(islice(prepared, batch)):
            pixels, notes = zip(*part)
            verdicts += self.verdicts(pixels, threshold, notes, batch)
        return verdicts

    @functools.cached_property
    def _watch(self) -> CropWatch:
        return CropWatch()

    def verdicts(
        self, pixels: Sequence[np.ndarray], threshold: Threshold, notes: Sequence[str] = (), batch: int = 32
    ) -> list[Verdict]:
        """The verdicts on what `preprocess.uint8` made, uint8 [R, R, C] each, at most `batch` of them at once. notes:
        what the reader should know, "" or a text for each."""
        verdicts = []
        for start in range(0, len(pixels), batch):
            out = self.raw(self.preprocess.normalise(np.stack(pixels[start : start + batch])))
            for i, logit in enumerate(out.logits):
                note = notes[start + i] if notes else ""
                patches = None if out.maps is None else out.maps[i]
                views = None if out.views is None else out.views[i]
                verdicts.append(self.verdict(float(logit), threshold, patches, note, views))
        return verdicts

    def verdict(
        self,
        logit: float,
        threshold: Threshold,
        patch_map: np.ndarray | None = None,
        note: str = "",
        views: np.ndarray | None = None,
    ) -> Verdict:
        """The verdict that follows from a logit and, of a network that joins two views, what these say [2]; its note
        ends with `caution`."""
        probability = float(self.calibration.probability(logit))
        said, why = None, ""
        if views is not None:
            face, pixels = (float(z) for z in views)
            said = (face, None if np.isnan(pixels) else pixels)
            why = self.join.contradiction(face, pixels, logit) if self.join is not None else ""
        return Verdict(
            label=decide(probability, threshold.point, why),
            probability=probability,
            threshold=threshold.point.threshold,
            unsure_low=threshold.point.unsure_low,
            fpr=threshold.fpr,
            n_real=threshold.point.n_real,
            logit=logit,
            patch_map=patch_map,
            note=notes_joined(why, note, self.caution),
            views=said,
            contradiction=why,
        )

    def note(self, image: np.ndarray) -> str:
        """What to say about an image that is notably smaller than the network looks at, else ""; of a detector of
        patches about any that is not of its size."""
        height, width = image.shape[:2]
        side = self.preprocess.resolution
        patches = bool(self.meta.get("patches"))
        if min(height, width) < side and (patches or has_few(min(height, width), side)):
            return f"only {width}x{height} pixels, enlarged to the {side}x{side} this detector looks at"
        if patches and (height, width) != (side, side):
            return (
                f"made smaller, but this detector knows {side}x{side} patches of files as they are: give it such crops"
            )
        return ""

    @property
    def caution(self) -> str:
        """What is said beside every verdict of a detector that is not to be relied on, or "" (`quality.caution`)."""
        return caution(self.meta, self.calibration)

    @property
    def trained_on_aligned_faces(self) -> bool:
        """Whether the detector knows upright, aligned crops only, as FFHQ's: then faces are to be cut out like that.

        `meta["face"]` says so ("ffhq", or "whole"); files without it are known by the set they were trained on."""
        face = self.meta.get("face")
        if isinstance(face, str) and face:
            return face not in ("whole", "none")
        return self.meta.get("trained_on") in ALIGNED_SETS
