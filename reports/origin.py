"""Who made a report, and how it can be made again: date, versions, fingerprints."""

from __future__ import annotations

import hashlib
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.cli import own_version

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("common", "faces", "metrics", "discriminator", "reports", "web")  # what has a part in a verdict's report
PACKAGES = {"onnx": ("onnxruntime",), "torch": ("torch", "torchvision")}


def origin(runtime: str, threshold: str, command: str) -> dict[str, str]:
    """Plain facts by name. runtime: of the engine; threshold: in words; command: what to type to have it again."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "tool": f"ganface {own_version()}",
        "tool_sha256": tool_sha256(),
        "threshold": threshold,
        "versions": versions(runtime),
        "command": command,
    }


def versions(runtime: str) -> str:
    """The interpreter, the system and the packages that compute a verdict."""
    told = [f"Python {platform.python_version()}", platform.system() or "an unknown system"]
    for name in ("numpy", "Pillow", "opencv-python-headless", *PACKAGES.get(runtime, ())):
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(told)


def tool_sha256(root: Path = ROOT) -> str:
    """One SHA-256 for the Python files of `ROOMS`: of lines «<SHA-256 of the file>  <path>», sorted by path, as
    sha256sum prints them; line ends count as one newline, whatever a checkout made of them."""
    files = sorted((file.relative_to(root).as_posix(), file) for room in ROOMS for file in (root / room).rglob("*.py"))
    total = hashlib.sha256()
    for name, file in files:
        content = file.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
    return total.hexdigest()
