"""From a source to its manifest: every image with what a scan found in its file, and dealt out to splits and folds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.parallel import Progress
from common.words import counted, none_of
from faces import splitting
from faces.labelling import label_paths
from faces.layout import COMPOSITE, FAKE, LabelRule, Reading, parts_of
from faces.manifest import (
    COLUMNS,
    Manifest,
    check_writable,
    is_manifest,
    manifest_of,
    read_manifest,
    relative_to,
    write_manifest,
)
from faces.named_sets import NAMED_SETS, SET_NAMES
from faces.prepare_options import Splitting
from faces.scan import Facts, scan
from faces.source import FaceSource, open_source
from faces.stores import ManifestStore, RenderedStore, ZipStore, firsts


def table_for(
    spec: str,
    *,
    data_root: str | None = None,
    rescan: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    labels: str | None = None,
) -> tuple[Manifest, list[Facts], list[str]]:
    """(manifest, bad images that are not in it, notes) of a source by its name; see `open_source` for `spec`.

    A manifest whose rows all have a SHA-256, some with a perceptual hash, is taken at its word and no file is opened,
    unless `rescan`. progress(done, total) tells of the scan. Raises UserError where there is no usable image."""
    spec = os.path.expanduser(os.fspath(spec))
    if not rescan and spec not in SET_NAMES and is_manifest(spec) and os.path.isfile(spec):
        table = read_manifest(spec, LabelRule.parse(labels))
        if len(table) and (table["sha256"] != "").all() and table["phash"].any():
            return _taken_at_its_word(spec, table, labels)
    source = open_source(spec, data_root=data_root, reading=Reading(labels, unsplit=True))
    _places(source, [])  # what can't be named is refused before the work
    facts = scan(source, workers=workers, progress=progress)
    table = tabulate(source, facts)
    bad = [fact for fact in facts if fact.error is not None]
    if not len(table):
        raise UserError(none_of(len(bad), "image", "can be read", f"{bad[0].path}: {bad[0].error}", spec))
    return table, bad, list(source.notes)


def _taken_at_its_word(spec: str, table: Manifest, labels: str | None) -> tuple[Manifest, list[Facts], list[str]]:
    notes = list(table.notes)
    with contextlib.closing(ManifestStore(table.folder)) as store:
        first = firsts(store.identities(table["path"].tolist()))
    if again := len(table) - len(first):
        table = table.select(first)
        notes.append(f"{spec}: {counted(again, 'row')} for images that had one, left out")
    if "label" not in table:
        told = label_paths(table["path"].tolist(), spec, reading=Reading(labels, unsplit=True))
        table, notes = table.having(label=told.labels), notes + told.notes
    return table, [], notes


@dataclass(frozen=True)
class Dealt:
    """What `deal_out` wrote, as lines to be read; bad: images that could not be used; notes: of the source."""

    lines: list[str]
    bad: list[Facts]
    notes: list[str]


def deal_out(asked: Splitting, *, progress: Progress | None = None) -> Dealt:
    """Split a source as asked and write its manifest. Raises UserError (see `faces.splitting`)."""
    check_writable(asked.out, replace=asked.force)
    if asked.folds == 1:
        raise UserError("`folds` 1: a fold is judged by what the others teach: give 2 or more, or leave it out")
    shares = splitting.parse_ratios(asked.ratios)
    table, bad, notes = table_for(
        asked.source, data_root=asked.data_root, rescan=asked.rescan, workers=asked.workers, progress=progress,
        labels=asked.labels,
    )  # fmt: skip
    groups = splitting.groups_of(table, asked.group_by, identity=asked.identity, max_distance=asked.max_distance)
    before, kept = table["split"], asked.keep_splits
    parts, fold = splitting.split(table, shares, asked.folds, groups=groups, seed=asked.seed, keep_splits=kept)
    table = table.having(split=parts, fold=fold)
    write_manifest(asked.out, relative_to(os.path.dirname(asked.out) or ".", table), replace=asked.force)
    lines = splitting.describe(
        table, groups, asked.group_by, before=before, kept=kept, ratios=shares, folds=asked.folds
    )
    return Dealt(lines, bad, notes)


def tabulate(source: FaceSource, facts: Sequence[Facts]) -> Manifest:
    """The manifest of a source and what a scan found, without the bad images; columns that a source made from a
    manifest has already are kept. Raises UserError where images have no file of their own to be named."""
    good = [i for i, fact in enumerate(facts) if fact.error is None]
    found = [facts[i] for i in good]
    folder, paths = _places(source, found)
    known = source.manifest.select(good) if source.manifest is not None else None
    named = NAMED_SETS.get(source.name)
    tool = named.generator if named is not None else ""
    own: dict[str, list] = {
        "path": paths,
        "source": [source.name] * len(found),
        "generator": [_generator(fact, tool) if fact.label == FAKE else "" for fact in found],
        "fold": [None] * len(found),
        "size": [fact.bytes for fact in found],
    }
    own |= {name: [getattr(fact, name) for fact in found] for name in COLUMNS if name not in own}
    return manifest_of(own, known, folder)


def _places(source: FaceSource, facts: Sequence[Facts]) -> tuple[str, list[str]]:
    """The folder that a manifest's paths are relative to, and the paths."""
    store, paths = source.store, [fact.path for fact in facts]
    if isinstance(store, RenderedStore):
        raise UserError(f"{source.name} is drawn, it has no files that a manifest could name; give photos")
    if isinstance(store, ZipStore):
        folder, archive = os.path.split(store.path)
        if not archive.lower().endswith(".zip"):
            raise UserError(f"{store.path}: rename it to end in .zip, so that a manifest can name what is in it")
        return folder, [f"{archive}/{path}" for path in paths]
    return (store.folder if isinstance(store, ManifestStore) else store.root), paths


def _generator(fact: Facts, made_by: str) -> str:
    """Yonsei's composites say in their names how hard they are to tell: a stratum of their own each."""
    name = parts_of(fact.path)[-1]
    return f"Photoshop {name.split('_')[0]}" if COMPOSITE.fullmatch(name) else made_by
