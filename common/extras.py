"""Packages that not every use needs: which extra of pyproject.toml brings one, and how that is installed here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

from common.errors import UserError

# import name -> the extra that brings it; of several the one that most people want
EXTRA_OF = {
    "torch": "train",
    "torchvision": "train",
    "ninja": "train",
    "scipy": "train",
    "tensorboard": "train",
    "timm": "train",
    "sklearn": "train",
    "safetensors": "train",
    "matplotlib": "train",
    "kagglehub": "train",
    "av": "video",
    "fastapi": "web",
    "starlette": "web",
    "uvicorn": "web",
    "python_multipart": "web",
    "prometheus_client": "web",
    "captum": "explain",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "pyarrow": "parquet",
    "pillow_heif": "heif",
    "c2pa": "c2pa",
    "atheris": "fuzz",
}
PACKAGED = __name__.partition(".")[0] == "ganface"  # the installed package; else a checkout


def install(extra: str) -> str:
    """What a person types to have an extra."""
    if PACKAGED:
        return f"pip install 'ganface[{extra}]'"
    return f"pip install -e '.[{extra}]' in the checkout"


def lacking(needs: str, extra: str) -> str:
    """The one line about an extra that is not installed. needs: what needs what, like "videos need PyAV"."""
    return f"{needs}, not installed here: it comes with the extra {extra}: {install(extra)}"


def missing(error: BaseException, extra: str = "") -> str | None:
    """The line for an import that failed because a package of an extra is not installed, or None for other errors.

    extra: the one to be named, where that of EXTRA_OF is not the best."""
    if not isinstance(error, ModuleNotFoundError):
        return None  # installed, but broken: its own words are needed
    top = (error.name or "").partition(".")[0]
    if top not in EXTRA_OF or is_there(top):
        return None
    return lacking(f"this needs {top}", extra or EXTRA_OF[top])


def is_there(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return find_spec(package) is not None


@contextlib.contextmanager
def needing(needs: str, extra: str) -> Iterator[None]:
    """Inside, an import of what an extra brings, and is not installed, is a UserError. needs: as in `lacking`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if missing(error) is None:
            raise
        raise UserError(lacking(needs, extra)) from None
