"""The file of YuNet, the small face detector in OpenCV's model zoo: where it lies, and how it is fetched once.

W. Wu, H. Peng, S. Yu, "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research 2023.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.download import FetchedOnce, Progress
from common.files import cache_folder, sha256_of

FILE_NAME = "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
URL = f"https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/{FILE_NAME}"
ENVIRONMENT = "FACES_FACE_MODEL"
BUNDLED = Path(__file__).resolve().parents[2] / "models" / FILE_NAME  # comes with a checkout, under its own licence
MAX_BYTES = 8 << 20  # the file has 233 kB: a page that comes in its place must not fill the disk


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
    """The model file: `path`, else the one FACES_FACE_MODEL names, else the one that comes with this program, else the
    cache's, else a download into the cache.

    A file that the user names is taken as it is (another version may do as well); the cache's and the download's must
    have the known SHA-256. progress(bytes so far, bytes in all or 0) is called while downloading.

    Raises UserError when a named file is not there, or when there is none and it can't be fetched within `timeout`
    seconds for each step."""
    if not path and not os.environ.get(ENVIRONMENT) and BUNDLED.is_file() and sha256_of(BUNDLED) == SHA256:
        return BUNDLED
    file = FetchedOnce(
        "the face detector YuNet", "is", f"YuNet's ONNX file ({FILE_NAME})", URL, SHA256, MAX_BYTES,
        "face_model", ENVIRONMENT, cache_path(),
    )  # fmt: skip
    return file.find(path, allow_download=download, timeout=timeout, progress=progress)
