"""Files to results: photos and videos, in the order they were named in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from common.errors import BadImage
from discriminator.judge import Judge, Seen, opened
from discriminator.results import Result
from discriminator.video import VideoOptions, judge_video
from faces.decode import MAX_PIXELS, Decode, decode_image, read_file
from faces.stores import ManifestStore
from faces.video import is_moving


def judge_files(
    judge: Judge,
    files: Iterable[str | Result],
    *,
    workers: int | None = None,
    patience: float | None = None,
    video: VideoOptions | None = None,
    on_read: Callable[[], object] = lambda: None,
    decode: Decode = decode_image,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Result]:
    """The results of each file, in the order of `files`; a file that can't be decoded never stops the rest.

    A photo has one for each face, the biggest first, or one that says that there is none; a video has one. What is in
    `files` but no path is a result already and is handed through in its place.
    workers: threads that decode and look for faces, ahead of the network. patience: see `common.parallel.in_batches`.
    on_read: called when a file is through. decode, max_pixels: by what photos are decoded, and how large they may be.
    """

    store = ManifestStore("")
    load = functools.partial(opened, max_pixels=max_pixels, decode=decode)

    def look(file: str | Result) -> Seen:
        if isinstance(file, Result):
            return Seen(file.file, file)
        if store.is_inside(file):
            return _packed(judge, store, file, load)
        if is_moving(file):
            return Seen(file)  # it is read when its turn comes
        return judge.decoded(file, lambda: load(read_file(file), file))

    with contextlib.closing(store):
        for seen in judge.in_order(look, files, workers=workers, patience=patience):
            if seen.result is None and not seen.verdicts:
                data = store.read(seen.name) if store.is_inside(seen.name) else None
                yield judge_video(judge, seen.name, video, data=data, workers=workers)
            yield from judge.results(seen)
            on_read()


def _packed(
    judge: Judge, store: ManifestStore, file: str, load: Callable[[bytes, str], tuple[np.ndarray, str]]
) -> Seen:
    """What is seen of a member of an archive; of a video, nothing yet."""
    try:
        data = store.read(file)
    except BadImage as error:
        return Seen(file, Result(file, None, error.reason))
    if is_moving(data, file):
        return Seen(file)
    return judge.decoded(file, lambda: load(data, file))
