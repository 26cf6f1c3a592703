"""Data sources to a table of scores: opening, labelling and naming them, judging every image, remembering it.

What was judged once lies in a cache under a key of the content (detector, images, degradation, versions), one file per
source and degradation, so an interrupted run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import reading
from common.errors import BadImage, UserError, one_line
from common.files import cache_folder, written_whole
from common.parallel import in_order
from common.words import counted
from discriminator.crop_watch import LOOKED_AT, no_crop
from discriminator.detector import Detector
from discriminator.detector_base import DetectorBase
from discriminator.origins import lessons_of
from discriminator.verdict import Threshold
from evaluation.options import ScoringOptions
from faces.degrade import Degradation
from faces.field_lists import lists_beside
from faces.layout import LABELS, LabelRule, Reading, label_word, parts_of, split_word
from faces.manifest import is_of_samples, text_column
from faces.scan import Facts, header_facts, scan
from faces.source import LISTED, SET_NAMES, FaceSource, open_source
from faces.splitting import groups_of
from faces.stores import FolderStore, ManifestStore, RenderedStore
from metrics.scores import GROUPS, Scores, groups_from

CACHE_FORMAT = 2
MIN_SIDE = 16  # pixels, as in discriminator.judge
KEPT = 1 << 30  # bytes of decoded photos that are kept for the next degradation
FOLDERS = 40  # more sub-folders than that are a way of storing, not sources


class Judged(NamedTuple):
    """What a detector says of the images of a part. score float64 [n]: P(fake), NaN for what can't be used. undecided
    bool [n]: where it would not decide at any threshold, because two views contradict each other."""

    score: np.ndarray
    undecided: np.ndarray


@dataclass
class LabelledImages:
    """One source. `names`, `generators`: object [n] of str, one per image; labels int [n]; group as in `Scores`; whole:
    the fingerprint of the source, "" where these images are one split of it."""

    spec: str
    source: FaceSource
    labels: np.ndarray
    names: np.ndarray
    generators: np.ndarray
    group: np.ndarray | None
    grouped_by: str
    notes: list[str] = field(default_factory=list)
    whole: str = ""

    def __len__(self) -> int:
        return len(self.source)

    def describe(self) -> str:
        real, fake = int((self.labels == 0).sum()), int((self.labels == 1).sum())
        counts = " and ".join(f"{n} {what}" for n, what in ((real, "real"), (fake, "fake")) if n)
        return one_line(f"{self.spec}: {counts}" + (f" ({'; '.join(self.notes)})" if self.notes else ""))

    def scores(self, judged: Judged, degradation: str) -> Scores:
        """The rows of the images whose score is a number."""
        values = judged.score
        names = text_column([degradation] * len(self))
        paths = text_column([self.source.locate(i) for i in range(len(self))])
        table = Scores(
            paths, self.labels.astype(np.int8), values, self.names, self.generators, names, self.group,
            self.grouped_by, judged.undecided,
        )  # fmt: skip
        return table.select(np.isfinite(values))


def open_labelled(options: ScoringOptions, *, group_by: str | None = None) -> list[LabelledImages]:
    """Open every source of the options: its `split` (None: test where there is one, else all), at most `limit` of each
    class of each source, evenly spread; where a source doesn't say what its images are, `label` does.

    group_by: a manifest's column. UserError where a source can't be opened or says nothing of its labels, or no source
    has that column.
    """
    parts, anchors = [], [place_of(spec) for spec in options.data]
    limit = options.limit
    seen: set[str] = set()
    for spec, (anchor, short) in zip(options.data, anchors):
        clash = any(a != anchor and s == short for a, s in anchors)
        name = anchor if clash else short  # two folders of one name are told apart by where they lie
        part = _open(spec, name, options, group_by)
        places = part.source.places()
        fresh = [i for i, place in enumerate(places) if place not in seen]
        seen.update(places)
        if not fresh:
            raise UserError(f"`data` {spec}: all of its images belong to an earlier `data`; leave it out")
        if len(fresh) < len(part):
            part.notes.append(f"{counted(len(part) - len(fresh), 'image')} of an earlier `data` left out")
            part = chosen(part, np.array(fresh, dtype=np.int64))
        if limit is not None:
            kept = np.sort(np.concatenate([spread(np.flatnonzero(part.labels == c), limit) for c in (0, 1)]))
            if len(kept) < len(part):
                part.notes.append(
                    f"a quick look: {len(kept)} of {counted(len(part), 'image')}, `limit` {limit} of a class"
                )
                part = chosen(part, kept)
        parts.append(part)
    if group_by is not None and all(part.group is None for part in parts):
        raise UserError(f"`group_by` {group_by}: no `data` is a manifest with such a column that says something")
    return parts


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows, evenly spread."""
    count = min(count, len(rows))
    return rows[np.arange(count, dtype=np.int64) * len(rows) // max(count, 1)]


def chosen(part: LabelledImages, rows: np.ndarray) -> LabelledImages:
    """The images at the positions `rows`."""
    group = None if part.group is None else part.group[rows]
    columns = {"labels": part.labels[rows], "names": part.names[rows], "generators": part.generators[rows]}
    return replace(part, source=part.source.select(rows), group=group, **columns)


def taught_with(parts: Sequence[LabelledImages], meta: Mapping, name: str) -> list[str]:
    """A line for each source that the detector called `name` learnt from, and that is judged without regard to splits;
    meta: of its file."""
    marks = {lesson.fingerprint for lesson in lessons_of(meta)}
    return [
        f"{part.spec}: {name} was taught with this very set; what is found here says little of photos it never saw"
        for part in parts
        if part.whole in marks
    ]


def not_cut_out(parts: Sequence[LabelledImages], detector: DetectorBase) -> list[str]:
    """A line for each source of whose pictures, a few of which are looked at, some are not what a detector of aligned
    faces knows: here nobody looks for faces, as judging does."""
    told = []
    for part in parts if detector.trained_on_aligned_faces else []:
        looked, why = 0, list[str]()
        for i in spread(np.arange(len(part)), LOOKED_AT).tolist():
            with contextlib.suppress(BadImage):
                why += filter(None, [no_crop(part.source.decoded(i).pixels)])
                looked += 1
        if len(why) > looked // 8:
            told.append(
                f"{part.spec}: of {counted(looked, 'picture')} looked at, {len(why)} are no aligned crops of a face"
                f" ({why[0]}), and all are judged as they are: detect.py, which cuts faces out, may answer otherwise;"
                " prepare_data.py normalise cuts them out for good"
            )
    return told


def place_of(spec: str) -> tuple[str, str]:
    """(where a source lies, its short name, which its images have where it is one source): that of data/faces/test/real
    is faces/test/real."""
    if spec in SET_NAMES:
        return spec, spec
    path = os.path.abspath(os.path.expanduser(spec))
    parts = [part for part in path.split(os.sep) if part] or [path]
    name = parts.pop()
    stem, ending = os.path.splitext(name)
    name = stem if ending.lower() in (".zip", ".csv", ".parquet") else name
    while parts and _is_part(name.split("/")[0]):
        name = f"{parts.pop()}/{name}"
    return path, name


def _is_part(name: str) -> bool:
    """Whether a folder is called like a label or a split."""
    return label_word(name) is not None or split_word(name) is not None


def _open(spec: str, name: str, options: ScoringOptions, group_by: str | None) -> LabelledImages:
    split, label = options.split, options.label
    try:
        source, notes = _opened(spec, options)
    except UserError as error:
        raise UserError(f"`data` {error}" if str(error).startswith(spec) else f"`data` {spec}: {error}") from None
    whole = source.fingerprint() if split == "all" or (split is None and "test" not in source.splits) else ""
    if split is None and "test" in source.splits:
        total = len(source)
        source = source.select(split="test")
        notes.insert(0, "test split" if len(source) < total else "all of it test split")
    labels = source.labels
    if not _says_labels(source):
        if label is None:
            raise UserError(
                f"`data` {spec}: nothing says which images are real and which are fake; put them into folders real/ "
                "and fake/, give a manifest with a column label, or say `labels` real=A,fake=B with the names of its"
                " folders, or `label` real or `label` fake if all are one"
                + "".join(f"; {note}" for note in notes if LISTED in note)
            )
        if label == "real" and (made := _samples_in(source)):
            raise UserError(
                f"`data` {spec}: {made} in it is of synth.py: its images are fakes, not real: give it in place of the"
                " folder"
            )
        labels = np.full(len(source), LABELS[label])
        notes.append(f"all {label} by `label`")
    rows = source.manifest
    names = _source_names(source, name)
    generators, group, grouped_by = text_column([""] * len(source)), None, ""
    if rows is not None:
        paths = rows["path"].tolist()
        if "source" in rows:
            names = text_column([own or found for own, found in zip(rows["source"], names)])
        if "generator" in rows:
            generators = text_column([g if label == 1 else "" for g, label in zip(rows["generator"], labels)])
        grouped_by = group_by or next((column for column in GROUPS if column in rows), "")
        if grouped_by and grouped_by in rows:
            group = groups_from([str(value) for value in rows[grouped_by]], paths)
        elif not group_by and len(rows) and "phash" in rows and rows["phash"].any():
            numbers = groups_of(rows, "near-duplicate")
            grouped_by, group = "near_duplicate", text_column([f"{name}:{number}" for number in numbers])
    return LabelledImages(spec, source, labels, names, generators, group, grouped_by, notes, whole)


def _opened(spec: str, options: ScoringOptions) -> tuple[FaceSource, list[str]]:
    """A source and its notes. Of several sources, one that says its labels itself needs none of `labels`."""
    split = None if options.split == "all" else options.split

    def opened(labels: str | None) -> FaceSource:
        reading = Reading(labels, ask=options.label is None)
        return open_source(spec, data_root=options.data_root, split=split, reading=reading)

    try:
        source = opened(options.labels)
        return source, list(source.notes)
    except UserError as error:
        if options.labels is None or len(options.data) < 2 or not str(error).startswith("`labels`"):
            raise
        LabelRule.parse(options.labels)  # what is no rule at all is refused
        source = opened(None)
        if not _says_labels(source):
            raise
        return source, [*source.notes, "`labels` names nothing in it; its own names count"]


def _says_labels(source: FaceSource) -> bool:
    if isinstance(source.store, RenderedStore):
        return True
    rows = source.manifest
    if rows is not None and "label" in rows:
        return bool((rows["label"] >= 0).any())
    if any(source.names.label(folders) is not None for folders in {parts_of(item.path)[:-1] for item in source.items}):
        return True
    root = source.name if isinstance(source.store, FolderStore) else os.path.splitext(source.name)[0]
    return source.names.rule is not None or source.names.by_file or label_word(root) is not None


def _samples_in(source: FaceSource) -> str:
    """The manifest that `synth.py` left beside images of a folder; "" where there is none."""
    if not isinstance(source.store, FolderStore):
        return ""
    tables = lists_beside(source.store.root, (item.path for item in source.items))
    return next((name for name in tables if is_of_samples(source.store.locate(name))), "")


def _source_names(source: FaceSource, name: str) -> np.ndarray:
    """Each image's source: the set's name, and the folder where the set has several besides labels and splits."""
    if isinstance(source.store, RenderedStore | ManifestStore):  # a manifest's paths may lead anywhere
        return text_column([name] * len(source))
    folders = [tuple(f for f in parts_of(item.path)[:-1] if not source.names.tells(f)) for item in source.items]
    different = set(folders)
    common = os.path.commonprefix(sorted(different)) if different else ()
    if len(different) == 1 or len(different) > FOLDERS:
        return text_column([name] * len(source))
    return text_column(["/".join((name, *f[len(common) :])) for f in folders])


# ---- scores -----------------------------------------------------------------------------------------------------


class Scorer:
    """A detector that judges the images of parts under degradations.

    options: batch, workers, seed (of the degradations' draws), whether there is a cache. keep: whether decoded photos
    are kept for the next degradation. noted: files whose facts will be asked for (`facts`). advance(n): called as
    images are done. `skipped`: (name, reason) of every image that can't be used, found on the way.
    """

    def __init__(
        self,
        detector: DetectorBase,
        options: ScoringOptions,
        *,
        keep: bool = False,
        noted: Iterable[str] = (),
        advance: Callable[[int], None] = lambda n: None,
    ):
        self.detector, self.advance = detector, advance
        self.batch, self.workers, self.seed = options.batch, options.workers, options.seed
        self.cache = None if options.no_cache else cache_folder() / "scores"
        self.skipped: dict[str, str] = {}
        self._room = KEPT if keep else 0
        self._photos: dict[str, np.ndarray] = {}  # by where they lie: some of a part are the same photos
        self._facts: dict[str, Facts | None] = dict.fromkeys(noted)

    def score(self, part: LabelledImages, degradation: Degradation) -> Judged:
        """What is said of every image of the part under the degradation."""
        return score_all([self], part, degradation)[0]

    def facts(self, part: LabelledImages, rows: Sequence[int]) -> list[Facts]:
        """What the files of these images of the part are, by their headers. Only those are read for it that were not
        when they were scored."""
        names = [part.source.locate(i) for i in rows]
        left = {name: i for name, i in zip(names, rows) if self._facts.get(name) is None}
        found = scan(part.source.select(list(left.values())), workers=self.workers, pixels=False)
        self._facts |= zip(left, found)
        return [fact for name in names if (fact := self._facts[name]) is not None]

    def known(self, part: LabelledImages, degradation: Degradation) -> tuple[Judged, dict[str, str]] | None:
        """What lies in the cache: the scores, and why images can't be used; under the names that they have here, for
        the set may have lain elsewhere when it was judged."""
        if (found := self._read(self._path(part, degradation), len(part))) is None:
            return None
        judged, reasons = found
        without = np.flatnonzero(np.isnan(judged.score)).tolist()
        if len(without) != len(reasons):
            return None
        return judged, {part.source.locate(i): reason for i, reason in zip(without, reasons.values())}

    def learn(self, part: LabelledImages, degradation: Degradation, judged: Judged, reasons: dict[str, str]) -> None:
        self._write(self._path(part, degradation), judged, reasons)

    def prepared(
        self, part: LabelledImages, degradation: Degradation
    ) -> Iterator[list[tuple[int, np.ndarray | BadImage]]]:
        """What the network is to see of the part's images under the degradation, or why one can't be used: batch by
        batch (image, pixels), in order."""
        for some in self.prepared_for([self.detector], part, degradation):
            yield [(i, pixels if isinstance(pixels, BadImage) else pixels[0]) for i, pixels in some]
            self.advance(len(some))

    def prepared_for(
        self, detectors: Sequence[DetectorBase], part: LabelledImages, degradation: Degradation
    ) -> Iterator[list[tuple[int, list[np.ndarray] | BadImage]]]:
        """As `prepared`, for several detectors at once: an image is decoded and degraded once for all. A rendered set
        is drawn for this scorer's."""
        source = part.source.rendered_at(self.detector.preprocess.resolution)
        name = zlib.crc32(degradation.name.encode())

        def one(i: int) -> list[np.ndarray] | BadImage:
            try:
                photo = self._photo(source, i)
            except BadImage as error:
                return error
            # an image's draws depend on itself, not on its place in the list or on what else is judged
            path = zlib.crc32(source.items[i].path.encode("utf-8", "surrogateescape"))
            rng = np.random.Generator(np.random.PCG64([self.seed, name, path]))
            shown = degradation.apply(photo, rng)
            return [detector.prepared(shown) for detector in detectors]

        results: Iterator = enumerate(in_order(one, len(part), self.workers))
        while some := list(islice(results, self.batch)):
            yield some

    def _photo(self, source: FaceSource, i: int) -> np.ndarray:
        name = source.locate(i)
        if (photo := self._photos.get(name)) is None:
            data = None if isinstance(source.store, RenderedStore) else source.read(i)
            photo = source.decoded(i, min_side=MIN_SIDE, data=data).pixels
            if data is not None and self._facts.get(name, data) is None:
                self._facts[name] = header_facts(source, i, data)
            if photo.nbytes <= self._room:
                self._room -= photo.nbytes
                self._photos[name] = photo
        return photo

    # ---- what is remembered

    def _engine(self) -> str:
        """What computes the scores, whose last digits it decides."""
        return str(self.detector.device.type) if isinstance(self.detector, Detector) else "onnx"

    def _path(self, part: LabelledImages, degradation: Degradation) -> Path | None:
        if self.cache is None or not self.detector.sha256:  # without one, two detectors would have one key
            return None
        import cv2
        import PIL
        import torch

        versions = [np.__version__, PIL.__version__, cv2.__version__, torch.__version__, self._engine()]
        what = [CACHE_FORMAT, self.detector.sha256, part.source.content_stamp(), degradation.to_dict(), self.seed]
        text = json.dumps([*what, *versions, [item.path for item in part.source.items]], sort_keys=True)
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        return self.cache / f"scores-{key}.npz"

    def _read(self, path: Path | None, count: int) -> tuple[Judged, dict[str, str]] | None:
        if path is None or not path.is_file():
            return None
        try:
            saved = reading.npz_file(path, ("scores", "undecided", "reasons"))
            judged, reasons = Judged(saved["scores"], saved["undecided"]), reading.json_of(str(saved["reasons"]))
        except (OSError, ValueError, KeyError):
            return None
        return (judged, reasons) if judged.score.shape == judged.undecided.shape == (count,) else None

    def _write(self, path: Path | None, judged: Judged, reasons: dict[str, str]) -> None:
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, scores=judged.score, undecided=judged.undecided, reasons=json.dumps(reasons))


def score_all(scorers: Sequence[Scorer], part: LabelledImages, degradation: Degradation) -> list[Judged]:
    """What each of these says of every image of the part under the degradation; of one set of options, and of a part
    whose rendered images are drawn alike for all (`rendered_alike`)."""
    found = [scorer.known(part, degradation) for scorer in scorers]
    asked = [scorer for scorer, known in zip(scorers, found) if known is None]
    computed = iter(_computed(asked, part, degradation) if asked else [])
    out = []
    for scorer, known in zip(scorers, found):
        if known is None:
            scorer.learn(part, degradation, *(known := next(computed)))
        else:
            scorer.advance(len(part))
        scorer.skipped.update(known[1])
        out.append(known[0])
    return out


def _computed(
    scorers: Sequence[Scorer], part: LabelledImages, degradation: Degradation
) -> list[tuple[Judged, dict[str, str]]]:
    said = [Judged(np.full(len(part), np.nan), np.zeros(len(part), bool)) for _ in scorers]
    reasons: dict[str, str] = {}
    for some in scorers[0].prepared_for([scorer.detector for scorer in scorers], part, degradation):
        good = [(i, pixels) for i, pixels in some if not isinstance(pixels, BadImage)]
        reasons |= {error.name: error.reason for _, error in some if isinstance(error, BadImage)}
        for k, (scorer, judged) in enumerate(zip(scorers, said)):
            rule = Threshold.of(scorer.detector.calibration)
            verdicts = scorer.detector.verdicts([pixels[k] for _, pixels in good], rule, batch=len(good) or 1)
            for (i, _), verdict in zip(good, verdicts):
                judged.score[i], judged.undecided[i] = verdict.probability, bool(verdict.contradiction)
            scorer.advance(len(some))
    return [(judged, dict(reasons)) for judged in said]
