"""Errors that are the user's to repair. Their text is one complete line, ready to be printed after `error: `."""

from __future__ import annotations

import errno

# What the person at the keyboard can put right. Other OS errors are bugs or broken hardware: they keep their traceback.
MENDABLE = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EFBIG: "the file is larger than this file system or a limit (`ulimit -f`) allows: choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EACCES: "no permission: check the owner and mode, or choose another path",
    errno.EPERM: "not permitted: check the owner and mode, or choose another path",
    errno.EROFS: "the file system is read-only: choose another path",
    errno.ENOENT: "no such file or folder: check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: check the path",
    errno.EISDIR: "it is a folder where a file is needed: check the path",
    errno.EEXIST: "it already exists and is in the way: move it or choose another path",
    errno.ENAMETOOLONG: "the name is too long for the file system: shorten it",
    errno.ELOOP: "symbolic links go round in a circle: check the path",
    errno.EMFILE: "too many open files: raise the limit with `ulimit -n`, or use fewer workers",
}

LONGEST = 2000  # characters of a message


def one_line(text: object) -> str:
    """`text` as a single printable line.

    File names may hold newlines, terminal escapes or bytes that are not UTF-8 (surrogates in a Python string); all
    of these are shown as backslash escapes, so that a message can always be printed and always stays one line.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


class Ended(KeyboardInterrupt):
    """A signal other than Ctrl-C's that asks the program to end. As after Ctrl-C, what is half done is cleaned up."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def interrupted_code(error: BaseException) -> int:
    """The exit code after Ctrl-C, 130, or after another signal, as a shell says it: 128 + its number."""
    return 128 + getattr(error, "number", 2)


class UserError(ValueError):
    """Bad input: the message names the file or parameter, what is wrong and what to do, in one line.

    A parameter stands in backticks, under its name in Python: "`batch_gpu` 3 does not divide the 8 images of a step".
    A command prints it as the flag that its user knows (`common.cli`): "--batch-gpu 3 does not …".
    """

    def __init__(self, message: str):
        # what a file says may stand in it, and a file may say a great deal
        super().__init__(one_line(message if len(message) <= LONGEST else f"{message[:LONGEST]}…"))


class BadImage(UserError):
    """One image that can't be used. `name` is the image's name as given, `reason` a short printable phrase."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = one_line(reason)

    def __reduce__(self):  # the default would call BadImage(message): worker processes send these back
        return type(self), (self.name, self.reason)


class TooSmall(BadImage):
    """An image with a side shorter than the `least` pixels asked for."""

    def __init__(self, name: str, width: int, height: int, least: int):
        super().__init__(name, f"{width}x{height} pixels: too small (at least {least} a side)")
        self._made_of = (name, width, height, least)
        self.sides = (width, height, least)

    def __reduce__(self):
        return type(self), self._made_of
