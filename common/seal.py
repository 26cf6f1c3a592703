"""Whether a file is as it was written: a digest of its content in its own header, and a list of digests beside it.

A flipped bit in a weight or a threshold makes another detector, which nothing else would show.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.errors import UserError

KEY = "content_sha256"  # in a header
LIST = "SHA256SUMS"  # as sha256sum writes it, beside the files


def seal_of(header: Mapping, content: Iterable[bytes | memoryview]) -> str:
    """SHA-256 (hex) of a JSON header, KEY in it left out, and of what comes with it."""
    told = {name: value for name, value in header.items() if name != KEY}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for part in content:
        digest.update(part)
    return digest.hexdigest()


def check_seal(path: str | os.PathLike, header: Mapping, content: Iterable[bytes | memoryview]) -> None:
    """UserError where a header tells another digest; older files tell none."""
    told = header.get(KEY)
    if told is not None and not hmac.compare_digest(str(told).encode(), seal_of(header, content).encode()):
        raise UserError(f"{path}: the file is damaged (its checksum is another); get it again")


def check_listed(path: str | os.PathLike, sha256: str) -> None:
    """UserError where the LIST beside a file names it with another digest than it has."""
    listed = Path(path).with_name(LIST)
    try:
        lines = listed.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        digest, _, name = line.partition(" ")
        if name.lstrip(" *") == Path(path).name and digest.lower() != sha256:
            raise UserError(
                f"{path}: is not the file that {listed} tells of: damaged, or another one; get it again, or if it is"
                " meant to be another, take its line out of there"
            )
