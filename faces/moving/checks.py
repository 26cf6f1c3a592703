"""Damage that a file's own checksums and structure tell and FFmpeg does not: what is broken is no picture.

Most codecs have none (VP8, VP9, H.265, HuffYUV, Ut Video): of these a frame is damaged where its decoder finds it so.
Of a Matroska file's clusters it is only told: which of its frames are damaged nobody knows.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np

from faces.moving.ends import element_at
from faces.moving.runs import HOLES, MOST, at_of, found_in

REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
BLOCK = 80  # bytes of a DIF block of DV
# the sections of a DIF sequence's blocks (IEC 61834-2): header, subcode, VAUX, and audio before each 15 of video
SECTIONS = np.array([0, 1, 1, 2, 2, 2] + 9 * ([3] + 15 * [4]), np.uint8)
FOOTER = 3, 8  # bytes behind a slice of FFV1 (RFC 9043, 4.8): its length; with a checksum
CHECKED = 1 << 28  # bytes of a file whose checksums are computed
CLUSTER_SUM = b"\xbf\x84"  # how a cluster's contents begin that have a checksum (RFC 8794, 11.3.1)
CHECKSUM = 6  # bytes of that and of the checksum behind it


def crc(data: bytes) -> int:
    """CRC-32 of the polynomial 0x04C11DB7, the highest bit first, from 0: that of Ogg (RFC 3533) and, but for the order
    of the result's bits, of FFV1 (RFC 9043)."""
    reflected = zlib.crc32(data.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def checker(codec: str) -> Callable[[bytes], bool] | None:
    """What tells whether a packet of that codec is whole, packet by packet; None where nothing does."""
    return Slices() if codec == "ffv1" else _Blocks() if codec == "dvvideo" else None


class _Blocks:
    def __call__(self, data: bytes) -> bool:
        """Whether each block of a frame of DV is of its section."""
        if len(data) % (BLOCK * len(SECTIONS)):
            return False
        sections = np.frombuffer(data, np.uint8)[::BLOCK] >> 5
        return bool((sections.reshape(-1, len(SECTIONS)) == SECTIONS).all())


class Slices:
    """Whether the checksums of FFV1's slices, where they have any, are right. FFmpeg shows what was there before in
    place of a broken slice, and tells it to its log alone."""

    def __init__(self) -> None:
        self._sums = False  # a stream has them in all frames, or in none

    def __call__(self, data: bytes) -> bool:
        slices = _slices(data, FOOTER[1])
        if slices is None:
            return not self._sums
        right = not any(crc(data[begin:end]) for begin, end in slices)
        self._sums |= right
        return right or not self._sums


def _slices(data: bytes, footer: int) -> list[tuple[int, int]] | None:
    """From where to where they go, by the lengths behind them; None where these make up no frame."""
    found, end = list[tuple[int, int]](), len(data)
    while end > 0 and len(found) < MOST:
        begin = end - footer - int.from_bytes(data[max(0, end - footer) : end - footer + 3], "big")
        if end < footer or begin < 0:
            return None
        found.append((begin, end))
        end = begin
    return found


def wrong_clusters(file: BinaryIO, clusters: Sequence[tuple[int, int]]) -> int:
    """How many clusters of a Matroska file, each from one byte to another, are not what their checksums say. The
    position is where it was afterwards."""
    before, wrong, left = file.tell(), 0, CHECKED
    for begin, end in clusters:
        cluster = element_at(file, begin)
        if cluster is None or end - cluster.begin < CHECKSUM:
            continue
        head = at_of(file, cluster.begin, CHECKSUM)
        if not head.startswith(CLUSTER_SUM) or (left := left - (end - begin)) < 0:
            continue
        data = at_of(file, cluster.begin + CHECKSUM, end - cluster.begin - CHECKSUM)
        wrong += zlib.crc32(data) != int.from_bytes(head[len(CLUSTER_SUM) :], "little")
    file.seek(before)
    return wrong


def ogg_holes(file: BinaryIO) -> list[int]:
    """The bytes of an Ogg file at which pages are missing or broken (FFmpeg passes over them): their numbers do not
    follow, or their checksums are wrong. The position is where it was afterwards."""
    before, numbers, holes = file.tell(), dict[bytes, int](), list[int]()
    try:
        size, at = file.seek(0, os.SEEK_END), 0
        for _ in range(MOST):
            head = at_of(file, at, 27)
            if len(head) < 27 or len(holes) == HOLES:
                break
            if head[:4] != b"OggS":
                holes.append(at)
                numbers.clear()
                at = found_in(file, at + 1, size, b"OggS") or size
                continue
            table = at_of(file, at + 27, head[26])
            length = 27 + len(table) + sum(table)
            if at + length > size:  # cut short, which is told otherwise, or its length is broken
                following = found_in(file, at + 4, size, b"OggS") or size
                holes += [at] if following < size else []
                numbers.clear()
                at = following
                continue
            serial, number = head[14:18], int.from_bytes(head[18:22], "little")
            page = at_of(file, at, length) if at < CHECKED else b""
            if page and crc(page[:22] + bytes(4) + page[26:]) != int.from_bytes(head[22:26], "little"):
                holes.append(at)
                numbers.clear()
                at = found_in(file, at + 4, size, b"OggS") or size
                continue
            # a stream that begins anew counts from 0
            if number not in (0, numbers.get(serial, number - 1) + 1):
                holes.append(at)
            numbers[serial] = number
            at += length
        return holes
    finally:
        file.seek(before)
