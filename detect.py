"""Is a face photo real, or made by a generator? Verdicts for files, folders and manifests on a terminal or as JSON.

python detect.py photo.jpg more.png folder/
python detect.py photo.jpg --explain out.png
python detect.py folder/ --json > verdicts.json
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

import click

from app.cli import friendly, importing, pick_device, run
from faces.errors import UserError, one_line

SHIPPED = (Path(__file__).resolve().parent / "models" / "detector.safetensors",)
STYLES = {"FAKE": {"fg": "red", "bold": True}, "REAL": {"fg": "green"}, "UNSURE": {"fg": "yellow"}}
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|MANIFEST...", type=click.Path())
@click.option("--model", metavar="FILE|RUN", help="Detector file or run folder.  [default: newest run in ./runs]")
@click.option(
    "--fpr", type=float, help="Calibrated false-alarm rate that sets the threshold.  [default: the detector's]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of the table.")
@click.option(
    "--explain",
    metavar="PATH",
    help="Draw where it was seen: a picture for one image; for several a folder, or numbered pictures (out-0001.png).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="Images judged at once.")
@click.option("--strict", is_flag=True, help="UNSURE counts like FAKE in the exit code.")
@click.option("--quiet", is_flag=True, help="No table and no summary; the exit code tells.")
@click.pass_context
@friendly
def main(
    ctx: click.Context,
    inputs: tuple[str, ...],
    model: str | None,
    fpr: float | None,
    as_json: bool,
    explain: str | None,
    device: str,
    batch: int,
    strict: bool,
    quiet: bool,
) -> None:
    """Say of every face photo whether it is REAL, FAKE (made by a GAN) or UNSURE.

    FAKE is said at or above the threshold, which accused a stated share of the validation reals (its false-alarm
    rate); REAL below the score under which almost no validation fake lies; UNSURE between the two.

    \b
    Exit code  0  no fake found, every file judged (UNSURE is not an alarm; see --strict)
               1  a fake found, whatever else happened
               2  no fake found, but a file could not be read; or nothing could be done at all
    """
    # torch takes a second to import; --help and mistyped options should not.
    with importing():
        from discriminator.detector import Detector, find_detector
        from discriminator.judge import Totals, judge_files, list_images

    where = find_detector(model, shipped=SHIPPED)
    detector = Detector.load(where, pick_device(device))
    point = detector.calibration.at(fpr)
    files, failures = list_images(inputs)
    pictures = _pictures(explain, files) if explain is not None else []
    if explain is not None and detector.net.artefact is None:
        raise UserError(f"--explain: the detector {where} has no artefact branch, so there is no patch map to draw")

    totals, results = Totals(), []
    show_table = not (as_json or quiet)
    if show_table and files:
        click.echo(f"{'verdict':8} {'P(fake)':>7}  {'FAKE from':>9}  {'false alarms':>12}  file")
    for failure in failures:
        _tell(failure, totals, results, show_table)
    start = time.perf_counter()
    judged_files = judge_files(detector, files, batch=batch, fpr=fpr, keep_photos=explain is not None)
    for i, judged in enumerate(judged_files):
        _tell(judged, totals, results, show_table)
        if explain is not None and judged.verdict is not None:
            _draw(judged, pictures[i], detector.preprocess.crop)
    seconds = time.perf_counter() - start

    code = totals.exit_code(strict=strict)
    if as_json:
        document = {
            "detector": {"file": str(where), "sha256": detector.sha256, "resolution": detector.preprocess.resolution},
            "operating_point": point.__dict__,
            "results": results,
            "summary": {**totals.__dict__, "seconds": seconds, "exit_code": code},
        }
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    elif not quiet:
        rate = f", {len(files) / seconds:.0f} images/s" if len(files) > 1 else ""
        click.echo(
            f"{totals.real} real, {totals.fake} fake, {totals.unsure} unsure, {totals.unreadable} unreadable{rate}"
        )
        click.echo(
            f"threshold {point.threshold:.4f} set for {100 * point.target_fpr:g} % false alarms: {point.describe()}"
        )
    ctx.exit(code)


def _tell(judged, totals, results: list[dict], show_table: bool) -> None:
    """Count one outcome, keep it for the JSON document, and print its line."""
    totals.add(judged)
    if judged.verdict is None:
        results.append({"file": judged.file, "error": judged.error})
        click.echo(f"error: {one_line(judged.file)}: {judged.error}", err=True)
        return
    v = judged.verdict
    results.append({"file": judged.file, **v.to_dict()})
    if show_table:
        label = click.style(f"{v.label:8}", **STYLES[v.label])
        alarms = f"{100 * v.fpr:.2g} % of {v.n_real}"
        note = f"  ({v.note})" if v.note else ""
        click.echo(f"{label} {v.probability:7.4f}  {v.threshold:9.4f}  {alarms:>12}  {one_line(judged.file)}{note}")


def _pictures(explain: str, files: list[str]) -> list[Path]:
    """Where each file's explanation goes. Only a picture named outright may replace an old one (not the photo)."""
    target = Path(explain)
    picture = target.suffix.lower() in PICTURES
    if picture and len(files) == 1 and not target.is_dir():
        _check_folder(target.parent)
        if target.exists() and target.samefile(files[0]):
            raise UserError(f"--explain: {target} is the photo itself and will not be overwritten; give another name")
        return [target]
    if picture and not target.is_dir():
        _check_folder(target.parent)
        paths = [target.with_name(f"{target.stem}-{i + 1:04d}{target.suffix}") for i in range(len(files))]
    else:
        target.mkdir(parents=True, exist_ok=True)
        paths = [target / f"{i + 1:04d}-{Path(file).stem}.png" for i, file in enumerate(files)]
    for path in paths:
        if path.exists():
            raise UserError(f"--explain: {path} exists and will not be overwritten; give another name or move it")
    return paths


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"--explain: there is no folder {folder}; make it or name another")


def _draw(judged, path: Path, crop: str) -> None:
    from PIL import Image

    from discriminator.heatmap import explain

    panel = Image.fromarray(explain(judged.photo, judged.verdict, crop=crop, title=judged.file))
    panel.save(path)


if __name__ == "__main__":
    try:
        run(main)
    except Exception:  # a bug keeps its traceback, but Python's exit code for it would read «a fake found»
        traceback.print_exc()
        sys.exit(2)
