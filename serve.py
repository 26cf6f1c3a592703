"""The detector behind a web page and an HTTP API: verdicts on photos and videos, from this machine and for it.

python serve.py
python serve.py --model latest --port 8080
curl -F file=@photo.jpg http://127.0.0.1:8000/v1/detect
"""

from __future__ import annotations

import os

from common import base  # noqa: F401  # isort: skip
import click

from common.cli import EXIT_ERROR, SETTINGS, download_bar, importing, next_step, own_version, run, typed
from common.extras import needing
from common.options import options
from discriminator.options import SHIPPED
from web.options import ServeOptions


@click.command(context_settings=SETTINGS)
@options(ServeOptions, "asked")
def main(asked: ServeOptions) -> None:
    """Serve a web page (/) and an HTTP API (/v1/detect, /docs) with the verdicts of detect.py.

    Photos and videos are judged in memory and written nowhere. On other addresses than this machine's own, requests
    must bring a token (--token-file), and as nothing is encrypted here, a reverse proxy belongs in front.
    """
    with importing(), needing("the page needs FastAPI and uvicorn", "web"):
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401

        from web import server
        from web.api import build_app
        from web.body import Limits
        from web.guard import read_token
        from web.opened import open_more, open_service

    with server.listen(asked.host, asked.port) as sock:  # first of all: it is what is wrong most often
        token = read_token(asked, loopback=server.is_loopback(asked.host))
        with download_bar("YuNet") as report:
            service = open_service(asked, SHIPPED, report=report)
        more = open_more(asked, SHIPPED)
        app = build_app(
            service, Limits.of(asked), threads=asked.threads, cors=asked.cors,
            hosts=(*asked.allow_host, asked.host), token=token, version=own_version(""), more=more,
        )  # fmt: skip
        line = app.state.line
        for text in (*service.describe(), *server.describe(asked.host, sock)):
            click.echo(text, err=True)
        there = server.address(sock)
        next_step(f"open {there} in a browser, or {by_curl(there, asked, bool(token))}")
        serving = server.make_server(
            app, stopping=line.stopping.set, leave_seconds=line.patience, access_log=asked.access_log, proxy=asked.proxy
        )
        try:
            serving.run(sockets=[sock])
        finally:
            if line.stalled():
                click.echo("error: a photo is still being judged that takes too long: ended without it", err=True)
                os._exit(EXIT_ERROR)  # its thread can't be ended, and Python would wait for it
        for one in (service, more.other):
            if one is not None:
                one.close()


def by_curl(there: str, asked: ServeOptions, secret: bool) -> str:
    """The command that asks the server at the address `there`; with the token, where it wants one."""
    where = f"$(cat {typed(asked.token_file)})" if asked.token_file else "$FACES_TOKEN"
    bearer = f'-H "Authorization: Bearer {where}" ' if secret else ""
    return f"curl {bearer}-F file=@photo.jpg {there}v1/detect"


if __name__ == "__main__":
    run(main)
