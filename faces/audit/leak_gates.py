"""Does anything but the face tell real from fake? The gates of `faces.audit.gates`, run over a source.

    result = run_gates(open_source("flickr140k"))
    result.failed, result.to_dict()
    cheap_gates(source).check()        # before a training: seconds; raises LeakFound

A detector is only worth its accuracy where these gates pass: classifiers that are shown nothing but the file's
header, its size, the 8 x 8 grid, the spectrum, the place of the eyes or the mean colour must fail to tell the classes
apart, and no picture may be in two splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import BadImage, UserError
from common.parallel import Stages, stage
from common.words import counted, none_of
from faces.audit.copies import against_gate, split_gates
from faces.audit.crossval import cross_validated_auc
from faces.audit.gates import (
    FAIL,
    UNCLEAR,
    Gate,
    classifier_gate,
    colour_detail,
    landmark_features,
    look_features,
    metadata_columns,
    metadata_features,
    size_features,
    skipped,
    telling,
)
from faces.audit.leak_features import header_marks, look, over_images
from faces.audit.repairs import AS_NAMED, Made, with_repairs
from faces.layout import parts_of
from faces.prepare_options import GateOptions
from faces.scan import Facts, scan
from faces.similar import exact_groups, joined, near_groups
from faces.source import FaceSource

if TYPE_CHECKING:
    from faces.finding.align import FaceFinder

MAX_FACES = 2000  # in which landmarks are looked for, at some 10 ms each
MAX_CONTROL = 3000
SHUFFLES = 3
AS_IT_IS = GateOptions()
PIXEL_GATES = ("blockiness", "spectrum", "colour", "layout")


class LeakFound(UserError):
    """A gate failed: `result` is the audit, the message names the gates and what they found in one line."""

    def __init__(self, result: AuditResult):
        super().__init__(result.complaint())
        self.result = result


@dataclass
class AuditResult:
    """What the gates said. `images`: all in the source; `looked_at`: shown to the classifiers; `bad`: (name, reason) of
    the files that can't be used; `notes`: lines worth reading beside the table."""

    name: str
    images: int
    real: int
    fake: int
    looked_at: int
    gates: list[Gate]
    bad: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Gate]:
        return [gate for gate in self.gates if gate.verdict == FAIL]

    @property
    def unclear(self) -> list[Gate]:
        return [gate for gate in self.gates if gate.verdict == UNCLEAR]

    @property
    def repairs(self) -> list[str]:
        """The commands that repair what failed, in the order in which they are to be given."""
        return list(dict.fromkeys(gate.repair for gate in self.failed if gate.repair))

    def complaint(self) -> str:
        """One line about the gates that failed; "" where none did."""
        if not self.failed:
            return ""
        found = "; ".join(_short(gate) for gate in self.failed)
        todo = f"; repair: {' ; '.join(self.repairs)}" if self.repairs else ""
        return f"{self.name}: something other than the face gives the class away: {found}{todo}"

    def check(self) -> AuditResult:
        """The result itself. Raises LeakFound where a gate failed."""
        if self.failed:
            raise LeakFound(self)
        return self

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": self.name, "images": self.images, "real": self.real, "fake": self.fake,
            "looked_at": self.looked_at, "passed": not self.failed, "failed": [gate.name for gate in self.failed],
            "unclear": [gate.name for gate in self.unclear], "gates": [gate.to_dict() for gate in self.gates],
            "unreadable": [list(pair) for pair in self.bad], "notes": self.notes,
        }  # fmt: skip


def _short(gate: Gate) -> str:
    what = f"AUC {gate.auc.auc:.2f}" if gate.auc is not None else f"{gate.count}"
    return f"{gate.name} ({', '.join(part for part in (what, gate.detail) if part)})"


def cheap_gates(
    source: FaceSource,
    *,
    spec: str | None = None,
    call: Mapping[str, str] = AS_NAMED,
    workers: int | None = None,
    progress: Stages | None = None,
) -> AuditResult:
    """The gates that need no pixels: metadata, size, copies across splits, contradictory labels, and the control.

    Reads every file once (for its SHA-256) but decodes none. `.check()` raises LeakFound; `spec` and `call` are how the
    person named the source, for the repair commands."""
    return run_gates(source, GateOptions(quick=True, workers=workers), spec=spec, call=call, progress=progress)


def header_warning(source: FaceSource, *, count: int = 1000) -> str:
    """One line if the headers of `count` images already tell real from fake, else "". For programs that only warn: it
    takes a second at most, and nothing for a set of one class."""
    part = source.select(_sample(source.labels, count, 0))
    if len(np.unique(part.labels)) < 2:
        return ""
    facts = scan(part, workers=1, pixels=False)
    usable = [i for i, f in enumerate(facts) if f.error is None]
    part = part.select(usable)
    shown = _Shown(part, [facts[i] for i in usable], part.labels, np.arange(len(part)))
    (metadata, _), _ = _metadata_gates(shown)
    (metadata,) = with_repairs([metadata], source.store.locate(""), Made.of(source))
    return AuditResult(source.name, len(source), 0, 0, len(part), [metadata]).complaint()


def run_gates(
    source: FaceSource,
    how: GateOptions = AS_IT_IS,
    *,
    spec: str | None = None,
    call: Mapping[str, str] = AS_NAMED,
    against: Sequence[FaceSource] = (),
    finder: FaceFinder | None = None,
    progress: Stages | None = None,
) -> AuditResult:
    """All gates over `source`.

    spec, call: how the person named the source, and its options "labels", "split", "data_root", for the repair
    commands. against: other sets it must share no picture with.
    finder: for the landmarks gate, which is skipped without one that gives landmarks. progress(stage, done, total)."""
    facts = scan(source, workers=how.workers, pixels=not how.quick, progress=stage(progress, "reading"))
    usable = np.array([i for i, f in enumerate(facts) if f.error is None], np.int64)
    if not len(usable):
        first = f"{facts[0].path}: {facts[0].error}" if facts else "it is empty"
        raise UserError(none_of(len(source), "image", "can be used", first, source.name))
    good, readable = [facts[i] for i in usable], source.select(usable)
    labels = np.array([-1 if f.label is None else f.label for f in good], np.int64)
    sample = _sample(labels, how.limit, how.seed)
    if len(np.unique(labels[labels >= 0])) < 2:
        why = "images of one class only: there is nothing to tell apart"
        names = ("metadata", "size") if how.quick else ("metadata", "size", *PIXEL_GATES, "landmarks")
        gates = [skipped(name, why) for name in names]
    else:
        shown = _Shown(readable.select(sample), [good[i] for i in sample], labels[sample], _groups(good)[sample])
        gates = _classifier_gates(shown, how, finder, progress)
    gates += split_gates(readable, good, how.quick)
    for other in against:
        theirs = scan(
            other, workers=how.workers, pixels=not how.quick, progress=stage(progress, f"reading {other.name}")
        )
        gates.append(against_gate(readable, good, other, theirs))
    bad = [(f.path, f.error) for f in facts if f.error is not None]
    made = Made.of(readable)
    notes = [*([made.describe()] if made else []), *source.notes, *_origins(source, good)]
    notes += [f"{other.name}: {note}" for other in against for note in other.notes]
    gates.sort(key=lambda gate: gate.name == "control")  # which is told last
    gates = with_repairs(gates, spec or source.store.locate(""), made, call)
    real, fake = int((labels == 0).sum()), int((labels == 1).sum())
    if len(sample) < real + fake:
        notes.append(f"{len(sample)} of {real + fake} images, drawn at random, were shown to the classifiers (`limit`)")
    return AuditResult(source.name, len(source), real, fake, len(sample), gates, bad, notes)


@dataclass(frozen=True)
class _Shown:
    """The images that the classifiers see, all [n]; images of one group are copies or nearly."""

    part: FaceSource
    facts: list[Facts]
    labels: np.ndarray
    groups: np.ndarray


def _classifier_gates(
    shown: _Shown, how: GateOptions, finder: FaceFinder | None, progress: Stages | None
) -> list[Gate]:
    part, y, g = shown.part, shown.labels, shown.groups
    gates, metadata = _metadata_gates(shown)
    features = {"metadata": metadata}
    if not how.quick:
        looks = list(over_images(part, lambda i, image: look(image), how.workers, stage(progress, "looking")))
        seen = np.array([i for i, each in enumerate(looks) if each is not None], np.int64)
        if not len(seen):
            raise UserError(f"{part.name}: its images vanished while they were looked at; check the disk")
        features = look_features([each for each in looks if each is not None])
        for name in PIXEL_GATES:
            found = cross_validated_auc(features[name], y[seen], g[seen])
            detail = colour_detail(features[name], y[seen]) if name == "colour" else ""
            gates.append(classifier_gate(name, found, detail))
        gates.append(_landmark_gate(shown, how, finder, progress))
        y, g = y[seen], g[seen]
    return [*gates, _control(features, y, g, how.seed)]


def _sample(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Positions of at most `limit` labelled images, the classes as even as they can be, in order."""
    rng = np.random.default_rng([seed, 0xA0D17])
    by_class = [rng.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    reals = min(len(by_class[0]), max(limit // 2, limit - len(by_class[1])))
    fakes = min(len(by_class[1]), limit - reals)
    return np.sort(np.concatenate([by_class[0][:reals], by_class[1][:fakes]]))


def _groups(facts: Sequence[Facts]) -> np.ndarray:
    """Copies and near duplicates share a number."""
    exact = exact_groups([f.sha256 for f in facts])
    hashes = np.array([f.phash or 0 for f in facts], np.uint64)
    return joined(exact, near_groups(hashes)) if hashes.any() else exact


# ---- the gates --------------------------------------------------------------------------------------------------


def _metadata_gates(shown: _Shown) -> tuple[list[Gate], np.ndarray]:
    columns = metadata_columns(shown.facts, [_marks(shown.part, i) for i in range(len(shown.part))])
    features = metadata_features(shown.facts, columns)
    gates = []
    sizes = size_features(shown.facts)
    for name, seen, told in (("metadata", features, columns), ("size", sizes, {"size": columns["size"]})):
        found = cross_validated_auc(seen, shown.labels, shown.groups)
        gates.append(classifier_gate(name, found, telling(told, shown.labels)))
    return gates, features


def _marks(part: FaceSource, i: int) -> tuple[str, ...]:
    try:
        return header_marks(part.read(i))
    except BadImage:  # it has vanished since it was scanned
        return ()


def _landmark_gate(shown: _Shown, how: GateOptions, finder: FaceFinder | None, progress: Stages | None) -> Gate:
    if finder is None or finder.model is None:
        why = "no face model" if finder is None else f"no landmarks without YuNet: {finder.fallback}"
        return skipped("landmarks", why)
    few = _sample(shown.labels, MAX_FACES, how.seed)
    part, step = shown.part.select(few), stage(progress, "finding faces")
    found = over_images(part, lambda i, image: (few[i], finder.find(image), image.shape), how.workers, step)
    known = [each for each in found if each is not None]
    seen = np.array([i for i, _, _ in known], np.int64)
    features = landmark_features([faces for _, faces, _ in known], [(shape[0], shape[1]) for _, _, shape in known])
    y, g = shown.labels[seen], shown.groups[seen]
    none = [int((features[y == label, 0] == 0).sum()) for label in (0, 1)]
    detail = f"{finder.name} on {counted(len(seen), 'image')}" + (
        f"; no face in {none[0]} real, {none[1]} fake" * (sum(none) > 0)
    )
    return classifier_gate("landmarks", cross_validated_auc(features, y, g), detail)


def _control(features: dict[str, np.ndarray], labels: np.ndarray, groups: np.ndarray, seed: int) -> Gate:
    """Everything the other gates saw, with labels drawn by lot: an AUC beside .5 would be a fault of the audit."""
    everything = np.concatenate(list(features.values()), axis=1)
    rng = np.random.default_rng([seed, 0x5AFF1E])
    few = np.sort(rng.permutation(len(labels))[:MAX_CONTROL])
    found = []
    for turn in range(SHUFFLES):
        lot = _by_lot(labels[few], groups[few], rng)
        found.append(cross_validated_auc(everything[few], lot, groups[few], seed=turn))
    known = [each for each in found if each.known] or found
    # as many of each as there are; groups of unlike sizes shift the numbers of a draw
    real, fake = (int((labels[few] == label).sum()) for label in (0, 1))
    middle = replace(sorted(known, key=lambda each: each.auc)[len(known) // 2], real=real, fake=fake)
    return classifier_gate("control", middle, f"median of {len(known)} shuffles" if middle.known else "")


def _by_lot(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many of each label, but whose is drawn by lot; the images of a group get one label, or nothing is shuffled."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return rng.permutation(labels[first])[inverse]


def _origins(source: FaceSource, facts: Sequence[Facts]) -> list[str]:
    """Lines where all fakes come from one generator, or each class from an origin of its own, by a manifest's columns
    `generator` and `source`, else by folders that name more than a label or split."""
    notes = []
    folders = ["/".join(p for p in parts_of(f.path)[:-1] if not source.names.tells(p)) for f in facts]
    origins = [("folder", folders, [f.label for f in facts])]
    if source.manifest is not None:
        labels = source.labels.tolist()
        made = {str(v) for v, label in zip(source.manifest["generator"], labels) if label == 1}
        if len(made) == 1 and "" not in made:
            notes.append(f"all fakes come from one generator ({made.pop()}): nothing here tells about others")
        origins.insert(0, ("source", [str(v) for v in source.manifest["source"]], labels))
    for name, values, labels in origins:
        real, fake = ({v for v, label in zip(values, labels) if label == which} for which in (0, 1))
        if real and fake and not real & fake and "" not in real | fake:
            each = (f"{what}: {', '.join(sorted(of)[:4])}" for what, of in (("real", real), ("fake", fake)))
            notes.append(
                f"each class has a {name} of its own ({'; '.join(each)}): whatever else differs between them can be "
                "learnt in place of what makes a fake"
            )
            break
    return notes
