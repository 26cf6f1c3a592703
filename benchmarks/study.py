#!/usr/bin/env python3
"""A study: variants of a detector's training, several seeds each, judged alike; one table with intervals over seeds.

Variants, seeds and what they are judged on stand in a file of `benchmarks/studies/`. Every training is
`train_detector.py` and every judgement `evaluate.py detector`, as a user starts them. What is finished is kept: the
same command goes on where it was stopped.

    python benchmarks/study.py benchmarks/studies/ablations.toml --data-root $FACES_DATA_ROOT --out runs/ablations
    python benchmarks/study.py benchmarks/studies/ablations.toml --out runs/ablations --only fused --only no-consistency
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.cli import run  # noqa: E402
from common.errors import UserError  # noqa: E402
from common.files import write_bytes, write_text  # noqa: E402
from reports.plots import both, intervals  # noqa: E402


@dataclass(frozen=True)
class Variant:
    """One way to train: `words` are options of train_detector.py, after the study's common ones."""

    name: str
    words: str = ""
    says: str = ""

    @property
    def folder(self) -> str:
        """The name as a file's."""
        return self.name.replace(" ", "-").replace("/", "-")


@dataclass(frozen=True)
class Study:
    """What a study's file says. `judge`: sources of evaluate.py; the first one's own images give AUC and balance.

    baseline: the variant that the others are compared with, seed by seed (none: no comparison)."""

    title: str
    common: str
    judge: list[str]
    variant: list[Variant]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    conditions: str = "web,hard"
    baseline: str | None = None

    @classmethod
    def read(cls, path: Path) -> Study:
        """UserError where it is no study."""
        try:
            data = tomllib.loads(path.read_text())
            return cls(**{**data, "variant": [Variant(**v) for v in data["variant"]]})
        except (OSError, TypeError, KeyError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a study's file ({error})") from None


def train(words: list[str], out: Path, log: Path) -> None:
    """A training in `out`, begun or gone on with; its output goes to `log`."""
    resume = any(out.glob("checkpoint-*.pt"))
    place = ["--resume", str(out)] if resume else ["--out", str(out), *words]
    with log.open("a") as file:
        done = subprocess.run([sys.executable, str(ROOT / "train_detector.py"), *place], stdout=file, stderr=file)
    if done.returncode:
        raise UserError(f"{out.name}: the training ended with exit code {done.returncode}; {log} says why")


def judge(study: Study, detector: Path, out: Path, data_root: str | None) -> dict:
    """evaluate.py's numbers of a detector file, computed or as they lie in `out`."""
    if not out.is_file():
        words = [w for source in study.judge for w in ("--data", source.replace("{root}", data_root or "."))]
        words += ["--conditions", study.conditions] if study.conditions else []
        words += ["--data-root", data_root] if data_root else []
        command = [sys.executable, str(ROOT / "evaluate.py"), "detector", str(detector), *words, "--json", str(out)]
        done = subprocess.run([*command, "--resamples", "200"], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{detector}: judging it failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(out.read_text())


def figures(found: dict) -> dict[str, float]:
    """The numbers of one run that the table shows, all at the threshold in the file."""
    first, *others = found["sources"]
    row = {"AUC": first["auc"]["value"], "balanced": first["balanced"]["value"], "false alarms": first["fpr"]["value"],
           "found": first["tpr"]["value"], "unsure": first["unsure"]["value"]}  # fmt: skip
    for condition in found["robustness_by_source"].get(first["name"], []):
        if condition["name"] != "clean":
            row[f"{condition['name']}: AUC"] = condition["auc"]
            row[f"{condition['name']}: balanced"] = condition["balanced"]["value"]
    for source in others:
        for label, which in (("false alarms", "fpr"), ("found", "tpr")):
            if source[which]["n"]:
                row[f"{source['name']}: {label}"] = source[which]["value"]
        if source["n_real"] and source["n_fake"]:
            row[f"{source['name']}: AUC"] = source["auc"]["value"]
    return row


def interval(values: list[float]) -> tuple[float, float]:
    """(mean, half the width of the 95 % interval of Student's t) over seeds; NaN half width for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def table(study: Study, rows: dict[str, dict[int, dict[str, float]]]) -> str:
    """Markdown: variants down, numbers across, mean ± half interval; then the differences from the baseline."""
    names = list(dict.fromkeys(name for runs in rows.values() for one in runs.values() for name in one))

    def cell(values: list[float], name: str, signed: bool = False) -> str:
        mean, half = interval(values)
        times, digits = (1, 3) if "AUC" in name else (100, 1)
        out = f"{times * mean:{'+' if signed else ''}.{digits}f}"
        return out + (f" ± {times * half:.{digits}f}" if math.isfinite(half) else "")

    def lines(table: dict[str, dict[str, list[float]]], signed: bool) -> list[str]:
        cells = {v: [cell(of[n], n, signed) if of[n] else "–" for n in names] for v, of in table.items()}
        return [f"| {variant} | " + " | ".join(row) + " |" for variant, row in cells.items()]

    units = [n if "AUC" in n else f"{n}, %" for n in names]
    head = [f"| {study.title} | " + " | ".join(units) + " |", "|---" * (len(names) + 1) + "|"]
    plain = {v: {n: [one[n] for one in runs.values() if n in one] for n in names} for v, runs in rows.items()}
    out = head + lines(plain, False)
    base = rows.get(study.baseline or "")
    if base:
        differences = {
            v: {n: [runs[s][n] - base[s][n] for s in runs if s in base and n in runs[s]] for n in names}
            for v, runs in rows.items()
            if v != study.baseline
        }
        out += ["", f"Differences from «{study.baseline}», seed by seed:", "", *head, *lines(differences, True)]
    return "\n".join(out) + "\n"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("study", metavar="STUDY.toml", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Runs, numbers and tables.")
@click.option("--data-root", metavar="DIR", help="Where named sets lie.")
@click.option("--weights", metavar="FILE", help="What {weights} stands for in the study's file.")
@click.option("--only", multiple=True, metavar="NAME", help="Only these variants.")
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="Only the first N seeds.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Of each training.")
@click.option("--keep-going", is_flag=True, help="A variant that fails is reported and does not end the study.")
def main(study: Path, out: Path, data_root: str | None, weights: str | None, only: tuple[str, ...], seeds: int | None,
         threads: int | None, keep_going: bool) -> None:  # fmt: skip
    """Train and judge all variants of a study and write DIR/table.md, results.json and figures."""
    plan = Study.read(study)
    if unknown := set(only) - {v.name for v in plan.variant}:
        raise UserError(f"--only {unknown.pop()}: the study has {', '.join(v.name for v in plan.variant)}")
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    # Seed by seed, so that a study stopped early has every variant as often as possible.
    for seed in plan.seeds[:seeds]:
        for variant in plan.variant:
            if only and variant.name not in only:
                continue
            run_folder = out / f"{variant.folder}-{seed}"
            numbers = out / f"{run_folder.name}.json"
            words = shlex.split(f"{plan.common} {variant.words}".replace("{weights}", weights or ""))
            words += ["--seed", str(seed)] + (["--data-root", data_root] if data_root else [])
            words += ["--threads", str(threads)] if threads else []
            began = time.monotonic()
            try:
                if not numbers.is_file() and not (run_folder / "detector.safetensors").is_file():
                    train(words, run_folder, out / f"{run_folder.name}.log")
                row = figures(judge(plan, run_folder / "detector.safetensors", numbers, data_root))
            except UserError as error:
                if not keep_going:
                    raise
                failed.append(str(error))
                click.echo(f"{variant.name} {seed}: {error}")
                continue
            click.echo(f"{variant.name} {seed}: AUC {row['AUC']:.4f}  balanced {row['balanced']:.3f}  "
                       f"({(time.monotonic() - began) / 60:.1f} min)")  # fmt: skip
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for variant in plan.variant:
        for seed in plan.seeds:
            if (numbers := out / f"{variant.folder}-{seed}.json").is_file():
                rows.setdefault(variant.name, {})[seed] = figures(json.loads(numbers.read_text()))
    if not rows:
        raise UserError(f"{out}: nothing was finished; the logs there say why")
    text = table(plan, rows)
    write_text(out / "table.md", text)
    write_text(out / "results.json", json.dumps({"study": plan.title, "rows": rows}, indent=1))
    for number in ("AUC", "hard: AUC"):
        found = {v: [one[number] for one in runs.values() if number in one] for v, runs in rows.items()}
        if shown := {v: (*interval(values), values) for v, values in found.items() if values}:
            pictures = both(intervals, shown, label=f"{number}, {plan.judge[0]} test")
            for theme, png in zip(("light", "dark"), pictures, strict=True):
                write_bytes(out / f"{number.replace(': ', '-').lower()}-{theme}.png", png)
    click.echo(f"\n{text}\nwritten to {out}" + "".join(f"\nfailed: {line}" for line in failed))


if __name__ == "__main__":
    run(main)
