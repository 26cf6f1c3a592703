"""The detective behind a web page and an HTTP API: verdicts on photos, from this machine and for it.

python serve.py
python serve.py --model runs/00000-demo --port 8080
curl -F file=@photo.jpg http://127.0.0.1:8000/v1/detect
"""

from __future__ import annotations

from pathlib import Path

import click

from common.cli import MODEL_HELP, download_bar, face_file_options, importing, own_version, run
from common.device import pick_device
from common.errors import UserError

HERE = Path(__file__).resolve().parent
SHIPPED = (HERE / "models" / "detector.safetensors", HERE / "models" / "detector.onnx")


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option("--model", metavar="FILE|RUN", help=MODEL_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--fpr", type=float, help="Calibrated false-alarm rate that sets the threshold.")
@click.option("--threshold", type=float, metavar="P", help="Your own threshold: FAKE from this probability on.")
@click.option(
    "--face",
    type=click.Choice(["auto", "whole", "required"]),
    default="auto",
    show_default=True,
    help="What a request that does not say it gets; whole: no request can have faces looked for.",
)
@face_file_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "torch", "onnx"]),
    default="auto",
    show_default=True,
    help="auto: ONNX Runtime where the detector was exported beside its file, and PyTorch for Grad-CAM, once one is "
    "asked for. onnx: never PyTorch.",
)
@click.option("--threads", type=click.IntRange(1), help="Photos judged at once.  [default: one per core]")
@click.option("--max-mb", type=click.FloatRange(0, min_open=True), default=32, show_default=True, help="Of a request.")
@click.option("--max-files", type=click.IntRange(1), default=64, show_default=True, help="Photos in a request.")
@click.option(
    "--max-pixels",
    type=click.FloatRange(0, min_open=True),
    default=50,
    show_default=True,
    metavar="MILLIONS",
    help="Of a photo.",
)
@click.option("--timeout", type=click.FloatRange(1), default=60, show_default=True, help="Seconds a body may take.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Let pages of this origin ask, too (several times).")
@click.option(
    "--proxy", metavar="ADDRESSES", help="Believe X-Forwarded-* of these (a reverse proxy's), comma-separated."
)
@click.option("--access-log", is_flag=True, help="A line for each request: address, method, path, status.")
def main(
    model: str | None,
    host: str,
    port: int,
    fpr: float | None,
    threshold: float | None,
    face: str,
    face_model: str | None,
    offline: bool,
    device: str,
    runtime: str,
    threads: int | None,
    max_mb: float,
    max_files: int,
    max_pixels: float,
    timeout: float,
    cors: tuple[str, ...],
    proxy: str | None,
    access_log: bool,
) -> None:
    """Serve a web page (/) and an HTTP API (/v1/detect, /docs) with the verdicts of detect.py.

    Photos are judged in memory and written nowhere. There is no password and no encryption: on other addresses than
    127.0.0.1, put a reverse proxy in front.
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
        from common.parallel import cores
        from web import server
        from web.api import build_app
        from web.body import Limits
        from web.opened import open_service

    sock = server.listen(host, port)  # first of all: it is what is wrong most often
    with sock:
        service = open_service(
            model,
            SHIPPED,
            runtime=runtime,
            device=device,
            pick_device=pick_device,
            face=face,
            face_model=face_model,
            offline=offline,
            fpr=fpr,
            threshold=threshold,
            max_pixels=int(max_pixels * 1e6),
            report=download_bar("YuNet"),
        )
        limits = Limits(
            max_bytes=int(max_mb * (1 << 20)), max_files=max_files, body_seconds=timeout, wait_seconds=timeout
        )
        app = build_app(service, limits, threads=threads or cores(), cors=cors, version=own_version(""))
        server.many_connections()
        if service.engine.note:
            click.echo(f"note: {service.engine.note}", err=True)
        click.echo(f"{service.engine.file} by {'ONNX Runtime' if service.engine.runtime == 'onnx' else 'PyTorch'}; "
                   f"{service.rule.describe()}", err=True)  # fmt: skip
        if not server.is_loopback(host):
            click.echo(
                f"warning: {host} is reached from other machines; there is no password and no encryption here", err=True
            )
        click.echo(f"{server.address(sock)} (Ctrl-C ends it)", err=True)
        server.make_server(app, access_log=access_log, proxy=proxy).run(sockets=[sock])
        service.close()


if __name__ == "__main__":
    run(main)
