"""What `serve.py` may be asked for, declared once. Light: `--help` needs no FastAPI."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.errors import UserError
from common.options import DAY, THREADS, option
from discriminator.options import RUNTIMES, JudgeOptions
from faces.options import FACE

TOKEN_VARIABLE = "FACES_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServeOptions(JudgeOptions):
    """A server: what it judges by where a request says nothing, where it listens, and how much it takes."""

    face: str = FACE(help="What a request that does not say it gets; whole: no request can have faces looked for.")
    runtime: str = option(
        "auto",
        "auto: ONNX Runtime where the detector was exported beside its file, and PyTorch for Grad-CAM, once one is "
        "asked for. onnx: never PyTorch.",
        choices=RUNTIMES,
    )
    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 is every network.")
    port: int = option(8000, "0: any that is free.", low=0, high=65535)
    threads: int | None = THREADS(help="Photos and videos judged at once.  [default: one per core]")
    max_mb: float = option(32.0, "Of a request.", metavar="MIB", low=0, above=True, high=4096)
    max_files: int = option(64, "Photos and videos in a request.", metavar="N", low=1)
    max_pixels: float = option(
        50.0, "Of a photo, or of a video's frame.", metavar="MILLIONS", low=0, above=True, high=1073
    )
    photo_seconds: float = option(20.0, "For decoding a photo.", metavar="SECONDS", low=0, above=True, high=DAY)
    video_seconds: float = option(30.0, "Work on one video.", metavar="SECONDS", low=0, above=True, high=DAY)
    video_frames: int = option(64, "Frames of a video that are judged at most.", metavar="N", low=1)
    timeout: float = option(60.0, "Seconds a body may take.", metavar="SECONDS", low=1, high=DAY)
    cors: tuple[str, ...] = option((), "Let pages of this origin ask, too (several times).", metavar="ORIGIN")
    allow_host: tuple[str, ...] = option(
        (), "A name that the server goes by, besides localhost and its addresses (several times).", metavar="NAME"
    )
    token_file: str | None = option(
        None,
        "File with a secret that requests must bring; needed where --host is no loopback address.  [default:"
        f" ${TOKEN_VARIABLE}]",
        metavar="FILE",
    )
    proxy: str | None = option(
        None, "Believe X-Forwarded-* of these (a reverse proxy's), comma-separated.", metavar="ADDRESSES"
    )
    compare: str | None = option(
        None, "A second detector, whose verdicts the page shows beside the first one's.", metavar="DETECTOR"
    )
    generator: str | None = option(
        None, "A generator (as of synth.py --network): the page can make faces with it.", metavar="FILE"
    )
    allow_urls: bool = option(
        False, "Fetch photos from public web addresses that a request names; never from private networks."
    )
    url_seconds: float = option(15.0, "For fetching a photo.", metavar="SECONDS", low=1, high=DAY)
    access_log: bool = option(False, "A line for each request: address, method, path, status.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for origin in self.cors:  # compared letter by letter with what a browser says
            if origin not in ("*", "null") and not re.fullmatch(r"https?://[^\sA-Z/?#@]+", origin):
                raise UserError(
                    f"`cors` {origin}: is no origin as browsers say it: give one like https://their.example, without a"
                    " path, in small letters"
                )
        for name in self.allow_host:
            if not re.fullmatch(r"[^\s/:@]+", name):
                raise UserError(f"`allow_host` {name}: give a name alone, like faces.example, without http:// and port")
