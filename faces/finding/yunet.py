"""The file of YuNet, the small face detector in OpenCV's model zoo: where it lies, and how it is fetched once.

W. Wu, H. Peng, S. Yu, "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research 2023.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from common.download import download as fetch
from common.errors import UserError, one_line
from common.files import cache_folder

FILE_NAME = "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
URL = f"https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/{FILE_NAME}"
ENVIRONMENT = "FACES_FACE_MODEL"
MAX_BYTES = 8 << 20  # the file has 233 kB: a page that comes in its place must not fill the disk

Progress = Callable[[int, int], None]


def cache_path() -> Path:
    """Where a fetched file is kept."""
    return cache_folder() / FILE_NAME


def find_model(
    path: str | os.PathLike | None = None,
    *,
    download: bool = True,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> Path:
    """The model file: `path`, else the one FACES_FACE_MODEL names, else the cache's, else a download into the cache.

    A file that the user names is taken as it is (another version may do as well); the cache's and the download's must
    have the known SHA-256. progress(bytes so far, bytes in all or 0) is called while downloading.

    Raises UserError when a named file is not there, or when there is none and it can't be fetched within `timeout`
    seconds for each step."""
    for given, option in ((path, "--face-model"), (os.environ.get(ENVIRONMENT), ENVIRONMENT)):
        if given:
            if not Path(given).is_file():
                raise UserError(f"{option} {given}: no such file; give YuNet's ONNX file ({FILE_NAME})")
            return Path(given)
    cached = cache_path()
    if cached.is_file() and sha256_of(cached) == SHA256:
        return cached
    advice = f"download {URL} and put it at {cached}, or name its place with --face-model or {ENVIRONMENT}"
    if not download:
        raise UserError(f"the face detector YuNet is not here; {advice}")
    try:
        fetch(URL, cached, sha256=SHA256, max_bytes=MAX_BYTES, timeout=timeout, progress=progress)
    except Exception as error:  # name resolution, TLS, HTTP, disk: the user's next step is the same
        reason = one_line(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"the face detector YuNet could not be fetched ({reason}); {advice}") from None
    return cached


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
