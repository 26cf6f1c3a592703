"""Manners of every command: one-line errors with an exit code, progress bars, the choice of a device, shared options.

Light on purpose: `--help` of every script must answer at once, so torch and tqdm are imported by the functions that
need them.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from common.errors import MENDABLE, Ended, UserError, interrupted_code, one_line
from common.extras import PACKAGED, missing
from common.options import flags_of, in_flags

EXIT_ERROR = 2
ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
EXIT_PIPE = 141  # 128 + SIGPIPE, as a shell says it of a program whose reader has gone
RANK_PATIENCE = 10.0  # seconds
LOG_EVERY = 10.0  # seconds between the lines of a progress bar in a log
SETTINGS = {"show_default": True, "max_content_width": 110, "help_option_names": ["-h", "--help"]}  # of every command


def _line(text: object) -> str:
    """`text` on one printable line: line breaks and runs of blanks folded, what can't be printed escaped."""
    return one_line(" ".join(str(text).split()))


def explain(error: BaseException, flags: Mapping[str, str] | None = None) -> str | None:
    """The line a person should read for `error`, or None where it is a bug whose traceback must be kept.

    flags: parameter name -> flag of the command that ran; a parameter that a `UserError` names is shown as its flag.
    """
    if type(error) is click.BadParameter and isinstance(error.param, click.Option):
        return _line(f"{max(error.param.opts, key=len)} {error.message}")
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and error.ctx is not None:  # its message is all of --help
        names = ", ".join(error.ctx.command.list_commands(error.ctx))  # type: ignore[attr-defined]
        return _line(f"give a command: {names}; {error.ctx.command_path} --help tells more")
    if isinstance(error, click.ClickException):
        return _line(error.format_message() + _where_to_read(error))
    if isinstance(error, UserError):
        return _line(in_flags(str(error), flags or {}))
    if isinstance(error, OSError) and error.errno in MENDABLE:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _line(f"{where}{MENDABLE[error.errno]}")
    if (line := missing(error)) is not None:
        return _line(line)
    if type(error).__name__ == "OutOfMemoryError":
        return "the device ran out of memory: lower --batch or --resolution, or use --device cpu"
    return None


def _where_to_read(error: click.ClickException) -> str:
    """Behind a message that names no remedy: which --help has it; or how a file is named that looks like an option."""
    if isinstance(error, click.NoSuchOption):  # of -dash.png, click tells "-d"
        for word in sys.argv[1:]:
            if word.startswith(error.option_name) and os.path.lexists(word):
                return f" {one_line(word)} is a file's name: write ./{one_line(word)}"
    group = getattr(getattr(error, "ctx", None), "command", None)
    if isinstance(group, click.Group) and error.message.startswith("No such command"):
        names = ", ".join(group.list_commands(error.ctx))  # type: ignore[attr-defined]
        return "" if "Did you mean" in error.format_message() else f" Give one of {names}."
    unknown = isinstance(error, click.NoSuchOption) and not error.possibilities
    if (unknown or isinstance(error, click.MissingParameter)) and (ctx := getattr(error, "ctx", None)) is not None:
        return f" {ctx.command_path} --help tells {'which there are' if unknown else 'what to give'}."
    return ""


def _deaf() -> None:
    """No more Ctrl-C: a second one would only interrupt Python's own leaving, with a traceback."""
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Ctrl-C (or SIGTERM) while heavy modules are being imported ends the program at once.

    Compiled modules swallow a KeyboardInterrupt that hits them half-way, and the program would go on with the broken
    rest of numpy. Nothing has been written yet that could be lost.
    """

    def leave(number, frame) -> None:
        os.write(2, b"\ninterrupted\n" if number == signal.SIGINT else b"\nended by a signal\n")
        os._exit(128 + number)

    with _signals(leave, (signal.SIGINT, *ENDING)):
        yield


@contextlib.contextmanager
def _signals(handler: Callable, numbers: Iterable[int]) -> Iterator[None]:
    """Signals go to `handler` in here, but those that somebody has told to be ignored (nohup)."""
    before = {}
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was if was is not None else signal.SIG_DFL)


def ended_by_signals() -> contextlib.AbstractContextManager[None]:
    """In here SIGTERM and a lost terminal end the program as Ctrl-C does, by an exception (`common.errors.Ended`)."""
    return _signals(_end, ENDING)


def _end(number: int, frame) -> NoReturn:
    """An order to end, like Ctrl-C, lets half-written files be taken away and worker processes end."""
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise Ended(number)


def _leave(error: BaseException, flags: Mapping[str, str] | None = None) -> NoReturn:
    """Print the one line for `error` and exit 2 (128 + its number after a signal); re-raise what is a bug."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        atexit.register(_deaf)  # first of all that Python does at its end
        error = error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else error
        if os.environ.get("RANK", "0") == "0":
            ended = signal.Signals(error.number).name if isinstance(error, Ended) else ""
            click.echo(f"ended by {ended}" if ended else "interrupted", err=True)
        sys.exit(interrupted_code(error))
    line = explain(error, flags)
    if line is None:
        sys.excepthook = _bug
        raise error
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        # Under torchrun rank 0 tells what goes wrong on all. Its end makes torchrun end this process, too; whoever is
        # still alive after that has a trouble of its own.
        time.sleep(RANK_PATIENCE)
        line = f"process {rank}: {line}"
    if os.environ.get("FACES_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    click.echo(f"error: {line}", err=True)
    sys.exit(EXIT_ERROR)


def run(command: click.Command, argv: list[str] | None = None) -> NoReturn:
    """Run a click command as a program and exit: what a person can mend is one line `error: …` and exit code 2.

    These are `UserError`, wrong options and errors of the disk; Ctrl-C exits 130, SIGTERM 143, a lost terminal 129; a
    reader that has gone (`| head`) 141; anything else is a bug that keeps its traceback, and exits 2. 1 is left to
    findings: `detect.py` found a fake. Whatever ends it, what was half written is taken away.
    FACES_DEBUG=1, or the option --debug of every command, prints the traceback for all of them.
    An int returned by the callback, or given to `ctx.exit`, is the exit code; any other result means 0.
    """
    if argv is None:
        argv = sys.argv[1:]
    if "--debug" in argv:
        argv = [word for word in argv if word != "--debug"]
        os.environ["FACES_DEBUG"] = "1"
    threading.excepthook = _in_a_thread
    atexit.register(_last_collection)
    open_streams()
    status: object = EXIT_PIPE
    try:
        with ended_by_signals():
            status = _status(command, argv)
            sys.stdout.flush()
    except Ended as error:  # while the last words were said
        sys.exit(interrupted_code(error))
    except BrokenPipeError:
        to_nowhere()
    except OSError as error:  # of the last words: the disk that stdout goes to is full
        to_nowhere()
        _leave(error)
    sys.exit(status if isinstance(status, int) and not isinstance(status, bool) else 0)


def _last_collection() -> None:
    """None: at its end Python would look at each of PyTorch's objects once more, for most of a second. These packages
    complain, on stderr, of what is left then."""
    if not sys.modules.keys() & {"onnx", "triton"}:
        gc.freeze()


def _called() -> str | None:
    """What help calls the running command: `ganface train-gan` in the package, None (its file) in a checkout."""
    return f"ganface {Path(sys.argv[0]).stem.replace('_', '-')}" if PACKAGED else None


def open_streams() -> None:
    """Where a standard stream was closed (`>&-`), what goes there goes nowhere. Else the next file that is opened would
    take its number, and what libraries print would be written into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))


def _status(command: click.Command, argv: list[str]) -> object:
    """What the command returns or exits with. BrokenPipeError where a reader has gone; other errors end the program."""
    streams = sys.stdout, sys.stderr
    plain: dict[str, Any] = {"color": False} if os.environ.get("NO_COLOR") else {}  # https://no-color.org
    try:
        return command.main(args=argv, prog_name=_called(), standalone_mode=False, **plain)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except SystemExit:
        if (sys.stdout, sys.stderr) == streams:
            raise
        # click met a broken pipe: it wraps both streams, so that nothing more is heard of it, and exits 1
        sys.stdout, sys.stderr = streams
        raise BrokenPipeError from None
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        _leave(error, flags_of(command, argv))


def to_nowhere() -> None:
    """What is still to be written goes nowhere: Python flushes at its end, and would complain of the pipe once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # ValueError: it has no file of its own
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _bug(kind, error, trace) -> NoReturn:
    """A bug's traceback, and the exit code of what went wrong: Python's own would read «a fake found»."""
    sys.__excepthook__(kind, error, trace)
    to_nowhere()
    sys.exit(EXIT_ERROR)


def _in_a_thread(failure) -> None:
    """A thread that found the disk full (TensorBoard's, writing events) is silent: the program itself meets it, too."""
    if getattr(failure.exc_value, "errno", None) not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        threading.__excepthook__(failure)


def progress(
    items: Iterable | None = None,
    *,
    total: float | None = None,
    title: str = "",
    unit: str = "it",
    unit_scale: bool = False,
    show: bool = True,
) -> Any:
    """A tqdm bar on stderr with rate and time left: iterate over it, or call `.update(n)` and `.close()`.

    Where stderr is no terminal, a line every 10 s tells the same, from the tenth second on: what is quicker says
    nothing (with FACES_PROGRESS=1 it does). `show=False`, or the environment variable FACES_PROGRESS=0, keeps silent.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    wish = os.environ.get("FACES_PROGRESS")
    return tqdm(
        items,
        total=total,
        desc=title or None,
        unit=unit,
        unit_scale=unit_scale,
        file=sys.stderr if terminal else _LogLines(),
        disable=not show or wish == "0",
        delay=0 if terminal or wish is not None else LOG_EVERY,
        dynamic_ncols=terminal,
        ncols=None if terminal else 100,
        mininterval=0.2 if terminal else LOG_EVERY,
        smoothing=0.1,
        leave=True,
    )


class _LogLines:
    """A file for tqdm that writes each state of a bar to stderr as a line of its own, for logs."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


@contextlib.contextmanager
def progress_bar(title: str, unit: str, *, unit_scale: bool = False) -> Iterator[Callable[..., None]]:
    """A progress bar for work that counts itself: yields a function of (done so far, in all or 0, a word about it).

    It appears with the first count, so that nothing is drawn where nothing is done, and ends with the last: what is
    told after that stands below it, and work that begins anew gets another bar.
    """
    bar = None

    def report(done: int, total: int, word: str = "") -> None:
        nonlocal bar
        if bar is None:
            bar = progress(total=total or None, title=title, unit=unit, unit_scale=unit_scale)
        if word:
            bar.set_postfix_str(word, refresh=False)
        bar.update(done - bar.n)
        if total and done >= total:
            bar.close()
            bar = None

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


def next_step(text: str) -> None:
    """The last line of a command, `Next: …`: what to do with what it made. On stderr, so that stdout is for programs;
    under torchrun rank 0 says it. FACES_NEXT=0 keeps it silent, for commands that are steps of another.

    `python` in it is written as what starts this Python here: `make` and `.venv/bin/python` activate nothing; a script
    as it is started from here."""
    if os.environ.get("RANK", "0") == "0" and os.environ.get("FACES_NEXT") != "0":
        here = re.sub(COMMAND_OF_PYTHON, lambda found: f"{this_python()} {this_script(found[1] or '')}", text)
        click.echo(f"Next: {here}", err=True)


COMMAND_OF_PYTHON = r"(?<![\w/.-])python (?:(\w+\.py)\b|(?=-m \w+\.\w+))"


def this_python() -> str:
    """What is typed to start the Python that runs: `python` where the shell finds it so, else its path."""
    own, found = Path(sys.executable or "python"), shutil.which("python")
    # an environment's is a link to another's: the folder tells which one it is
    if not sys.executable or (found and Path(found).parent.samefile(own.parent) and own.samefile(found)):
        return "python"
    here = Path.cwd()
    return typed(own.relative_to(here) if own.is_relative_to(here) else own)


def this_script(name: str) -> str:
    """The script `name` of the checkout as it is typed here: with the folder in front that the running one was started
    from, where that is another than the working folder."""
    folder = Path(sys.argv[0]).parent
    there = folder / name
    return typed(there) if name and there.is_file() and not folder.samefile(Path.cwd()) else name


def typed(path: object) -> str:
    """A path as it is typed into a shell; one that begins like an option gets its folder in front. What can't be
    printed is written as bash, zsh and ksh read it between $' and '."""
    word = str(path)
    word = f"./{word}" if word.startswith("-") else word
    if one_line(word) == word:
        return shlex.quote(word)
    signs = (c if c.isprintable() else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in word)
    return "$'" + "".join("\\" + c if c in "\\'" else c for c in signs) + "'"


def download_bar(title: str = "downloading") -> contextlib.AbstractContextManager[Callable[..., None]]:
    """A progress bar for a download: a function of (bytes so far, bytes in all or 0)."""
    return progress_bar(title, "B", unit_scale=True)


def own_version(otherwise: str = "source") -> str:
    """The installed project's version; `otherwise` where it runs from a checkout that was not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ganface")
    except PackageNotFoundError:
        return otherwise
