"""Files of strangers, read within bounds: JSON, TOML and .npz. Each format has one reader, and this is it.

Whatever a file holds, reading it takes time and memory in proportion to its size, and what is wrong with it comes as
`Unreadable`, a ValueError whose text is a short phrase for the end of a line: `faces.json: not JSON (…)`. OSError is
left to the caller, who knows what the file is for. No numpy here until an .npz is read.
"""

from __future__ import annotations

import json
import os
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAX_TEXT = 64 << 20  # bytes of a JSON file; the classes of ImageNet's 1.3 million images take 40 MB
MAX_CONTAINERS = 3_000_000  # of a JSON text: what takes three bytes there takes a hundred here
MAX_DEPTH = 64  # of objects within each other
MAX_DIGITS = 40  # of a whole number
MAX_TOML = 1 << 20  # bytes; a recipe has some 2000
MAX_DOTS = 100  # in a line of TOML: a dotted key costs the square of its parts
MAX_ARRAYS = 1 << 30  # bytes that an .npz unpacks to
SHOWN = 60  # characters of a value in a message
# what zipfile raises of a damaged archive or member; RuntimeError besides means that it is encrypted
ZIP_TROUBLE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError, IndexError, OverflowError, struct.error,
    zlib.error,
)  # fmt: skip
try:
    import lzma
except ImportError:  # a Python built without it refuses such members by itself
    pass
else:
    ZIP_TROUBLE += (lzma.LZMAError,)


class Unreadable(ValueError):
    """Why a text or file is not read, as the end of a sentence."""


def read_bytes(path: str | os.PathLike, most: int = MAX_TEXT) -> bytes:
    """A regular file's content. OSError where it can't be had; Unreadable for a pipe, or for more than `most` bytes."""
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise Unreadable("it is a pipe or a device, not a file")  # which would block for ever
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Unreadable(f"it is larger than {most >> 20} MiB")
    return data


def json_of(text: str | bytes, *, once: bool = False) -> Any:
    """The value of a JSON text (UTF-8 where it is bytes). Unreadable where it is none, or is built to cost much; with
    `once` also where a name in an object has two values, of which else the last counts."""
    if isinstance(text, bytes):
        text = _decoded(text)
    if len(text) > MAX_TEXT:
        raise Unreadable(f"more than {MAX_TEXT >> 20} MiB of JSON")
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise Unreadable(f"more than {MAX_CONTAINERS:,} lists and objects")
    try:
        value = json.loads(text, parse_int=_whole, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except ValueError as error:
        raise Unreadable(str(error)) from None
    _check_depth(value)
    return value


def json_file(path: str | os.PathLike) -> Any:
    """`json_of` a file's content, UTF-8 with or without its mark. OSError, Unreadable."""
    return json_of(_decoded(read_bytes(path)))


def toml_of(data: bytes) -> dict[str, Any]:
    """The table of a TOML file's content. Unreadable where it is none, or is built to cost much."""
    if len(data) > MAX_TOML:
        raise Unreadable(f"more than {MAX_TOML >> 10} KiB of TOML")
    text = _decoded(data)
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > MAX_DOTS:
            raise Unreadable(f"line {number} has more than {MAX_DOTS} dots")
    try:
        value = tomllib.loads(text, parse_float=float)
    except RecursionError:
        raise Unreadable(_TOO_DEEP) from None
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise Unreadable("a number of very many digits" if "integer string" in reason else reason) from None
    _check_depth(value)
    return value


def shown(value: object, most: int = SHOWN) -> str:
    """A value out of a file, for a message: numbers and short texts as they are written, of all others only the kind,
    since what is nested may have more text than any memory holds."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() < 200 else "a number of very many digits"
    if isinstance(value, str | bytes):
        return repr(value[:most]) if len(value) <= most else f"{value[:most]!r}…"
    kinds: dict[type, str] = {dict: "an object", list: "a list", tuple: "a tuple"}
    return kinds.get(type(value), f"a {type(value).__name__}")


_TOO_DEEP = f"objects more than {MAX_DEPTH} levels deep"


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {error.start} is not UTF-8") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise Unreadable(f"{shown(name)} is there twice, with two values")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Unreadable(f"a number of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise Unreadable(_TOO_DEEP)


# ---- .npz -----------------------------------------------------------------------------------------------------------


def npz_file(
    path: str | os.PathLike, wanted: Collection[str] | Callable[[str], bool], *, most: int = MAX_ARRAYS
) -> Mapping[str, np.ndarray]:
    """The arrays of an .npz that are `wanted` and there, by name; nothing in it is run (no object arrays).

    OSError where the file can't be had; Unreadable where it is no .npz, is damaged, or unpacks to more than `most`
    bytes. What an array claims to be is compared with what the archive holds before memory is taken."""
    takes = wanted if callable(wanted) else set(wanted).__contains__
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise Unreadable("it is a pipe or a device, not a file")
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                members = {name: info for name, info in members.items() if takes(name)}
                if sum(info.file_size for info in members.values()) > most:
                    raise Unreadable(f"it unpacks to more than {most >> 20} MiB")
                return {name: _array(archive, info, name) for name, info in members.items()}
        except Unreadable:
            raise
        except zipfile.BadZipFile:
            raise Unreadable("not an .npz file, or damaged") from None
        except Exception as error:  # a damaged archive or header makes zipfile, zlib and NumPy raise almost anything
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise Unreadable(f"damaged: {reason}") from None


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    import numpy as np
    from numpy.lib import format as npy

    with archive.open(info) as member:
        version = npy.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise Unreadable(f"the array {name[:40]} has a version {version} that is not known")
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        try:
            shape, columns_first, dtype = reader(member)
        except Exception:  # it is parsed as Python
            raise Unreadable(f"the array {name[:40]} has a damaged header") from None
        if dtype.hasobject:
            raise Unreadable(f"the array {name[:40]} holds Python objects, which could run code")
        count = 1
        for side in shape:
            count *= side
        held = info.file_size - member.tell()
        if dtype.itemsize * count != held:
            raise Unreadable(f"the array {name[:40]} claims {dtype.itemsize * count} bytes where {held} are left")
        data = bytearray(held)
        view, at = memoryview(data), 0
        while at < held and (part := member.read(min(held - at, 1 << 20))):
            view[at : at + len(part)] = part
            at += len(part)
        if at < held:
            raise Unreadable(f"the array {name[:40]} is cut short")
        member.read(1)  # the check sum is compared at the end
    flat = np.frombuffer(data, dtype=dtype, count=count) if held else np.empty(count, dtype)
    return flat.reshape(shape, order="F" if columns_first else "C")
