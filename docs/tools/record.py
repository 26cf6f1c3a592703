#!/usr/bin/env python3
"""Records what the documents show: the sample output of detect.py, and the page's screenshot.

    python docs/tools/record.py sample photo.jpg=/path/to/a/photo generated.jpg=/path/to/a/fake
    python docs/tools/record.py screenshot        needs chromium (or $CHROMIUM) and the extra web

`sample` judges copies under the names given and writes docs/numbers/samples.json. `screenshot` serves the page, shows it
a picture of drawn faces, and writes docs/images/serving.png. Both note the shipped detector's SHA-256, and a test
fails when another one ships. Afterwards: python docs/tools/figures.py
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "docs" / "numbers" / "samples.json"
PICTURE = ROOT / "docs" / "images" / "serving.png"
DETECTOR = ROOT / "models" / "detector.safetensors"
SIZE = (760, 1240)  # of the screenshot, CSS pixels


def note(**more: dict) -> None:
    """Write something into samples.json, keeping what else is there."""
    told = json.loads(SAMPLES.read_text(encoding="utf-8")) if SAMPLES.exists() else {}
    SAMPLES.write_text(json.dumps(told | more, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def own_sha() -> str:
    return hashlib.sha256(DETECTOR.read_bytes()).hexdigest()


def sample(named: list[str]) -> None:
    """What detect.py prints of these photos, and its JSON, in an empty folder, with the shipped detector."""
    names = [pair.split("=", 1)[0] for pair in named]
    with tempfile.TemporaryDirectory() as folder:
        for pair in named:
            name, path = pair.split("=", 1)
            shutil.copyfile(path, Path(folder, name))
        lines = told_by_detect(folder, names).splitlines()
        document = json.loads(told_by_detect(folder, [*names, "--json"]))
    lines = [line.rstrip() for line in lines]
    recorded = {"command": " ".join(["python detect.py", *names]), "output": lines, "json": document}
    note(samples={"photos": {"detector_sha256": own_sha(), **recorded}})
    print("\n".join(lines))


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

    faces = [render_face(seed, 512) for seed in (1_000_007, 1_000_019)]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(faces, axis=1)).save(out, "PNG")
    return out.getvalue()


def given_to_the_page(photo: bytes) -> str:
    """A script that chooses the photo as a person would."""
    data = base64.b64encode(photo).decode()
    return (
        "<script>addEventListener('load', () => setTimeout(() => {"
        f"const bytes = Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0));"
        "const chosen = new DataTransfer();"
        "chosen.items.add(new File([bytes], 'drawn-faces.png', {type: 'image/png'}));"
        "const input = document.getElementById('choose'); input.files = chosen.files;"
        "input.dispatchEvent(new Event('change'));}, 500));</script>"
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
    note(screenshot={"detector_sha256": own_sha(), "picture_sha256": hashlib.sha256(PICTURE.read_bytes()).hexdigest()})
    print(PICTURE.relative_to(ROOT))


def take(url: str) -> None:
    """Let the browser write the picture; virtual time waits for the answers of the server."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no chromium found: install it, or name a browser in $CHROMIUM")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command += [f"--screenshot={PICTURE}", f"--window-size={SIZE[0]},{SIZE[1]}", "--virtual-time-budget=60000", url]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


def main(words: list[str]) -> int:
    sys.path.insert(0, str(ROOT))
    if words[:1] == ["sample"] and words[1:] and all("=" in word for word in words[1:]):
        sample(words[1:])
    elif words == ["screenshot"]:
        screenshot()
    else:
        print(__doc__)
        return 2
    print("Next: python docs/tools/figures.py")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
