"""The face sets known by name: where they lie under the data root, and how they are fetched from Kaggle."""

from __future__ import annotations

import os
import re
import socket
import threading
import urllib.request
from dataclasses import dataclass

from common.errors import UserError, one_line
from common.options import command_line

PROBE_SECONDS = 6.0


@dataclass(frozen=True)
class NamedSet:
    """A published set. `handle` is its Kaggle name, `example` a folder that exists below the set's folder once it is
    unpacked right, `inner` a folder of the archive distinctive enough to be recognised straight under the data root.
    `counts` (real, fake) are the images of each split ("" where it has none) as published, None where nobody counted
    them for us. `generator` says what made its fakes."""

    name: str
    handle: str
    example: str
    inner: str | None = None
    counts: dict[str, tuple[int, int]] | None = None
    generator: str = ""


NAMED_SETS = {
    s.name: s
    for s in (
        NamedSet(
            "flickr140k",
            "xhlulu/140k-real-and-fake-faces",
            "real_vs_fake/real-vs-fake/train/real",
            "real_vs_fake",
            {"train": (50_000, 50_000), "valid": (10_000, 10_000), "test": (10_000, 10_000)},
            "StyleGAN",
        ),
        NamedSet(
            "rvf10k",
            "sachchitkunichetty/rvf10k",
            "rvf10k/train/real",
            counts={"train": (3500, 3500), "valid": (1500, 1500)},
        ),
        NamedSet(
            "deepfake-and-real",
            "manjilkarki/deepfake-and-real-images",
            "Dataset/Train/Real",
            counts={"train": (70_001, 70_001), "valid": (19_787, 19_641), "test": (5_413, 5_492)},
        ),
        NamedSet(
            "yonsei",
            "ciplab/real-and-fake-face-detection",
            "real_and_fake_face/training_real",
            "real_and_fake_face",
            {"": (1081, 960)},
            "Photoshop",
        ),
    )
}
# The procedural faces: split -> seeds. No files, rendered on read.
DEMO_SPLITS = {"train": range(0, 2000), "valid": range(2000, 2400), "test": range(2400, 2800)}
SET_NAMES = ("demo", *NAMED_SETS)


def root_folder(given: str | None) -> str:
    """The folder named sets lie in: `given`, else the environment variable FACES_DATA_ROOT, else ./datasets."""
    return os.path.expanduser(given or os.environ.get("FACES_DATA_ROOT") or "datasets")


def places(named: NamedSet, root: str) -> list[str]:
    """Existing folders and zip files in which the set may lie, likeliest first.

    Under `root`: <name>, <Kaggle's name>, the archive's distinctive inner folder, and zips of these names; then
    versions that kagglehub fetched earlier (they serve without a network)."""
    names = dict.fromkeys((named.name, named.handle.split("/")[1]))
    folders = [os.path.join(root, name) for name in names]
    zips = [folder + ".zip" for folder in folders]
    inner = [os.path.join(root, named.inner)] if named.inner else []
    found = [p for p in folders + inner if os.path.isdir(p)] + [p for p in zips if os.path.isfile(p)]
    return found + _fetched_earlier(named)


def _fetched_earlier(named: NamedSet) -> list[str]:
    cache = os.environ.get("KAGGLEHUB_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "kagglehub")
    base = os.path.join(cache, "datasets", *named.handle.split("/"))
    versions = os.path.join(base, "versions")
    try:
        # kagglehub writes <version>.complete beside "versions" when the last file has been unpacked
        done = [m[1] for name in os.listdir(base) if (m := re.fullmatch(r"([0-9]+)\.complete", name))]
    except OSError:
        return []
    newest_first = sorted(done, key=int, reverse=True)
    return [p for v in newest_first if os.path.isdir(p := os.path.join(versions, v))]


def fetch(named: NamedSet, root: str) -> str:
    """Download the set through kagglehub (resumable, into its own cache) and return the folder.

    Without a network this fails within seconds. Raises UserError: what to download by hand and where to put it."""
    if not _reachable("www.kaggle.com", 443):
        raise by_hand(named, root, "no network connection to Kaggle")
    try:
        import kagglehub
    except ImportError:
        raise by_hand(named, root, "the package kagglehub is not installed") from None
    try:
        return kagglehub.dataset_download(named.handle)
    except Exception as error:  # kagglehub lets through errors of requests, of its SDK, of tarfile, …
        text = one_line(error)
        raise by_hand(named, root, text if len(text) <= 160 else text[:157] + "...") from None


def by_hand(named: NamedSet, root: str, why: str) -> UserError:
    """The error that tells a person how to get the set without us."""
    folder = os.path.join(root, named.name)
    return UserError(
        f"{named.name} is not under {root} and can't be fetched ({why}): {by_hand_steps(named)}, or unpack it into"
        f" {folder} (so that {os.path.join(folder, named.example)} exists), or give `data_root`"
    )


def by_hand_steps(named: NamedSet) -> str:
    """How to get the set with a browser."""
    say = command_line("prepare_data.py", "fetch", named.name, from_="archive.zip")
    return f"download kaggle.com/datasets/{named.handle} and say {say}"


def _reachable(host: str, port: int) -> bool:
    """Whether a connection opens within PROBE_SECONDS, name resolution included.

    kagglehub's own limits don't cover a firewall that drops packets. Behind a proxy only kagglehub can tell."""
    if {"https", "all"} & set(urllib.request.getproxies()):
        return True
    opened = threading.Event()

    def probe() -> None:
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
            opened.set()
        except OSError:
            pass

    thread = threading.Thread(target=probe, daemon=True)  # getaddrinfo takes no time limit, so the wait gets one
    thread.start()
    thread.join(PROBE_SECONDS)
    return opened.is_set()
