"""Where encoded images lie and how their bytes are had: a folder tree, a zip archive (read in place), or a renderer.

The `list_*` functions name a store's images once; the store reads one by its path. Stores are small and picklable; open
handles belong to one process and are made on first use.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import stat
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import BadImage, UserError
from common.reading import ZIP_TROUBLE
from common.tables import windows_text
from common.words import counted
from faces.decode import MAX_BYTES, extensions, read_file
from faces.foreign import BY_CONTENT, Sieve
from faces.layout import is_hidden, label_word, parts_of, split_word
from faces.moving.kinds import HEAD
from faces.tars import TarStore, is_tar

SHEET, MANIFESTS, SAMPLES = "grid.png", ("manifest.csv", "class000/manifest.csv"), b"file,"

MEMBER_TROUBLE: tuple[type[Exception], ...] = (KeyError, *ZIP_TROUBLE)


class Entry(NamedTuple):
    """One listed image: path inside the store ("/" between folders), size in bytes, and a mark that changes when its
    content does (modification time in ns for files, CRC-32 for zip members)."""

    path: str
    size: int
    stamp: int


def is_image_name(name: str) -> bool:
    return name.lower().endswith(extensions())


def is_zip(path: str | os.PathLike) -> bool:
    """Whether a file is a zip archive, by its name or its first bytes."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06") or os.fspath(path).lower().endswith(".zip")
    except OSError:
        return os.fspath(path).lower().endswith(".zip")


SHEETS = "of samples"


def is_loss(note: str) -> bool:
    """Whether a note of a listing tells of something that a person may miss."""
    return BY_CONTENT not in note and SHEETS not in note


def _without_sheets(entries: list[Entry], store: FolderStore | ZipStore) -> tuple[list[Entry], list[str]]:
    """Entries without the contact sheets that `synth.py` puts beside samples, and a note about them."""
    kept: list[Entry] = []
    sheets: list[Entry] = []
    for entry in entries:
        folder, _, name = entry.path.rpartition("/")
        here = folder + "/" if folder else ""
        # of all classes the sheet lies above the folders of the single ones
        beside = name == SHEET and any(_content(store, here + path).startswith(SAMPLES) for path in MANIFESTS)
        (sheets if beside else kept).append(entry)
    if not sheets:
        return kept, []
    what = "a contact sheet of samples" if len(sheets) == 1 else f"{len(sheets)} contact sheets of samples"
    return kept, [f"{what} ({sheets[0].path}), left out"]


class FolderStore:
    """Image files below `root`."""

    def __init__(self, root: str):
        self.root = root

    def locate(self, path: str) -> str:
        return os.path.join(self.root, *path.split("/"))

    def read(self, path: str) -> bytes:
        return read_file(self.locate(path))

    def close(self) -> None:
        pass


def list_folder(
    root: str, wanted: Callable[[str], bool] = is_image_name, *, videos: bool = False, labelled: bool = False
) -> tuple[list[Entry], list[str]]:
    """Every image file below `root`, in no particular order, and notes about what was not, or not by its name.

    wanted(file name), videos: what is to be listed, see `faces.foreign.Sieve`. labelled: folders' names will be read as
    labels and splits: those of folders without images are noted.

    Links to folders and files are followed, but no folder is entered twice and a linked file that was met already is
    left out, so loops end and nothing is doubled. Real folders come before linked ones: a file keeps its real path,
    unless it is `labelled` and a link's path tells more of labels and splits. Hidden files are left out, as are pipes
    and devices. Raises UserError when `root` itself can't be read."""
    entries: list[Entry] = []
    notes: list[str] = []
    seen_folders = _ancestors(root)  # a link up the tree is a loop too, and would drag in what lies beside the root
    seen_files: dict[tuple[int, int], int] = {}  # their places among the entries
    linked_files: list[tuple[str, os.stat_result]] = []
    telling: list[str] = []
    doubled: list[tuple[str, str]] = []
    later = [(root, "")]
    broken, sieve = 0, Sieve(wanted, videos, strangers=videos or wanted is is_image_name)
    while later:
        stack, later = sorted(later, key=lambda pair: pair[1], reverse=True), []
        while stack:
            folder, prefix = stack.pop()
            try:
                children = _children(folder, seen_folders)
            except OSError as error:
                if folder == root:
                    raise UserError(f"{root}: can't be listed ({error.strerror}); check its permissions") from None
                notes.append(f"{folder}: can't be listed ({error.strerror}), left out")
                continue
            if labelled and prefix and _tells(prefix):
                telling.append(prefix) if children is not None else doubled.append((prefix[:-1], ""))
            for child in children or ():
                path = f"{prefix}{child.name}"
                if is_hidden((child.name,)):
                    continue
                try:
                    if child.is_dir():
                        (later if child.is_symlink() else stack).append((child.path, path + "/"))
                        continue
                    status = child.stat()
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if sieve.takes(path, functools.partial(head_of, child.path)):
                        if child.is_symlink():
                            linked_files.append((path, status))
                            continue
                        seen_files[status.st_dev, status.st_ino] = len(entries)
                        entries.append(Entry(path, status.st_size, status.st_mtime_ns))
                except OSError:  # a link to nothing, a loop of links, or a file that vanished
                    broken += wanted(child.name)

    for path, status in sorted(linked_files, key=lambda pair: pair[0]):
        place = seen_files.setdefault((status.st_dev, status.st_ino), len(entries))
        found = Entry(path, status.st_size, status.st_mtime_ns)
        if place == len(entries):
            entries.append(found)
        elif labelled:
            here, there = _told(path), _told(entries[place].path)
            if sum(word is not None for word in here) > sum(word is not None for word in there):
                entries[place] = found
            elif here != there and None not in here[: 1 + (here[0] is None)]:
                doubled.append((path, entries[place].path))
    if broken:
        notes.append(f"{root}: {counted(broken, 'broken link')}, left out")
    notes += _linked(doubled)
    entries, sheets = _without_sheets(entries, FolderStore(root))
    return entries, notes + sheets + sieve.notes() + _empty(telling, entries)


def _tells(folder: str) -> bool:
    """Whether the last name of a folder's path tells a label or a split."""
    name = parts_of(folder)[-1]
    return label_word(name) is not None or split_word(name) is not None


def _told(path: str) -> tuple[int | None, str | None]:
    """(label, split) that a path's folders tell, those words among them that need another beside them."""
    folders = parts_of(path)[:-1][::-1]
    label = next((told for f in folders if (told := label_word(f, alone=True)) is not None), None)
    return label, next((split for f in folders if (split := split_word(f)) is not None), None)


def _linked(doubled: list[tuple[str, str]]) -> list[str]:
    """A line about links that were left out for what they lead to is listed under another label or split. doubled:
    (link, where that is; "" for a folder)."""
    if not doubled:
        return []
    link, there = min(doubled)
    what = "a link" if len(doubled) == 1 else f"{len(doubled)} links"
    where = f", which is {there}" if there else ""
    return [f"{what} to what is listed under another name, left out (like {link}{where})"]


def _empty(folders: list[str], entries: list[Entry]) -> list[str]:
    """A line about folders without an image; of one in another, the outer."""
    held = {entry.path[: at + 1] for entry in entries for at, sign in enumerate(entry.path) if sign == "/"}
    empty = sorted(folder for folder in folders if folder not in held)
    outer = [f[:-1] for f in empty if not any(f != other and f.startswith(other) for other in empty)]
    return [f"no images in {', '.join(outer)}"] if outer else []


def head_of(path: str | os.PathLike) -> bytes:
    """The first bytes of a file, none where they can't be had."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _children(folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry] | None:
    """What lies in a folder, None where it was entered before."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return None
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as listing:
        return list(listing)


def _content(store: FolderStore | ZipStore, path: str) -> bytes:
    """Of a file; nothing where it can't be had."""
    try:
        return store.read(path)
    except BadImage:
        return b""


def _ancestors(folder: str) -> set[tuple[int, int]]:
    above = set()
    for path in Path(os.path.realpath(folder)).parents:
        with contextlib.suppress(OSError):
            status = path.stat()
            above.add((status.st_dev, status.st_ino))
    return above


class ZipStore:
    """Image members of a zip archive. Nothing is ever extracted, so a member's name can't reach outside."""

    def __init__(self, path: str):
        self.path = path
        self._open: tuple[int, zipfile.ZipFile, threading.Lock] | None = None

    def __reduce__(self) -> tuple:
        return ZipStore, (self.path,)

    def locate(self, path: str) -> str:
        return f"{self.path}:{path}"

    def archive(self) -> tuple[zipfile.ZipFile, threading.Lock]:
        """This process's handle and its lock. A forked child must not share the parent's file position."""
        if self._open is None or self._open[0] != os.getpid():
            try:
                self._open = (os.getpid(), zipfile.ZipFile(self.path), threading.Lock())
            except PermissionError:
                raise UserError(f"{self.path}: no permission to read it") from None
            except ZIP_TROUBLE as error:
                raise UserError(f"{self.path}: not a readable zip archive ({error}); make it again") from None
        return self._open[1:]

    def read(self, path: str) -> bytes:
        archive, lock = self.archive()
        name = self.locate(path)
        try:
            info = archive.getinfo(path)
            if info.file_size > MAX_BYTES:
                raise BadImage(name, f"claims to unpack to {info.file_size >> 20} MiB, refused")
            if info.compress_size > os.path.getsize(self.path):  # it would be given memory before it is read
                raise BadImage(name, f"broken in the archive (claims {info.compress_size} bytes of it, more than all)")
            with lock:  # ZipFile counts its readers without one
                return archive.read(info)
        except BadImage:
            raise
        except NotImplementedError:  # a kind of RuntimeError, so before it
            raise BadImage(name, "compressed by a method Python can't read: make the archive again") from None
        except RuntimeError:
            raise BadImage(name, "encrypted in the archive: unpack it with its password first") from None
        except MEMBER_TROUBLE as error:
            raise BadImage(name, f"broken in the archive ({error})") from None

    def head(self, path: str) -> bytes:
        """A member's first bytes, none where they can't be had."""
        archive, lock = self.archive()
        try:
            with lock, archive.open(path) as member:
                return member.read(HEAD)
        except Exception:  # encrypted, of an unknown method, broken: `read` says which
            return b""

    def close(self) -> None:
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None


def list_zip(
    store: ZipStore, wanted: Callable[[str], bool] = is_image_name, *, videos: bool = False, labelled: bool = False
) -> tuple[list[Entry], list[str]]:
    """Every image member of the archive (wanted, videos, labelled: as in `list_folder`). Folders, links, hidden members
    and non-images are left out; of members with the same name the last counts, as it does for every unpacker, and notes
    tell of them, and of members without a name."""
    archive, _ = store.archive()
    found: dict[str, Entry] = {}
    doubled: dict[str, int] = {}
    sieve = Sieve(wanted, videos, strangers=videos or wanted is is_image_name)
    for name, info in {info.filename: info for info in archive.infolist()}.items():
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        if name.endswith("/") or is_link or is_hidden(parts_of(name)):
            continue
        if sieve.takes(name, functools.partial(store.head, name)):
            found[name] = Entry(name, info.file_size, info.CRC)
    for info in archive.infolist():
        if info.filename in found:
            doubled[info.filename] = doubled.get(info.filename, 0) + 1
    entries, sheets = _without_sheets(list(found.values()), store)
    if any(not info.filename for info in archive.infolist()):
        sheets = [*sheets, f"{store.path}: a member without a name, left out; make the archive again"]
    notes = sieve.notes() + _twice([name for name, count in doubled.items() if count > 1])
    if labelled:
        folders = [name for name in archive.namelist() if name.endswith("/") and not is_hidden(parts_of(name))]
        notes += _empty([name for name in folders if parts_of(name) and _tells(name)], entries)
    return entries, sheets + notes


def _twice(names: list[str]) -> list[str]:
    if not names:
        return []
    some = f"several members are called {names[0]}"
    if len(names) > 1:
        some = f"{len(names)} names stand for several members each (like {min(names)})"
    return [f"{some}: only the last of each counts; make the archive again with names of their own"]


def spellings(path: str) -> list[str]:
    """Other ways to write a path that was written elsewhere: with Windows' backslashes, in Windows' character set (a
    list saved by a spreadsheet), with accents apart from their letters or not (macOS and all others)."""
    if path.isascii() and "\\" not in path:
        return []
    texts = dict.fromkeys((path, windows_text(path)))
    slashed = dict.fromkeys([*texts, *(text.replace("\\", "/") for text in texts)])
    forms = [unicodedata.normalize(form, text) for text in slashed for form in ("NFC", "NFD")]
    return [text for text in dict.fromkeys([*slashed, *forms]) if text != path]


class ManifestStore:
    """Images anywhere, by their paths: absolute or relative to `folder`, through archives by
    `faces.zip/inner/name.png`."""

    def __init__(self, folder: str):
        self.folder = folder
        self._zips: dict[str, ZipStore | TarStore | None] = {}

    def __reduce__(self) -> tuple:
        return ManifestStore, (self.folder,)

    def locate(self, path: str) -> str:
        store, inner = self._inside(path)
        return store.locate(inner) if store is not None else os.path.join(self.folder, path)

    def read(self, path: str) -> bytes:
        store, inner = self._inside(path)
        if store is None:
            return read_file(os.path.join(self.folder, path))
        try:
            return store.read(inner)
        except BadImage:
            raise
        except UserError as error:  # the archive itself is broken: the images beside it are not
            raise BadImage(store.locate(inner), str(error).removeprefix(f"{store.path}: ")) from None

    def entry(self, path: str) -> Entry | None:
        """Size and stamp of an image; None where there is none."""
        try:
            store, inner = self._inside(path)
            if isinstance(store, TarStore):
                return Entry(path, store.members()[inner][1], os.stat(store.path).st_mtime_ns)
            if store is not None:
                info = store.archive()[0].getinfo(inner)
                return Entry(path, info.file_size, info.CRC)
            status = os.stat(os.path.join(self.folder, path))
        except (OSError, KeyError, ValueError, UserError):  # ValueError: a NUL byte
            return None
        return Entry(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    def found(self, path: str) -> tuple[str, Entry | None]:
        """A path as it leads to an image here, and the image's entry: as it stands, else as `spellings` has it; None
        and the path as it stands where none does."""
        if (entry := self.entry(path)) is not None:
            return path, entry
        for spelling in spellings(path):
            if (entry := self.entry(spelling)) is not None:
                return spelling, entry
        return path, None

    def identities(self, paths: Iterable[str]) -> Iterator[str]:
        """Where the image of each path lies: the same for `a.png`, `./a.png`, `b/../a.png` and a link to it."""
        real = functools.lru_cache(maxsize=1000)(os.path.realpath)
        for path in paths:
            store, inner = self._inside(path)
            place = os.path.join(self.folder, path) if store is None else store.path
            with contextlib.suppress(ValueError):  # letters that no file's name can have
                if os.path.islink(place):
                    place = os.path.realpath(place)
                place = os.path.join(real(os.path.dirname(place)), os.path.basename(place))
            yield place if store is None else f"{place}/{inner}"  # a member's name stays letter by letter

    def is_inside(self, path: str) -> bool:
        """Whether a path leads into an archive."""
        return self._inside(path)[0] is not None

    def _inside(self, path: str) -> tuple[ZipStore | TarStore | None, str]:
        """The archive on the way of a path, and the member's name in it. A folder may be called *.zip, too, and an
        archive something else."""
        at = path.find("/", 1)
        while at >= 0:
            prefix = path[:at]
            if prefix not in self._zips:
                file = os.path.join(self.folder, prefix)
                self._zips[prefix] = TarStore(file) if is_tar(file) else ZipStore(file) if is_zip(file) else None
            if self._zips[prefix] is not None:
                return self._zips[prefix], path[at + 1 :]
            at = path.find("/", at + 1)
        return None, path

    def close(self) -> None:
        for store in self._zips.values():
            if store is not None:
                store.close()
        self._zips = {}


def firsts(identities: Iterable[str]) -> np.ndarray:
    """Sorted positions of those that none before them is equal to; kept as digests, for they may be millions."""
    written = (one.encode("utf-8", "surrogatepass") for one in identities)
    digests = np.fromiter((hashlib.blake2b(one, digest_size=16).digest() for one in written), "S16")
    return np.sort(np.unique(digests, return_index=True)[1])


class RenderedStore:
    """Procedural faces at `resolution` x `resolution`, drawn when asked for: path "<split>/<number>" is one seed."""

    def __init__(self, name: str, resolution: int):
        self.name, self.resolution = name, resolution

    def locate(self, path: str) -> str:
        return f"{self.name}/{path}"

    def pixels(self, path: str) -> np.ndarray:
        from faces.procedural.portrait import render_face

        return render_face(int(parts_of(path)[-1]), self.resolution)

    def read(self, path: str) -> bytes:
        """The face as PNG."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.pixels(path)).save(buffer, "PNG")
        return buffer.getvalue()

    def mark(self) -> int:
        """Changes whenever the renderer draws differently."""
        return zlib.crc32(self.pixels("0").tobytes())

    def close(self) -> None:
        pass
