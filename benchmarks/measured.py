#!/usr/bin/env python3
"""What a detector calls FAKE in named sets, at each of its thresholds: the file of rates that is shown beside verdicts.

    python benchmarks/measured.py --own DIR --others DIR … --photos DIR … [--detected DIR …] [--model FILE]

DIR: a labelled source, or NAME=DIR to say what the set is to be called. --own: fakes of the kind that the detector
learnt from, and real photos; --others: fakes of other generators, and photos; their crops are judged whole, as
`evaluate.py detector` does. --detected: likewise others, but as `detect.py` judges files (faces found and cut out).
The result lies beside the detector, as <its name>.measured.json, and is used with that very file only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import run  # noqa: E402
from common.files import sha256_of, write_json  # noqa: E402
from discriminator.engine import open_engine, open_face_step  # noqa: E402
from discriminator.judge import Judge  # noqa: E402
from discriminator.locate import find_detector  # noqa: E402
from discriminator.measured import ENDING, FORMAT, OTHERS, OWN, PHOTOS, VERSION  # noqa: E402
from discriminator.options import SHIPPED, DetectOptions  # noqa: E402
from discriminator.verdict import Threshold, decide  # noqa: E402
from faces.finding.face_step import FaceStep  # noqa: E402
from faces.source import open_source  # noqa: E402


def rows(name: str, source: str, role: str, judge: Judge) -> Iterator[dict]:
    """A row for the fakes of a source and one for its photos. Of a photo with several faces the biggest counts; one
    without a face counts as not called FAKE."""
    opened = open_source(source)
    said: dict[int, list[dict[str, str]]] = {0: [], 1: []}
    points = judge.detector.calibration.points
    for i, item in enumerate(opened.items):
        verdict = judge(opened.decoded(i).pixels)[0].verdict
        label = {f"{p.target_fpr:g}": "" if verdict is None else _said(verdict, Threshold(p)) for p in points}
        said[int(item.label)].append(label)
    for label, answers in said.items():
        if answers:
            counts = {
                word: {fpr: sum(a[fpr] == answer for a in answers) for fpr in answers[0]}
                for word, answer in (("called", "FAKE"), ("unsure", "UNSURE"))
            }
            yield {"name": name, "role": role if label else PHOTOS, "of": len(answers), **counts}


def _said(verdict, threshold: Threshold) -> str:
    return "UNSURE" if verdict.doubt else decide(verdict.probability, threshold.point, verdict.contradiction)


@click.command()
@click.option("--own", multiple=True)
@click.option("--others", multiple=True)
@click.option("--photos", multiple=True)
@click.option("--detected", multiple=True)
@click.option("--model", default=None)
def main(own, others, photos, detected, model) -> None:
    file = find_detector(model, shipped=SHIPPED)
    engine = open_engine(file)
    whole = Judge(engine.detector, faces=FaceStep(None, engine.detector.preprocess.resolution))
    finding = Judge(engine.detector, faces=open_face_step(engine.detector, DetectOptions(inputs=("-",))))
    sets = []
    asked = [(own, OWN, whole), (others, OTHERS, whole), (photos, PHOTOS, whole), (detected, OTHERS, finding)]
    for sources, role, judge in asked:
        for source in sources:
            name, _, path = source.rpartition("=")
            for row in rows(name or Path(path).name, path, role, judge):
                sets.append(row)
                click.echo(f"{row['name']} ({row['role']}): {row['of']}, FAKE {row['called']}, UNSURE {row['unsure']}")
    out = file.with_suffix(ENDING)
    write_json(out, {"format": FORMAT, "version": VERSION, "detector_sha256": sha256_of(file), "sets": sets})
    click.echo(str(out))


if __name__ == "__main__":
    run(main)
