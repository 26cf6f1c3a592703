"""What a person names on the command line, to the list of files that are meant."""

from __future__ import annotations

import codecs
import contextlib
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from common.errors import UserError, one_line
from discriminator.results import Result
from faces.foreign import ARCHIVE, Sieve, sort_of
from faces.manifest import ENDINGS, read_manifest
from faces.moving.kinds import HEAD, IMAGE, VIDEO, kind_of
from faces.stores import (
    Entry,
    ManifestStore,
    ZipStore,
    firsts,
    head_of,
    is_image_name,
    is_loss,
    is_zip,
    list_folder,
    list_zip,
    spellings,
)
from faces.tars import TarStore, is_tar, list_tar
from faces.video import is_video_name

BLOCK = 1 << 16
TABLES = (*ENDINGS, ".tsv")
LONGEST = 1 << 20  # bytes without a line's end: what comes in there is no list of paths


def expand(inputs: Iterable[str]) -> Iterator[str | Result]:
    """The files that `inputs` name, one after the other, and in their place what could not be listed.

    A file stands for itself; a folder for the images and videos at any depth in it, sorted by path, and for a failure
    where something in it could not be looked at (a folder without permission, a link to nothing); a zip or tar in
    the same way, its members as `archive.zip/member.jpg`; a manifest (.csv, .parquet) for the images it lists, in its
    order; a pattern (*, ?, [..], ** for any depth) that is no name of a file or an archive's member for what matches,
    sorted."""
    with contextlib.closing(ManifestStore("")) as archives:
        for given in inputs:
            if not given:  # as a path it would be the current folder
                yield Result("''", None, "an empty name (an unset variable?); name a file or a folder")
            elif given.lower().endswith(TABLES) and os.path.isfile(given):
                yield from _manifest(given)
            elif os.path.isdir(given) or is_zip(given) or is_tar(given):
                yield from _folder(given)
            elif glob.has_magic(given) and not os.path.lexists(given) and archives.entry(given) is None:
                yield from _pattern(given)
            else:
                yield given


def named(
    inputs: Sequence[str], stdin: Callable[[], Callable[[int], bytes]]
) -> tuple[Iterable[str | Result], list[str]]:
    """The files that `inputs` name (see `expand`), each once, and notes about it; with a lone - among them the ones
    whose paths come on `stdin()`, each time that they come."""
    if "-" in inputs:
        return expand(paths_from(stdin())), []
    found = list(expand(inputs))
    files = np.array([i for i, one in enumerate(found) if isinstance(one, str)], np.int64)
    with contextlib.closing(ManifestStore("")) as store:
        again = np.delete(files, firsts(store.identities(str(found[i]) for i in files))).tolist()
    if not again:
        return found, []
    left_out, like = set(again), one_line(found[again[0]])
    what = f"{len(again)} files (like {like}) are named" if len(again) > 1 else f"{like} is named"
    return [one for i, one in enumerate(found) if i not in left_out], [f"{what} more than once, and judged once"]


def list_images(inputs: Sequence[str]) -> tuple[list[str], list[Result]]:
    """Files named by `inputs` (see `expand`), and what could not be listed."""
    found = list(expand(inputs))
    return [one for one in found if isinstance(one, str)], [one for one in found if isinstance(one, Result)]


def _folder(given: str) -> Iterator[str | Result]:
    """What a folder or an archive holds."""
    packed = not os.path.isdir(given)
    try:
        if is_tar(given):
            with contextlib.closing(TarStore(given)) as tar:
                names, notes = list_tar(tar, _is_wanted, videos=True)
            entries = [Entry(name, 0, 0) for name in names]
        elif packed:
            with contextlib.closing(ZipStore(given)) as store:
                entries, notes = list_zip(store, _is_wanted, videos=True)
        else:
            entries, notes = list_folder(given, _is_wanted, videos=True)
    except UserError as error:
        yield Result(given, None, _about(given, error))
        return
    for path in sorted(entry.path for entry in entries):
        yield f"{given}/{path}" if packed else os.path.join(given, *path.split("/"))
    lost = [note for note in notes if is_loss(note)]
    for note in lost:
        yield Result(given, None, note.removeprefix(f"{given}: "))
    if not entries and not lost:
        yield Result(given, None, f"no image files in this {'archive' if packed else 'folder'}")


def _is_wanted(name: str) -> bool:
    """Photos and videos, also those that can't be decoded here: each is to be told by its own name."""
    return is_image_name(name) or is_video_name(name) or sort_of(name) not in (None, ARCHIVE)


def _is_worth(path: str) -> bool:
    """Of what a pattern like `folder/*` found: what a folder's listing would find."""
    return Sieve(_is_wanted, videos=True).takes(path, lambda: head_of(path))


def _pattern(given: str) -> Iterator[str | Result]:
    some = False
    for path in sorted(glob.glob(given, recursive=True)):
        if os.path.isdir(path) or is_zip(path) or is_tar(path):
            if (
                not os.path.isdir(path) or "**" not in given
            ):  # ** names folders and what is in them: the files come by themselves
                some = True
                yield from _folder(path)
        elif _is_worth(path) or not given.endswith("*"):
            some = True
            yield path
    if not some:
        yield Result(given, None, "no image is called like this pattern")


def _about(given: str, error: UserError) -> str:
    """The error without the name that will stand before it: "m.csv: broken" and "m.csv, row 4: no path" alike."""
    return re.sub(rf"^{re.escape(one_line(given))}(: |, )", "", str(error))


def _manifest(given: str) -> Iterator[str | Result]:
    try:
        table = read_manifest(given, labels=False)
    except UserError as error:
        yield Result(given, None, _about(given, error))
        return
    if not len(table):
        yield Result(given, None, "no images in this manifest")
    with contextlib.closing(ManifestStore(table.folder)) as store:
        for path in table["path"].tolist():
            yield os.path.join(table.folder, store.found(path)[0] if spellings(path) else path)


def paths_from(read: Callable[[int], bytes]) -> Iterator[str]:
    """Paths from a stream, each as soon as it is there: one a line, or separated by NUL as of `find -print0`.

    read(n): up to n bytes, b"" at the end. NUL it is when one comes in the first block. Empty lines are left out."""
    rest, separator = b"", None
    while block := read(BLOCK):
        if separator is None:
            if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError("-: the list on stdin is in UTF-16; give it in UTF-8")
            block = block.removeprefix(codecs.BOM_UTF8)  # Windows writes it before a list
            if (what := kind_of(block[:HEAD]).what) in (IMAGE, VIDEO):
                kind = "picture" if what == IMAGE else "video"
                raise UserError(f"-: a {kind} came on stdin; paths are read there: give its name instead of -")
            separator = b"\0" if b"\0" in block else b"\n"
        *whole, rest = (rest + block).split(separator)
        for path in whole:
            yield from _path(path, separator)
        if len(rest) > LONGEST:
            raise UserError("-: what comes on stdin is no list of paths (give one path a line)")
    if rest:
        yield from _path(rest, separator or b"\n")


def _path(path: bytes, separator: bytes) -> Iterator[str]:
    path = path.removesuffix(b"\r") if separator == b"\n" else path
    if path:
        yield os.fsdecode(path)
