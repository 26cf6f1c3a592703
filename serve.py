"""The detector behind a web page and an HTTP API: verdicts on photos and videos, from this machine and for it.

python serve.py
python serve.py --model runs/00000-demo --port 8080
curl -F file=@photo.jpg http://127.0.0.1:8000/v1/detect
"""

from __future__ import annotations

import click

from common.cli import SETTINGS, download_bar, importing, next_step, own_version, run
from common.errors import UserError
from common.options import options
from discriminator.options import SHIPPED
from web.options import ServeOptions


@click.command(context_settings=SETTINGS)
@options(ServeOptions, "asked")
def main(asked: ServeOptions) -> None:
    """Serve a web page (/) and an HTTP API (/v1/detect, /docs) with the verdicts of detect.py.

    Photos and videos are judged in memory and written nowhere. There is no password and no encryption: on other
    addresses than 127.0.0.1, put a reverse proxy in front.
    """
    with importing():
        try:
            import fastapi  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"serve.py needs {error.name}, which is not installed: pip install 'fastapi>=0.165,<1'"
                " 'uvicorn>=0.40,<1'"
            ) from None
        from web import server
        from web.api import build_app
        from web.body import Limits
        from web.opened import open_service

    with server.listen(asked.host, asked.port) as sock:  # first of all: it is what is wrong most often
        with download_bar("YuNet") as report:
            service = open_service(asked, SHIPPED, report=report)
        app = build_app(service, Limits.of(asked), threads=asked.threads, cors=asked.cors, version=own_version(""))
        for line in (*service.describe(), *server.describe(asked.host, sock)):
            click.echo(line, err=True)
        there = server.address(sock)
        next_step(f"open {there} in a browser, or curl -F file=@photo.jpg {there}v1/detect")
        server.make_server(app, access_log=asked.access_log, proxy=asked.proxy).run(sockets=[sock])
        service.close()


if __name__ == "__main__":
    run(main)
