"""Errors are one line and an exit code; bugs keep their traceback; nothing heavy is imported early."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from common import cli
from common.device import pick_device
from common.errors import BadImage, UserError

ROOT = Path(__file__).resolve().parents[2]


def raiser(error):
    @click.command()
    @click.option("--n", type=int, default=0)
    def command(n):
        raise error

    return command


def leave(command, argv=(), capsys=None):
    with pytest.raises(SystemExit) as left:
        cli.run(command, list(argv))
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, words",
    [
        (UserError("--data x: not there: check the path"), 2, "error: --data x: not there: check the path\n"),
        (BadImage("a\nb.png", "cut off"), 2, "error: a\\nb.png: cut off\n"),
        (OSError(errno.ENOSPC, "No space left", "/full/f"), 2, "error: /full/f: the disk is full"),
        (PermissionError(errno.EACCES, "denied", "/ro"), 2, "error: /ro: no permission"),
        (OSError(errno.EROFS, "ro", "/cd"), 2, "read-only"),
        (FileNotFoundError(errno.ENOENT, "none", "gone.png"), 2, "error: gone.png: no such file"),
        (click.BadParameter("is not a number"), 2, "error: Invalid value: is not a number\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
    ],
)
def test_run_tells_it_in_one_line(error, code, words, capsys, monkeypatch):
    monkeypatch.delenv("FACES_DEBUG", raising=False)
    status, told = leave(raiser(error), (), capsys)
    assert status == code and words in told
    assert told.strip().count("\n") == 0 and "Traceback" not in told


def test_under_torchrun_rank_0_speaks_first(capsys, monkeypatch):
    slept = []
    monkeypatch.setattr("common.cli.time.sleep", slept.append)
    monkeypatch.setenv("RANK", "0")
    assert leave(raiser(UserError("--batch 3: odd")), (), capsys) == (2, "error: --batch 3: odd\n") and not slept
    monkeypatch.setenv("RANK", "1")
    assert leave(raiser(UserError("no memory")), (), capsys) == (2, "error: process 1: no memory\n")
    assert slept == [10.0]


@pytest.mark.parametrize("argv", [["--n", "many"], ["--nope"], ["extra"]])
def test_wrong_options_are_one_line(argv, capsys):
    status, told = leave(raiser(RuntimeError()), argv, capsys)
    assert status == 2 and told.startswith("error: ") and told.count("\n") == 1


def test_a_command_that_is_missing_is_one_line_with_those_there_are(capsys):
    """click's own message is the whole help, which folded onto one line nobody reads."""
    group = click.Group("tool", {name: click.Command(name) for name in ("audit", "split")})
    status, told = leave(group, (), capsys)
    assert status == 2 and told.startswith("error: give a command: audit, split; ") and told.count("\n") == 1
    assert "--help" in told and "Usage" not in told


def test_a_command_that_is_not_there_is_told_which_are(capsys):
    group = click.Group("tool", {name: click.Command(name) for name in ("audit", "split")})
    status, told = leave(group, ("fid",), capsys)
    assert (status, told) == (2, "error: No such command 'fid'. Give one of audit, split.\n")


def test_a_file_that_looks_like_an_option_is_told_how_to_be_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "-dash.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tool", "-dash.png"])
    tool = click.Command("tool", params=[click.Argument(["files"], nargs=-1)])
    assert leave(tool, ["-dash.png"], capsys) == (
        2, "error: No such option '-d'. -dash.png is a file's name: write ./-dash.png\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], r"Missing option '--n'\..* --help tells what to give\."),
        (["--qwertz"], r"No such option '--qwertz'\..* --help tells which there are\."),
        (["--nn", "1"], r"No such option '--nn'\. Did you mean '--n'\?"),
    ],
)
def test_an_option_that_lacks_or_is_not_there_says_where_to_read(argv, words, capsys):
    tool = click.Command("tool", params=[click.Option(["--n"], required=True)])
    status, told = leave(tool, argv, capsys)
    assert status == 2 and re.fullmatch(f"error: {words}\n", told), told


def test_value_errors_of_ours_are_told_those_of_others_are_bugs(capsys, monkeypatch):
    import numpy as np

    from stylegan2_ada.config import preset

    monkeypatch.delenv("FACES_DEBUG", raising=False)

    @click.command()
    def ours():
        preset("auto", 100)  # not a power of two: the library's own UserError

    status, told = leave(ours, (), capsys)
    assert status == 2 and "100" in told and told.count("\n") == 1

    @click.command()
    def bug():
        np.zeros(3) + np.zeros(4)

    with pytest.raises(ValueError, match="broadcast"):
        cli.run(bug, [])
    for error in (RuntimeError("bug"), OSError(errno.EIO, "broken disk"), KeyError("bug")):
        with pytest.raises(type(error)):
            cli.run(raiser(error), [])


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("FACES_DEBUG", "0")
    status, told = leave(raiser(UserError("bad")), ["--debug"], capsys)
    assert status == 2 and "Traceback" in told and told.endswith("error: bad\n")


def test_exit_codes(capsys):
    for wanted in (0, 1, 3):

        @click.command()
        @click.pass_context
        def by_exit(ctx, wanted=wanted):
            ctx.exit(wanted)

        @click.command()
        def by_return(wanted=wanted):
            return wanted

        assert leave(by_exit, (), capsys)[0] == wanted
        assert leave(by_return, (), capsys)[0] == wanted


def test_out_of_memory_is_told():
    class OutOfMemoryError(RuntimeError):
        pass

    assert "--batch" in cli.explain(OutOfMemoryError("CUDA out of memory"))


def test_progress_is_silent_without_a_terminal(capsys, monkeypatch):
    monkeypatch.delenv("FACES_PROGRESS", raising=False)

    def told(**how) -> str:
        with cli.progress(total=3, title="x", **how) as bar:
            bar.update(3)
        return capsys.readouterr().err

    assert list(cli.progress([1, 2, 3], title="x")) == [1, 2, 3] and told() == ""
    monkeypatch.setenv("FACES_PROGRESS", "1")
    assert "3/3" in told() and told(show=False) == ""


def test_long_work_without_a_terminal_tells_in_lines_how_long_it_takes(capsys, monkeypatch):
    monkeypatch.delenv("FACES_PROGRESS", raising=False)
    monkeypatch.setattr(cli, "LOG_EVERY", 0.2)
    with cli.progress_bar("rendering", "frame") as report:
        for done in range(1, 7):
            time.sleep(0.1)
            report(done, 6)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 6 and all(line.startswith("rendering") and "frame/s" in line for line in lines)
    assert re.search(r"\b[1-5]/6 \[\d\d:\d\d<\d\d:\d\d,", lines[0]) and "6/6" in lines[-1]  # time spent < time left


def test_next_step_is_one_line_on_stderr_of_the_first_process(capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    cli.next_step(f"open {cli.typed('a folder/x.html')}")
    monkeypatch.setenv("RANK", "1")
    cli.next_step("nothing")
    assert capsys.readouterr() == ("", "Next: open 'a folder/x.html'\n")
    assert cli.typed("-rf.jpg") == "./-rf.jpg" and cli.typed("a-b") == "a-b"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    "name", ["new\nline", "bad\udcff.jpg", "it's\ta $HOME", "\x1b[31m", "b\\n\n", "emo😀ji", "-\n"]
)
def test_whatever_a_file_is_called_can_be_typed(name):
    """«'new\\nline'» is another file."""
    said = cli.typed(name)
    assert said.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {said}"], capture_output=True, check=True)
    assert os.fsdecode(done.stdout).removeprefix("./") == name


def test_pick_device(monkeypatch):
    import torch

    assert pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    for wish, words in (
        ("cuda", "no CUDA"),
        ("cuda:0", "no CUDA"),
        ("tpu", "unknown"),
        ("cuda:x", "unknown"),
        ("mps", "Apple"),
    ):
        with pytest.raises(UserError, match=words):
            pick_device(wish)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto").type == "cuda" and pick_device("cuda:1").index == 1
    with pytest.raises(UserError, match="only 2"):
        pick_device("cuda:2")


def test_nothing_heavy_at_import():
    code = (
        "import sys; import common.cli, reports.page, reports.gan_run;"
        "print([m for m in ('torch', 'matplotlib', 'tqdm', 'cv2', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


PIPED = """
import sys, click, common.cli as cli
@click.command()
def command():
    {body}
cli.run(command, sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("body", "argv", "code"),
    [
        ("[click.echo(i) for i in range(200000)]", [], 141),
        ("[print(i) for i in range(200000)]", [], 141),
        ("pass", ["--help"], 141),
        ("raise cli.UserError('what nobody hears any more')", [], 141),
        ("print('in the buffer'); return 1", [], 1),  # the true code, since it is known: a fake was found
        ("print('in the buffer'); return 0", [], 0),
        ("raise RuntimeError('a bug')", [], 2),
        ("import time; sys.exit(5)", [], 5),
    ],
)
def test_one_is_never_said_of_a_reader_that_has_gone(body, argv, code):
    """Both streams go into a pipe that nobody reads, as `2>&1 | head` leaves it."""
    read, write = os.pipe()
    os.close(read)
    call = [sys.executable, "-c", PIPED.format(body=body), *argv]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(call, cwd=ROOT, stdout=write, stderr=write, env=buffered)
    os.close(write)
    assert done.returncode == code


def test_a_bug_keeps_its_traceback_and_exits_2():
    call = [sys.executable, "-c", PIPED.format(body="1 / 0")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "ZeroDivisionError" in done.stderr and "Traceback" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_told():
    with open("/dev/full", "w") as full:
        call = [sys.executable, "-c", PIPED.format(body="print(1)")]
        done = subprocess.run(call, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: the disk is full") and done.stderr.count("\n") == 1


def test_a_closed_pipe_is_quiet():
    body = "[click.echo(i) for i in range(200000)]"
    with subprocess.Popen(
        [sys.executable, "-c", PIPED.format(body=body)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout.readline() == b"0\n"
        program.stdout.close()
        assert program.stderr.read() == b"" and program.wait() == 141


IMPORTING = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from common import cli
with cli.importing():
    if sys.argv[2] == "inside":
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:  # as compiled modules do
            print("swallowed")
print("still here", flush=True)
import click
@click.command()
def command():
    os.kill(os.getpid(), signal.SIGINT)
import atexit, weakref
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))  # a second Ctrl-C while Python leaves
cli.run(command, [])
"""


@pytest.mark.parametrize("where, out", [("inside", ""), ("after", "still here\n")])
def test_ctrl_c_during_imports_and_after_them(where, out):
    done = subprocess.run([sys.executable, "-c", IMPORTING, str(ROOT), where], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, out, "\ninterrupted\n")


ENDED = """
import signal, sys, time; from pathlib import Path
import click, common.cli as cli; from common.files import written_whole
if sys.argv[2:] == ["nohup"]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
@click.command()
def command():
    with written_whole(Path(sys.argv[1]) / "half") as tmp:
        tmp.write_text("half")
        print("writing", flush=True)
        time.sleep(3 if sys.argv[2:] else 100)
cli.run(command, [])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(
    ("name", "argv", "code", "told"),
    [
        ("SIGTERM", [], 143, "ended by SIGTERM"),
        ("SIGHUP", [], 129, "ended by SIGHUP"),
        ("SIGINT", [], 130, "interrupted"),
        ("SIGHUP", ["nohup"], 0, ""),
    ],
)
def test_signals_have_one_meaning_and_leave_nothing_half_written(tmp_path, name, argv, code, told):
    call = [sys.executable, "-c", ENDED, str(tmp_path), *argv]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "writing\n"
        program.send_signal(getattr(signal, name))
        assert program.stderr.read().strip() == told
        assert program.wait(timeout=60) == code
    assert os.listdir(tmp_path) == (["half"] if argv else [])


CLOSED = """
import os, sys
import click, common.cli as cli
@click.command()
def command():
    file = open(sys.argv[1], "w")
    os.write(1, b"what a library prints")
    os.write(2, b"what a library prints")
    click.echo("said"); print("said"); click.echo("said", err=True); sys.stderr.write("said")
    with cli.progress(total=2) as bar:
        bar.update(2)
    file.write("mine")
    file.close()
    if len(sys.argv) > 2:
        raise cli.UserError("wrong")
    return 3
cli.run(command, [])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell's closing")
@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("argv", "code"), [([], 3), (["wrong"], 2)])
def test_a_closed_stream_is_no_file_for_what_is_printed(tmp_path, closing, argv, code):
    file = tmp_path / "file"
    call = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", CLOSED, str(file), *argv]
    assert subprocess.run(call, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == code
    assert file.read_text() == "mine"
