"""What `evaluate.py detector` does: checks the options, judges and writes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from common.errors import UserError
from common.files import save_atomically
from common.outputs import check_folder, check_output, plain
from evaluation.detector_result import Judged, Request
from metrics.scores import own_thresholds

OUTPUTS = ("json", "report", "csv")


def evaluate(r: Request) -> Judged:
    """Judge what `r` names, print it and write what was asked for."""
    is_table = r.target.lower().endswith(".csv")
    _check(r, is_table)
    if is_table:
        from evaluation.from_scores import judge_table as judge
    else:
        from evaluation.from_images import judge_detector as judge
    result = judge(r)
    _write(r, result)
    return result


def _check(r: Request, is_table: bool) -> None:
    """Everything that can be refused before anything is opened."""
    for option in OUTPUTS:
        path = getattr(r, option)
        check_output(f"--{option}", path, force=r.force)
        if path is not None and is_table and Path(path).resolve() == Path(r.target).resolve():
            raise UserError(f"--{option} {path}: is the file that is judged: choose another name")
    if r.plots is not None and Path(r.plots).is_dir() and any(Path(r.plots).glob("*.png")) and not r.force:
        raise UserError(f"--plots {r.plots}: holds pictures already: choose another folder, or --force")
    if r.plots is not None and Path(r.plots).is_file():
        raise UserError(f"--plots {r.plots}: is a file: give a folder")
    if r.plots is not None:
        check_folder("--plots", Path(r.plots).absolute())
    for name, value in (("threshold", r.threshold), ("unsure-from", r.unsure_from)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name} {value}: is not a finite number: give one")
    if r.threshold is not None and r.fpr is not None:
        raise UserError("--threshold and --fpr both set the threshold: give one of them")
    if r.unsure_from is not None and r.threshold is not None and r.unsure_from > r.threshold:
        raise UserError(f"--unsure-from {r.unsure_from:g}: lies above the threshold {r.threshold:g}: lower it")
    if r.limit is not None and r.limit < 1:
        raise UserError(f"--limit {r.limit}: at least one image of a class is needed")
    if is_table:
        for option in ("data", "limit", "label", "split", "conditions"):
            if getattr(r, option):
                raise UserError(f"--{option}: {r.target} brings its own images and labels: leave --{option} out")
        if r.threshold is not None and r.calibrate_on is not None:
            raise UserError("--threshold and --calibrate-on both set the threshold: give one of them")
        if r.threshold is None and r.calibrate_on is None and own_thresholds(r.target) is None:
            raise UserError(
                f"{r.target}: scores have no threshold of their own: give --threshold T, or --calibrate-on VALID.csv,"
                " scores of validation images, to set it by --fpr"
            )
    else:
        if not r.data:
            raise UserError("no images to judge: give --data SOURCE, once or several times")
        if r.calibrate_on is not None:
            raise UserError("--calibrate-on is for SCORES.csv: a detector has its own calibration; leave it out")


def _write(r: Request, result: Judged) -> None:
    if r.json is not None:
        text = json.dumps(plain(result.to_json()), indent=2, allow_nan=False) + "\n"
        path = Path(r.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8") and None)
        click.echo(f"{path} written")
    if r.report is None and r.plots is None:
        return
    from reports.detector import figures, write_detector_report

    drawn = figures(result)
    if r.plots is not None:
        folder = Path(r.plots)
        folder.mkdir(parents=True, exist_ok=True)
        for name, both in drawn.items():
            for theme, png in zip(("light", "dark"), both):
                save_atomically(folder / f"{name}-{theme}.png", lambda tmp, png=png: tmp.write_bytes(png) and None)
        click.echo(f"{folder}: {2 * len(drawn)} pictures written")
    if r.report is not None:
        click.echo(f"{write_detector_report(r.report, result, drawn)} written")
