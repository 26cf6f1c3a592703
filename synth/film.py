"""A walk through latent space as a video file."""

from __future__ import annotations

from pathlib import Path

from common.words import counted
from synth.behind import Behind
from synth.interpolate import walk
from synth.network import SILENT, Watch, open_generator
from synth.options import FromNetwork, Rendering, Walk, WalkVideo
from synth.video import check_video, enlargement, open_video
from training.lock import alone_at


def walk_to_video(
    source: FromNetwork, asked: WalkVideo, way: Walk, how: Rendering, watch: Watch = SILENT
) -> list[Path]:
    """Render a walk, and encode and write what is rendered in a thread beside; returns the video's path. UserError as
    for `walk` and `open_video`."""
    how.check_truncation()
    seeds = asked.keys()
    if asked.out is not None:
        check_video(asked.out, asked.fps, force=asked.force)  # before a network is fetched
    net, how = open_generator(source, how, watch)
    path = check_video(net.place(asked.out, "walk.mp4"), asked.fps, force=asked.force)
    scale = asked.scale or enlargement(net.G.cfg.resolution)
    frames, total = walk(net.G, seeds, way, how), way.frames(len(seeds))
    with (
        alone_at(path),
        open_video(path, asked.fps, scale=scale, force=asked.force) as video,
        Behind(video.write) as later,
    ):
        for done, frame in enumerate(frames, start=1):
            later(frame)
            watch.progress(done, total)
    watch.tell(
        f"{counted(video.frames, 'frame')}, {video.frames / asked.fps:.1f} s at {asked.fps:g} a second, {video.codec}"
    )
    return [path]
