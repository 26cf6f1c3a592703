"""The leak gates as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import click

from common.errors import one_line
from common.words import counted
from faces.audit.gates import FAIL, PASS, SKIPPED, UNCLEAR, Gate
from faces.audit.leak_gates import AuditResult

STYLES: dict[str, dict[str, Any]] = {
    FAIL: {"fg": "red", "bold": True},
    PASS: {"fg": "green"},
    UNCLEAR: {"fg": "yellow"},
}
WIDTH = 110
SHOWN = 3  # examples of pairs


def as_lines(result: AuditResult) -> Iterator[str]:
    """Counts, one line per gate, then of each that did not pass what it means and what repairs it."""
    yield one_line(f"{result.name}: {counted(result.images, 'image')}, {result.real} real, {result.fake} fake")
    for name, reason in result.bad[:10]:
        yield one_line(f"unreadable: {name}: {reason}")
    if len(result.bad) > 10:
        yield f"… and {counted(len(result.bad) - 10, 'more unreadable file')}"
    yield ""
    width = max(len(gate.name) for gate in result.gates)
    for gate in result.gates:
        verdict = gate.verdict.upper() if gate.verdict == FAIL else gate.verdict
        styled = click.style(f"{verdict:8}", **STYLES.get(gate.verdict, {}))
        yield f"{styled} {gate.name:{width}}  {measured(gate):24}  {one_line(gate.detail)}".rstrip()
    for gate in result.gates:
        if gate.meaning:
            yield ""
            yield from wrap(f"{gate.name} sees only {gate.sees}: {gate.meaning}.", WIDTH, subsequent_indent="  ")
            for first, second in gate.examples[:SHOWN]:
                yield one_line(f"  {first}  =  {second}")
            if gate.repair:
                yield f"  repair: {gate.repair}"
    yield ""
    for note in result.notes:
        yield from wrap(one_line(f"note: {note}"), WIDTH, subsequent_indent="  ")
    yield verdict_line(result)


def measured(gate: Gate) -> str:
    """«AUC .512 [.48, .54]», a count, or nothing."""
    if gate.auc is None:
        return "" if gate.count is None else str(gate.count)
    if not gate.auc.known:
        return "AUC ?"
    low, high = (_short(value, 2) for value in (gate.auc.low, gate.auc.high))
    return f"AUC {_short(gate.auc.auc, 3)} [{low}, {high}]"


def _short(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0") else text


def verdict_line(result: AuditResult) -> str:
    """The whole in one line."""
    if result.failed:
        names = ", ".join(gate.name for gate in result.failed)
        return f"{len(result.failed)} of {len(result.gates)} gates fail: {names}"
    tail = f"; unclear: {', '.join(gate.name for gate in result.unclear)}" if result.unclear else ""
    if skipped := sum(gate.verdict == SKIPPED for gate in result.gates):
        tail += f"; {skipped} of {len(result.gates)} skipped"
    return f"no gate fails{tail}"
