"""Errors that are the user's to repair. Their text is one complete line, ready to be printed after `error: `."""

from __future__ import annotations


def one_line(text: object) -> str:
    """`text` as a single printable line.

    File names may hold newlines, terminal escapes or bytes that are not UTF-8 (surrogates in a Python string); all
    of these are shown as backslash escapes, so that a message can always be printed and always stays one line.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


class UserError(ValueError):
    """Bad input: the message names the file or parameter, what is wrong and what to do, in one line.

    A parameter stands in backticks, under its name in Python: "`batch_gpu` 3 does not divide the 8 images of a step".
    A command prints it as the flag that its user knows (`common.cli`): "--batch-gpu 3 does not …".
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


class BadImage(UserError):
    """One image that can't be used. `name` is the image's name as given, `reason` a short printable phrase."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = one_line(reason)

    def __reduce__(self):  # the default would call BadImage(message): worker processes send these back
        return type(self), (self.name, self.reason)
