#!/usr/bin/env python3
"""Records what the documents show: what was measured, sample outputs of detect.py, and the page's screenshot.

    python docs/tools/record.py judged judged.json
    python docs/tools/record.py sample photos photo.jpg=A_PHOTO generated.jpg=A_FAKE
    python docs/tools/record.py sample mixed group.png=ONE+ANOTHER+A_THIRD clip.mp4=A_VIDEO wall.png=NO_FACE
    python docs/tools/record.py screenshot        needs chromium (or $CHROMIUM) and the extra web

`judged` takes what the documents show from a document of `evaluate.py detector models/detector.safetensors
--conditions web,hard --json judged.json` (its sets: make reproduce-detector), into docs/numbers/judged.json. `sample`
judges copies under the names given, A+B being pictures put beside each other, and writes docs/numbers/samples.json.
`screenshot` serves the page, shows it a picture of drawn faces, and writes docs/images/serving.png. All note the
shipped detector's SHA-256, and a test fails when another one ships. Afterwards: python docs/tools/figures.py
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from common.files import sha256_of, write_bytes, write_text  # noqa: E402

NUMBERS = ROOT / "docs" / "numbers"
PICTURE = ROOT / "docs" / "images" / "serving.png"
DETECTOR = ROOT / "models" / "detector.safetensors"
SIZE = (760, 1240)  # of the screenshot, CSS pixels
WAIT = 20.0  # seconds
GREY = 128  # of what lies about a picture that is lower than its neighbour
DRAWN = (1_000_007, 1_000_019)  # seeds of the faces on the screenshot


def told_in(name: str) -> dict[str, Any]:
    """A file of docs/numbers, {} where there is none yet."""
    path = NUMBERS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(name: str, told: dict[str, Any]) -> None:
    write_text(NUMBERS / f"{name}.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def judged(file: str) -> None:
    """Of every source and condition the counts, and the AUC where it is one of both classes."""
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    sources: dict[str, dict[str, Any]] = {}
    for name, rows in found["robustness_by_source"].items():
        sources[name] = {row["name"]: _counted(row) for row in rows}
    for row in found["pairs"]:  # of fakes without photos of their own
        for name, conditions in sources.items():
            if row["name"].startswith(f"fakes of {name},") and "auc" not in conditions["clean"]:
                conditions["clean"]["auc"] = round(row["auc"]["value"], 4)
    of = {"detector_sha256": found["settings"]["sha256"], "threshold": found["rule"]["threshold"]}
    if of["detector_sha256"] != sha256_of(DETECTOR):
        sys.exit(f"error: {file} is of another detector than {DETECTOR.name} that ships: evaluate that one")
    write("judged", of | {"sources": sources})
    print(f"{len(sources)} sources")


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for rate, called, of in (("fpr", "false_alarms", "of_photos"), ("tpr", "found", "of_fakes")):
        if row[rate]["n"]:
            out |= {called: round(row[rate]["value"] * row[rate]["n"]), of: row[rate]["n"]}
    return out | ({"auc": round(row["auc"], 4)} if row["auc"] is not None else {})


def sample(name: str, named: list[str]) -> None:
    """What detect.py prints of these photos, and its JSON, in an empty folder, with the shipped detector."""
    names = [pair.split("=", 1)[0] for pair in named]
    with tempfile.TemporaryDirectory() as folder:
        for pair in named:
            put(Path(folder, pair.split("=", 1)[0]), pair.split("=", 1)[1].split("+"))
        lines = [line.rstrip() for line in told_by_detect(folder, names).splitlines()]
        document = json.loads(told_by_detect(folder, [*names, "--json"]))
    recorded = {"command": " ".join(["python detect.py", *names]), "output": lines, "json": document}
    told = told_in("samples")
    told.setdefault("samples", {})[name] = {"detector_sha256": sha256_of(DETECTOR), **recorded}
    write("samples", told)
    print("\n".join(lines))


def put(place: Path, paths: list[str]) -> None:
    """A copy of the file; of several the pictures beside each other."""
    if len(paths) == 1:
        shutil.copyfile(paths[0], place)
        return
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in paths]
    across = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), (GREY,) * 3)
    for i, picture in enumerate(pictures):
        across.paste(picture, (sum(p.width for p in pictures[:i]), 0))
    across.save(place)


def told_by_detect(folder: str, words: list[str]) -> str:
    """The output of detect.py, this machine's paths taken out."""
    command = [sys.executable, str(ROOT / "detect.py"), *words]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if told.returncode not in (0, 1):
        sys.exit(f"error: detect.py ended with {told.returncode}: {told.stderr.strip()}")
    return told.stdout.replace(f"{ROOT}{os.sep}", "")


# ---- the screenshot --------------------------------------------------------------------------------------------------


def drawn_photo() -> bytes:
    """A PNG with two drawn faces beside each other: nobody's photo."""
    import numpy as np
    from PIL import Image

    from faces.procedural.portrait import render_face

    faces = [render_face(seed, 512) for seed in DRAWN]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(faces, axis=1)).save(out, "PNG")
    return out.getvalue()


def shown_words() -> list[str]:
    """What the page says of that picture: a headline for each face, and what was measured."""
    from PIL import Image

    from reports.library import judge

    said = judge(Image.open(io.BytesIO(drawn_photo()))).to_dict()
    return [row["headline"] for row in said["results"]] + [said["measured"]["says"]]


def given_to_the_page(photo: bytes) -> str:
    """A script that chooses the photo as a person would."""
    data = base64.b64encode(photo).decode()
    return (
        "<script>addEventListener('load', () => setTimeout(() => {"
        f"const bytes = Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0));"
        "const chosen = new DataTransfer();"
        "chosen.items.add(new File([bytes], 'drawn-faces.png', {type: 'image/png'}));"
        "const input = document.getElementById('choose'); input.files = chosen.files;"
        "input.dispatchEvent(new Event('change')); fetch('held');}, 500));</script>"
    )


def screenshot() -> None:
    """Serve the page with that script added, and let a browser without a window take its picture."""
    import uvicorn
    from fastapi.responses import HTMLResponse

    from discriminator.options import SHIPPED
    from web.api import build_app
    from web.body import Limits
    from web.opened import open_service
    from web.options import ServeOptions
    from web.page import main_page

    asked = ServeOptions()
    service = open_service(asked, SHIPPED)
    app = build_app(service, Limits.of(asked), threads=1, version="")
    shown = main_page()[0].replace("</body>", given_to_the_page(drawn_photo()) + "</body>")
    policy = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline' blob: data:"}
    # virtual time stands still for answers, not for the decoding of pictures
    app.add_api_route("/held", lambda: time.sleep(WAIT), include_in_schema=False)
    app.add_api_route("/shown", lambda: HTMLResponse(shown, headers=policy), include_in_schema=False)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        take(f"http://127.0.0.1:{sock.getsockname()[1]}/shown")
        server.should_exit = True
        thread.join(10)
    service.close()
    seen = {"detector_sha256": sha256_of(DETECTOR), "picture_sha256": sha256_of(PICTURE), "says": shown_words()}
    write("samples", told_in("samples") | {"screenshot": seen})
    print(PICTURE.relative_to(ROOT))


def take(url: str) -> None:
    """Let the browser write the picture; virtual time waits for the answers of the server."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no chromium found: install it, or name a browser in $CHROMIUM")
    with tempfile.TemporaryDirectory() as profile:
        taken = Path(profile, "taken.png")
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command += [f"--screenshot={taken}", f"--window-size={SIZE[0]},{SIZE[1]}", "--virtual-time-budget=60000", url]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        write_bytes(PICTURE, taken.read_bytes())


def main(words: list[str]) -> int:
    what, rest = words[:1], words[1:]
    if what == ["judged"] and len(rest) == 1:
        judged(rest[0])
    elif what == ["sample"] and len(rest) > 1 and all("=" in word for word in rest[1:]):
        sample(rest[0], rest[1:])
    elif words == ["screenshot"]:
        screenshot()
    else:
        print(__doc__)
        return 2
    print("Next: python docs/tools/figures.py")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
