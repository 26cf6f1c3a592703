"""The images of a detector's training: opened, passed through the leak gates, decoded, and shared out.

Everything here happens before a training writes its first file, and says in one line what cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import reading
from common.errors import BadImage, UserError
from common.files import cache_folder
from common.parallel import cores
from common.words import are, counted
from discriminator.training.feed import ImageGroup, LabelledFeed, Rows
from discriminator.training.options import TrainerOptions
from discriminator.training.recipe import Recipe
from discriminator.training.selection import Validation
from faces.audit.crossval import cross_validated_auc
from faces.audit.gates import FAIL, classifier_gate, metadata_columns, metadata_features, telling
from faces.audit.leak_features import header_marks
from faces.audit.leak_gates import cheap_gates
from faces.audit.repairs import Made
from faces.dataset import DecodedFaces
from faces.degrade import Degradation, preset
from faces.layout import LABEL_NAMES, Reading, parts_of
from faces.preprocess import Preprocess
from faces.scan import scan
from faces.source import LISTED, FaceSource, open_source
from faces.stores import RenderedStore
from training.checkpoint import find_checkpoint, load
from training.data import DETECTOR_DRAW, MAX_VALID, Splits, at_most, native_resolution, open_splits

MAX_HELD_OUT = 500
GATE_SAMPLE = 1000  # images of each side whose headers are compared

Progress = Callable[[str], None]
Decode = Callable[[FaceSource, str], Rows]  # its second: for the progress line


class Extra(NamedTuple):
    """Images beside the set's own, all of one label. dose: their share of what is shown of it; 0: by number. valid:
    what is kept of them for validation, where the source says so."""

    source: FaceSource
    spec: str
    dose: float
    label: int
    valid: FaceSource


@dataclass
class Gathered:
    """What a training learns from. `facts`: for config.json and the detector's header; `notes`: lines for people."""

    source: FaceSource
    splits: Splits
    extra: list[Extra]
    pre: Preprocess
    facts: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def open_all(o: TrainerOptions, seed: int) -> Gathered:
    """The sources and the preprocessing, nothing decoded yet. UserError where there is nothing to learn from."""
    # whoever asks for more gets more; for fewer the draw stays what it always was
    most = max(MAX_VALID, o.valid_images)
    splits = open_splits(o.data, o.data_root, subset=o.subset, seed=seed, reading=Reading(o.labels), most_valid=most)
    extra = [_extra(spec, dose, 0, o.data_root) for spec, dose in o.extra_reals]
    extra += [_extra(spec, dose, 1, o.data_root) for spec, dose in o.extra_fakes]
    if not (splits.source.labels == 1).any() and not (o.extra_fakes or o.replay or o.twins):
        raise UserError(
            f"{o.data}: has no fakes to learn from (folders called real and fake give the labels, or `labels`"
            f" real=A,fake=B{_folders_of(splits.source)}); add some with `extra_fakes` FOLDER"
            + "".join(f"; {note}" for note in splits.source.notes if "left out" in note or LISTED in note)
        )
    side = o.patch_size or o.resolution or native_resolution(splits.train)
    pre = Preprocess(side, o.square, o.resize_filter, saved=o.saved_as)
    notes = [*splits.source.notes, *(f"{one.spec}: {note}" for one in extra for note in one.source.notes)]
    return Gathered(splits.source, splits, extra, pre, notes=notes)


def pass_gates(g: Gathered, o: TrainerOptions, *, workers: int, progress: Progress, folds: bool = False) -> None:
    """What tells the classes apart without looking at a face, and images that are given twice, are refused, unless the
    person insists; what the gates said is kept in the facts. folds: the latter is not looked for, folds leave out what
    is there twice."""
    found: dict = {"failed": [], "all": []}

    def refuse(name: str, complaint: str, where: str = "") -> None:
        if not o.allow_leaks:
            raise UserError(f"{where}{complaint}; or train all the same with `allow_leaks`")
        g.notes.append(f"leaks are allowed: {complaint}")
        found["failed"].append(name)

    if len(np.unique(g.source.labels)) == 2:
        call = {name: value for name in ("labels", "data_root") if (value := getattr(o, name)) is not None}
        result = cheap_gates(
            g.source, spec=o.data, call=call, workers=workers,
            progress=lambda stage, done, total: progress(f"leak gates: {stage} {done}/{total}"),
        )  # fmt: skip
        found["all"] = [f"{gate.name} {gate.verdict}" for gate in result.gates]
        if result.failed:
            refuse(", ".join(gate.name for gate in result.failed), result.complaint())
        g.notes += [note for note in result.notes if note not in g.notes]
        if o.face is None and (made := Made.of(g.source)) is not None and made.recipe.align == "ffhq":
            g.notes.append("detect.py will judge whole pictures: `face` ffhq makes it cut faces out as these were")
    for name, complaint, where in () if folds else _given_twice(g):
        refuse(name, complaint, where)
    for one in g.extra:
        if not one.label:
            continue
        progress(f"leak gates: headers of {one.spec}")
        complaint = _headers_differ(g.splits.train.select(label=0), one.source, workers)
        if complaint and o.patch_size:  # patches of a generator have no size and no encoder in common with photos
            g.notes.append(
                f"{one.spec}: {complaint.rpartition(': put')[0]}; the degradations must hide what shows of it"
            )
        elif complaint:
            refuse(f"metadata of {one.spec}", f"{one.spec}: {complaint}", "`extra_fakes` ")
    g.facts["gates"] = found


def _given_twice(g: Gathered) -> Iterator[tuple[str, str, str]]:
    """(name, complaint, whose) where extra images are in the set under the other label, or held out of it."""
    label: dict[str, int] = {}
    held: set[str] = set()
    if g.extra:
        label = dict(zip(g.source.places(), g.source.labels.tolist()))
        held = {place for _, part in g.splits.held() for place in part.places()}
    for one in g.extra:
        where = f"`{('extra_reals', 'extra_fakes')[one.label]}` {one.spec}: "
        places = one.source.places()
        wrong = [i for i, place in enumerate(places) if label.get(place, one.label) != one.label]
        again = [i for i, place in enumerate(places) if place in held and label[place] == one.label]
        label |= dict.fromkeys(places, one.label)
        for name, found, what in (
            ("both labels", wrong, f"given as {LABEL_NAMES[1 - one.label]}, too"),
            ("held-out images", again, f"of `data`, which holds {'it' if len(again) == 1 else 'them'} out to judge by"),
        ):
            if found:
                count = f"{len(found)} of its {counted(len(one.source), 'image')} {are(len(found))}"
                yield (
                    f"{name} in {one.spec}",
                    f"{count} {what}, like {one.source.locate(found[0])}: leave them out",
                    where,
                )


def _headers_differ(reals: FaceSource, fakes: FaceSource, workers: int) -> str:
    """One line where the headers of extra fakes (format, quality, size …) tell them from the photos, else ""."""
    if isinstance(reals.store, RenderedStore) or isinstance(fakes.store, RenderedStore):
        return ""  # no files, no headers
    facts, marks, said = [], [], []
    for label, source in enumerate((reals, fakes)):
        count = min(GATE_SAMPLE, len(source))
        part = source.select(np.arange(count) * len(source) // count)
        for i, one in enumerate(scan(part, workers=workers, pixels=False)):
            try:
                mark = header_marks(part.read(i)) if one.error is None else None
            except BadImage:
                mark = None
            if mark is not None:
                facts.append(one)
                marks.append(mark)
                said.append(label)
    labels = np.array(said)
    columns = metadata_columns(facts, marks)
    auc = cross_validated_auc(metadata_features(facts, columns), labels, np.arange(len(labels)))
    if classifier_gate("metadata", auc).verdict != FAIL:
        return ""
    detail = telling(columns, labels)
    return (
        f"their files alone tell them from the real photos (AUC {auc.auc:.2f}"
        f"{', ' if detail else ''}{detail}): put both into one folder, real and fake, and through"
        " `prepare_data.py normalise`"
    )


def decoder(o: TrainerOptions, pre: Preprocess, workers: int, progress: Progress) -> Decode:
    """Decodes every image of a source once, `workers` at a time."""
    cache = {None: cache_folder() / "decoded", "none": None}.get(o.cache, Path(o.cache or ""))

    def decode(source: FaceSource, what: str) -> Rows:
        told = lambda done, total: progress(f"reading {what} images {done}/{total}")  # noqa: E731
        return Rows.all(DecodedFaces.build(source, pre, workers=max(1, workers), cache_dir=cache, progress=told))

    return decode


def decoding_threads(o: TrainerOptions) -> int:
    return o.workers if o.workers is not None else min(2, max(1, cores() - 1))


def share_out(
    g: Gathered, o: TrainerOptions, recipe: Recipe, degradation: Degradation, decode: Decode
) -> tuple[LabelledFeed, Validation]:
    """Decode everything, and make feed and validation. UserError for what does not fit together."""
    side = g.pre.resolution
    train = decode(g.splits.train, "training")
    valid = decode(at_most(g.splits.valid, o.valid_images, recipe.seed, DETECTOR_DRAW), "validation")
    groups = [
        ImageGroup(name, train.faces.images, train.index[train.labels == label], label)
        for label, name in enumerate(("real", "set's fakes"))
    ]
    added = [(decode(one.source, Path(one.spec).name), one) for one in g.extra]
    for rows, one in added:
        if rows.faces.enlarged and not train.faces.enlarged and not o.allow_leaks:
            raise UserError(
                f"`{('extra_reals', 'extra_fakes')[one.label]}` {one.spec}: {rows.faces.enlarged} of its images are"
                f" smaller than the {side} px of the set's: enlarged, they would give themselves away; give larger"
                " ones, a lower `resolution`, or `allow_leaks`"
            )
    more = [(rows.faces.images, rows.index, one.spec, one.dose, one.label) for rows, one in added]
    for run, dose in o.replay:
        images = replayed(run, side)
        more.append((images, np.arange(len(images)), run, dose, 1))
    judged, fakes = [], 0
    for images, where, spec, dose, label in more:
        if label and not (valid.labels == 1).any():  # the set cannot say what a fake is: some of these must
            kept, where = hold_out(where, (recipe.seed, fakes))
            judged.append(images[kept])
        fakes += label
        groups.append(ImageGroup(named(spec, label, [one.name for one in groups]), images, where, label, dose))
    feed = LabelledFeed(groups, degradation, recipe)
    labels = np.concatenate([valid.labels, *(np.ones(len(fakes), np.int64) for fakes in judged)])
    of = valid if not judged else np.concatenate([valid.faces.images[valid.index], *judged])
    validation = Validation.of(of, labels, degradation)
    if len(np.unique(labels)) < 2:
        raise UserError(f"{o.data}: validation needs images of both classes; give more images")
    skipped = [s for rows in (train, valid, *(rows for rows, _ in added)) for s in rows.faces.skipped]
    g.notes += _changed_in_size((rows.faces for rows in (train, valid, *(rows for rows, _ in added))), g.pre)
    if g.splits.held_out:
        g.notes.append("the set has no validation split: a tenth of its images, at random, is held out for it")
    g.facts |= {
        "name": g.source.name, "fingerprint": g.source.fingerprint(), "preprocess": g.pre.to_dict(),
        "train": {one.name: len(one) for one in groups if len(one)},
        "shown": {one.name: round(s, 4) for one, s in zip(feed.groups, feed.shares, strict=True)},
        "valid": {"real": int((labels == 0).sum()), "fake": int(labels.sum())},
        "test": len(g.splits.test or ()),
        "held_out": g.splits.held_out, "num_skipped": len(skipped),
        "skipped": [[str(a), str(b)] for a, b in skipped[:100]], "notes": g.notes,
    }  # fmt: skip
    return feed, validation


def _changed_in_size(decoded: Iterable[DecodedFaces], pre: Preprocess) -> list[str]:
    """Lines about images that the network's square changes more than by shrinking them."""
    each = list({id(faces): faces for faces in decoded}.values())  # parts of one set may be decoded together
    total, side = sum(len(faces.images) for faces in each), pre.resolution
    how = {
        "center": "only the middle of their longer side is seen (`square` pad shows all of it)",
        "pad": "they got bands of grey (`square` center cuts them off)",
        "none": "they are squeezed into a square (`square` center or pad keeps their shape)",
    }
    lines = []
    if n := sum(faces.not_square for faces in each):
        lines.append(f"{n} of {counted(total, 'image')} {are(n)} not square: {how[pre.crop]}")
    if n := sum(faces.enlarged for faces in each):
        was = "was" if n == 1 else "were"
        lines.append(
            f"{n} of {counted(total, 'image')} {are(n)} smaller than {side} pixels and {was} enlarged, whose blur may"
            " be learnt as a class's own; a lower `resolution` avoids that"
        )
    return lines


def named(spec: str, label: int, taken: Sequence[str]) -> str:
    """What a group is called: the last part of where it is from; where another is called so, all of that and what it
    is, and a number if that is taken too."""
    name = Path(spec).name or spec
    if name not in taken:
        return name
    for long in (spec, f"{spec} ({LABEL_NAMES[label]})"):
        if long not in taken:
            return long
    return f"{spec} ({LABEL_NAMES[label]}, {len(taken)})"


def hold_out(where: np.ndarray, draw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A tenth of them at random (at most MAX_HELD_OUT), and the others."""
    order = np.random.default_rng([draw[0], 0xFA4E, draw[1]]).permutation(len(where))
    held_out = min(max(1, len(order) // 10), MAX_HELD_OUT)
    return where[np.sort(order[:held_out])], where[np.sort(order[held_out:])]


def load_degradation(spec: str) -> Degradation:
    """A preset's name, or a JSON file in the form of `Degradation.to_dict`. UserError for neither."""
    if not spec.endswith(".json"):
        return preset(spec)
    try:
        return Degradation.from_dict(reading.json_file(spec))
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
    except reading.Unreadable as error:
        reason = f"is not JSON ({error})"
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise UserError(f"`degradation` {spec}: {reason}")


def _folders_of(source: FaceSource) -> str:
    """The folders of unknown names that it has, for a message."""
    found = source.names.strangers(parts_of(item.path)[:-1] for item in source.items)
    return f" of {', '.join(filter(None, found[:6]))}" if any(found) else ""


def _extra(spec: str, dose: float, label: int, root: str | None) -> Extra:
    """The images of one label of a source; all images of one that has no label folders. Where it has splits, those of
    its training split: what it keeps for tests is not for learning."""
    source = open_source(spec, data_root=root, reading=Reading(ask=False, otherwise=label))
    if len(np.unique(source.labels)) == 2:
        source = source.select(label=label)
    else:
        items = [item._replace(label=label) for item in source.items]
        source = FaceSource(
            source.name, source.store, items, source._entries, source.notes, source.manifest, source.names
        )
    train = source.select(split="train") if "train" in source.splits else source
    if not len(train):
        option, kind = ("extra_reals", "real") if not label else ("extra_fakes", "fake")
        raise UserError(f"`{option}` {spec}: its training split holds no {kind} images; give another source")
    return Extra(train, spec, dose, label, source.select(split="valid"))


def replayed(run: str, resolution: int, *, larger: bool = False) -> np.ndarray:
    """The fakes of older generators that a run of `train_gan.py` remembers, uint8 [N, 3, R, R].

    larger: images of more pixels than `resolution` will do, too."""
    path = find_checkpoint(run, Path("runs"), "replay")
    try:
        images = load(path, "gan")["game"]["replay"]["images"].numpy()
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"`replay` {run}: {path.name} holds no older fakes; give a run with a verdict head") from None
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise UserError(f"`replay` {run}: {path.name} remembers no colour images; give another run")
    if images.shape[-1] != resolution and not (larger and images.shape[-1] > resolution):
        raise UserError(
            f"`replay` {run}: its generator draws {images.shape[-1]} px, the detector looks at {resolution}: scaling"
            f" one class only would give it away; use `resolution` {images.shape[-1]}"
        )
    return images
