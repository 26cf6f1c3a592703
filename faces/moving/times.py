"""When the frames of a video are shown, and where there are none, by the times of its packets."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av import Packet

BACK = 0.5  # seconds by which decoding times fall back where another video was joined on
REGULAR, FEW = 0.98, 10  # share of steps that are the usual one in a video of constant rate, and how many tell it
GAP, STEPS = 0.4, 4  # seconds, and usual steps, without a picture that are worth telling


def joined(packets: Iterable[Packet]) -> Iterator[Packet]:
    """Packets whose times go on where they fall back: files of several recordings, one behind the other, begin anew in
    their middle, and players show one after the other."""
    shift, end = 0, None  # in ticks
    for packet in packets:
        if packet.size and packet.dts is not None and packet.time_base:
            if end is not None and (end - packet.dts - shift) * packet.time_base > BACK:
                shift = end - packet.dts
            end = packet.dts + shift + (packet.duration or 0)
        if shift:
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.pts = None if packet.pts is None else packet.pts + shift
        yield packet


@dataclass
class Times:
    """What packets say of time, in seconds. shown: of the frames, sorted; empty where the file does not say it. steps:
    of the packets in the order of decoding, likewise. usual: from one frame to the next. gaps: (from, to), counted from
    the first frame, where a video of constant rate has no pictures."""

    count: int = 0
    seconds: float = 0.0
    usual: float = 0.04
    shown: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)

    @staticmethod
    def of(packets: Iterable[Packet], rate: float | None, *, ordered: bool) -> Times:
        """ordered: whether packets' presentation times are to be believed."""
        times, steps, lengths, last, count = [], [], [], 0.0, 0
        for packet in packets:
            if packet.size == 0 or packet.is_discard:
                continue
            count += 1
            if packet.duration:
                lengths.append(float(packet.duration * packet.time_base))
            if packet.dts is not None:
                steps.append(float(packet.dts * packet.time_base))
            if packet.pts is not None and ordered:
                times.append(float(packet.pts * packet.time_base))
                if times[-1] >= max(times[-2:]):
                    last = float((packet.duration or 0) * packet.time_base)
        # a raw stream's packets know their rate, where its average rate is a mere default
        usual = statistics.median(lengths) if lengths else 1 / rate if rate else 0.04
        times = sorted(set(times))
        if 2 * len(times) <= count:  # AVI has no times for frames that depend on later ones
            found = Times(count, count * usual, usual, steps=sorted(set(steps)))
            if len(found.steps) == count > 1:
                found.usual = statistics.median(np.diff(found.steps).tolist())
                found.seconds = found.steps[-1] - found.steps[0] + found.usual
            else:
                found.steps = []
            return found
        if len(times) < 2:
            return Times(count, count * usual, usual, times)
        between = np.diff(times)
        usual = float(np.median(between))
        seconds = times[-1] - times[0] + (last if 0 < last < 60 else usual)
        return Times(count, seconds, usual, times, gaps=_gaps(np.array(times), between, usual))

    def gap_notes(self) -> list[str]:
        """What is to be said of them."""
        if not self.gaps:
            return []
        begin, end = self.gaps[0]
        more = f", nor in {len(self.gaps) - 1} more places" if len(self.gaps) > 1 else ""
        return [f"no pictures from {begin:.1f} to {end:.1f} s{more}: lost, or never recorded"]


def _gaps(times: np.ndarray, between: np.ndarray, usual: float) -> list[tuple[float, float]]:
    if len(between) < FEW or (between >= 1.5 * usual).sum() > max(1, (1 - REGULAR) * len(between)):
        return []
    wide = np.flatnonzero(between > max(GAP, STEPS * usual))
    return [(float(times[i] - times[0]), float(times[i + 1] - times[0])) for i in wide]
