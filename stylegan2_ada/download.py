"""Network files from the internet, kept in a cache folder.

A file gets its name in the cache only when it is whole, so an interrupted download leaves nothing behind. What a file
should be can be pinned: `https://example.org/faces.pkl#sha256=<64 hex digits>`.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from common.download import download
from common.errors import UserError
from common.files import cache_folder, sha256_of

MAX_BYTES = 4 << 30  # a published snapshot has some 400 MB
TIMEOUT = 15.0  # seconds, for the connection and for every read

_NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets"
# Starting points for transfer learning under the names that they are known by.
PUBLISHED = {
    "ffhq256": f"{_NVIDIA}/ffhq-res256-mirror-paper256-noaug.pkl",
    "ffhq512": f"{_NVIDIA}/ffhq-res512-mirror-stylegan2-noaug.pkl",
    "ffhq1024": f"{_NVIDIA}/ffhq-res1024-mirror-stylegan2-noaug.pkl",
    "celebahq256": f"{_NVIDIA}/celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
    "lsundog256": f"{_NVIDIA}/lsundog-res256-paper256-kimg100000-noaug.pkl",
}
LICENCE = (
    "these weights are NVIDIA's, under the NVIDIA Source Code License: for non-commercial use only, and so is what is"
    " trained from them"
)


def is_remote(spec: str) -> bool:
    """Whether `spec` is a URL or one of the names in PUBLISHED, rather than a path."""
    return spec in PUBLISHED or re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", spec) is not None


def cached_path(spec: str) -> Path:
    """Where the file of a URL lies or will lie; for `file://` the file itself. ValueError for a URL that cannot be."""
    url, _ = _split(spec)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", urllib.parse.unquote(parts.path).rpartition("/")[2])[-80:].lstrip(".-")
    return cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name or 'network'}"


def fetch(spec: str, progress: Callable[[int, int], None] | None = None, timeout: float = TIMEOUT) -> Path:
    """The local file of a URL or of a name in PUBLISHED; downloaded where the cache doesn't have it.

    spec: `https://…`, `file://…`, `http://…` with a pinned hash, or a name; `#sha256=…` at its end pins what comes.
    progress: called with (bytes so far, bytes in all or 0). timeout: seconds, for the connection and for every read.
    UserError where it cannot be fetched, is too large or has another hash than pinned; the cache keeps nothing of it.
    """
    url, pinned = _split(spec)
    path = cached_path(spec)
    if path.is_file():
        if pinned and (found := sha256_of(path)) != pinned:
            advice = "" if url.startswith("file:") else f"; delete {path} to fetch it again"
            raise UserError(f"{url}: the file has SHA-256 {found}, not {pinned} as pinned{advice}")
        return path
    if url.startswith("file:"):
        raise UserError(f"{url}: no such file; check the path")
    try:
        download(url, path, sha256=pinned, max_bytes=MAX_BYTES, timeout=timeout, progress=progress)
    except UnicodeError as e:  # a host name that is none; a ValueError, too
        raise UserError(f"{url}: could not be fetched ({e}); check the address") from None
    except ValueError as e:
        raise UserError(f"{url}: {e}") from None
    except urllib.error.HTTPError as e:
        raise UserError(f"{url}: the server says {e.code} {e.reason}; check the address") from None
    except (OSError, EOFError, http.client.HTTPException) as e:  # name resolution, TLS, connection, disk
        reason = getattr(e, "reason", None) or e
        raise UserError(
            f"{url}: could not be fetched ({' '.join(str(reason).split()) or type(e).__name__}); check the connection,"
            " or download it otherwise and give the file"
        ) from None
    return path


def _split(spec: str) -> tuple[str, str | None]:
    """(URL, pinned hash or None) of what the user gave."""
    url, _, fragment = PUBLISHED.get(spec, spec).partition("#")
    url = urllib.parse.quote(url, safe=":/?&=%+,;@!$'()*~[]")
    scheme = urllib.parse.urlsplit(url).scheme.lower()
    pinned = None
    if fragment:
        key, _, pinned = fragment.partition("=")
        pinned = pinned.lower()
        if key.lower() != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", pinned):
            raise UserError(f"{spec}: after # only sha256=<64 hex digits> may stand")
    if scheme not in ("https", "http", "file"):
        raise UserError(f"{spec}: only https:// and file:// addresses can be read; download it and give the file")
    if scheme == "http" and pinned is None:
        raise UserError(f"{spec}: http:// can be tampered with on the way; use https://, or pin it with #sha256=…")
    return url, pinned
