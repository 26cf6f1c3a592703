"""The methods' names, for command lines and their help. Light: no numpy, no PyTorch."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass

from common.errors import UserError
from common.extras import is_there, lacking

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Method:
    """title: what is written under its map. gradients: whether it needs PyTorch's network, and not only its answers.
    captum: whether it is computed by captum. signed: whether its values tell for FAKE (above 0) from for REAL (below),
    or only how much a place counts."""

    title: str
    gradients: bool = False
    captum: bool = True
    signed: bool = True


METHODS: dict[str, Method] = {
    "patches": Method("patch map: each patch by itself", captum=False),
    "gradcam": Method("Grad-CAM", gradients=True, captum=False),
    "saliency": Method("saliency: slope of the score", gradients=True, signed=False),
    "integrated-gradients": Method("integrated gradients", gradients=True),
    "lrp": Method("layer-wise relevance", gradients=True, captum=False),
    "lime": Method("LIME"),
    "shap": Method("SHAP (expected gradients)", gradients=True),
    "kernel-shap": Method("SHAP (kernel)"),
    "occlusion": Method("occlusion"),
}
ALL = "all"
DEFAULT = "occlusion"  # docs/results.md, «Which explanation to believe»
NAMES = ", ".join(METHODS)


def chosen(text: str, name: str = "explain") -> tuple[str, ...]:
    """The methods of a list with commas, in its order, each once; «all» means all. UserError for an unknown one."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := [word for word in words if word not in METHODS and word != ALL]:
        near = difflib.get_close_matches(unknown[0], METHODS, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"`{name}` {unknown[0]}: no method is called so{meant}; there are {NAMES}, and all")
    if not words:
        raise UserError(f"`{name}`: name a method, or several with commas: {NAMES}, or all")
    return tuple(dict.fromkeys(m for word in words for m in (METHODS if word == ALL else (word,))))


def methods_or_path(text: str) -> tuple[tuple[str, ...], str | None]:
    """What `--explain` was given: (methods, None), or ((), a path).

    A path is what has a folder in it, ends like a picture, or is no method's name nor looks like one mistyped; a folder
    that is called like a method is written ./lime."""
    words = [word.strip() for word in text.split(",")]
    like_path = os.sep in text or "/" in text or text.lower().endswith(PICTURES)
    known = all(word in METHODS or word == ALL for word in words)
    if known or (not like_path and (len(words) > 1 or _mistyped(text))):
        return chosen(text), None
    return (), text


def _mistyped(word: str) -> bool:
    return not os.path.exists(word) and bool(difflib.get_close_matches(word, METHODS, 1, cutoff=0.7))


def check_installed(methods: tuple[str, ...]) -> None:
    """UserError where a method's packages are not installed."""
    if reason := missing(methods):
        raise UserError(f"`explain`: {reason}; or give `explain` patches")


def missing(methods: tuple[str, ...]) -> str:
    """Which packages a method wants that are not installed, or ""."""
    needs = [m for m in methods if METHODS[m].captum or METHODS[m].gradients]
    for package in ("torch", "captum", "sklearn"):
        wanting = [m for m in needs if package == "torch" or METHODS[m].captum]
        if wanting and not is_there(package):
            return lacking(f"{wanting[0]} needs {package}", "explain")
    return ""


def gradients_for(methods: tuple[str, ...]) -> bool:
    """Whether these methods, () for the usual ones, need PyTorch's network."""
    return any(METHODS[name].gradients for name in methods or (DEFAULT,))
