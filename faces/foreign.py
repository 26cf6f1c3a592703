"""Files that are no pictures this project decodes, and what to tell people of them: raw photos, HEIC without its
library, layered pictures, archives. By their names for lists, by their first bytes for reasons.

Left out without a word they would be missed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from common.extras import install, lacking
from faces.layout import parts_of
from faces.moving.kinds import IMAGE, VIDEO, brand_of, kind_of


class Sort(NamedTuple):
    """one, many: what such files are called, `help` what to do with many. reason: of one, for `BadImage`. names: how
    theirs end. heads: how they begin, (offset, bytes there). brands: of ISO base media files."""

    one: str
    many: str
    help: str
    reason: str
    names: tuple[str, ...]
    heads: tuple[tuple[int, bytes], ...] = ()
    brands: tuple[bytes, ...] = ()

    def has(self, head: bytes) -> bool:
        """Whether a file that begins with `head` is of this sort."""
        if brand_of(head) in self.brands:
            return True
        return any(head.startswith(start, offset) for offset, start in self.heads)


SAVE = "save them as JPEG or PNG to use them"
RAW = Sort(
    "a raw photo",
    "raw photos",
    "develop them to JPEG or PNG to use them",
    "a raw photo, which is no picture yet: develop it to JPEG or PNG",
    tuple(
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2"
        " .rwl .sr2 .srf .srw .x3f".split()
    ),
    (
        (8, b"CR\x02\0"),
        (0, b"IIRO"),
        (0, b"IIRS"),
        (0, b"MMOR"),
        (0, b"IIU\0"),
        (0, b"FUJIFILMCCD-RAW"),
        (0, b"FOVb"),
        (0, b"\0MRM"),
        (6, b"HEAPCCDR"),
    ),
    (b"crx ",),
)
HEIF = Sort(
    "a HEIC photo",
    "HEIC photos",
    f"{install('heif')} to use them, or save them as JPEG or PNG",
    f"{lacking('HEIC needs pillow-heif', 'heif')} (or save it as JPEG or PNG)",
    (".heic", ".heif", ".hif"),
    brands=tuple(b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1".split()),
)
AVIF = Sort(
    "an AVIF picture",
    "AVIF pictures",
    "pip install -U 'pillow>=11.3,<14' to use them, or save them as JPEG or PNG",
    "AVIF needs Pillow 11.3 or newer: pip install -U 'pillow>=11.3,<14' (or save it as JPEG or PNG)",
    (".avif",),
    brands=(b"avif", b"avis"),
)
JPEG_XL = Sort(
    "a JPEG XL picture",
    "JPEG XL pictures",
    SAVE,
    "JPEG XL is not supported: save it as JPEG or PNG",
    (".jxl",),
    ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL \r\n\x87\n")),
)
LAYERED = Sort(
    "a picture of a kind that is not read",
    "pictures of kinds that are not read",
    SAVE,
    "a picture of a kind that is not read: save it as JPEG or PNG",
    (".psd", ".psb", ".xcf", ".exr", ".hdr", ".jxr", ".wdp", ".bpg"),
    ((0, b"8BPS"), (0, b"gimp xcf"), (0, b"v/1\x01"), (0, b"#?RADIANCE"), (0, b"BPG\xfb"), (0, b"II\xbc")),
)
ARCHIVE = Sort(
    "an archive",
    "archives",
    "unpack them, or give a zip by itself",
    "an archive, not an image: unpack it",
    (".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    (
        (0, b"PK\x03\x04"),
        (0, b"PK\x05\x06"),
        (0, b"7z\xbc\xaf\x27\x1c"),
        (0, b"Rar!\x1a\x07"),
        (0, b"\x1f\x8b\x08"),
        (0, b"BZh"),
        (0, b"\xfd7zXZ\0"),
        (0, b"\x28\xb5\x2f\xfd"),
        (257, b"ustar"),
    ),
)
BY_CONTENT = "read by their content"
# Files of these names are never looked into: a data set has one for every photo, or they cannot be pictures.
PLAIN = tuple(
    ".txt .md .rst .json .jsonl .ndjson .csv .tsv .xml .yaml .yml .toml .ini .cfg .html .htm .css .js .py .pyc .ipynb"
    " .sh .bat .log .npy .npz .pkl .pt .pth .ckpt .safetensors .onnx .h5 .hdf5 .mat .parquet .arrow .tfrecord .db .mdb"
    " .lock .mp3 .wav .m4a .aac .flac .srt .vtt .pdf .doc .docx .xls .xlsx .ppt .pptx .url .lnk .xmp .aae .thm .exe"
    " .dll .so .gz .bz2 .xz .zst .svg .ico .part .tmp .pts .bin .dat".split()
)


@lru_cache(maxsize=1)
def reads_heif() -> bool:
    """Whether pillow-heif is installed, which is looked for without being imported."""
    return importlib.util.find_spec("pillow_heif") is not None


@lru_cache(maxsize=1)
def reads_avif() -> bool:
    """Whether this Pillow reads AVIF."""
    from PIL import features

    return bool("avif" in features.modules and features.check("avif"))


def sorts() -> tuple[Sort, ...]:
    """What is not read here and now."""
    missing = () if reads_heif() else (HEIF,)
    return (RAW, *missing, *(() if reads_avif() else (AVIF,)), JPEG_XL, LAYERED, ARCHIVE)


def sort_of(name: str) -> Sort | None:
    """What a file is by its name, where it is not read."""
    return next((sort for sort in sorts() if name.lower().endswith(sort.names)), None)


def sort_of_head(head: bytes) -> Sort | None:
    """What a file is by its first bytes, where it is not read. Of raw photos that are TIFF files these don't tell."""
    return next((sort for sort in sorts() if sort.has(head)), None)


class Sieve:
    """What is listed of the files that lie somewhere, and what must be told of the others: left out without a word they
    would be missed.

    wanted(file name): whether a file is to be listed. Of the others, a picture whose name does not say so
    (`a.jpg_large`, or no ending at all) is listed, too, and so is a video where `videos` are wanted; not so without
    `strangers`, where other files than pictures are looked for."""

    def __init__(self, wanted: Callable[[str], bool], videos: bool, strangers: bool = True):
        self.wanted, self.videos, self.strangers = wanted, videos, strangers
        self.unnamed: list[str] = []
        self.left_out: list[tuple[Sort, str]] = []

    def takes(self, path: str, head: Callable[[], bytes]) -> bool:
        """head(): the first bytes of the file, called only where its name does not tell."""
        name = (parts_of(path) or ("",))[-1]
        if self.wanted(name):
            return True
        if not self.strangers:
            return False
        sort = sort_of(name)
        if sort is None and not name.lower().endswith(PLAIN):
            start = head()
            sort, what = sort_of_head(start), kind_of(start).what
            if sort is None and (what == IMAGE or (self.videos and what == VIDEO)):
                self.unnamed.append(path)
                return True
        if sort is not None:
            self.left_out.append((sort, path))
        return False

    def notes(self) -> list[str]:
        """What must be told, a line each."""
        found: dict[Sort, list[str]] = {}
        for sort, path in self.left_out:
            found.setdefault(sort, []).append(path)
        notes = [
            f"{sort.one if len(paths) == 1 else f'{len(paths)} {sort.many}'} (like {min(paths)}), left out: {sort.help}"
            for sort, paths in found.items()
        ]
        if self.unnamed:
            count = len(self.unnamed)
            some = (
                f"{count} pictures whose names do not say so" if count > 1 else "a picture whose name does not say so"
            )
            notes.append(f"{some} (like {min(self.unnamed)}), {BY_CONTENT}")
        return notes
