"""What commands and their dataclasses ask about sets of faces, declared once (see `common.options`). No numpy here."""

from __future__ import annotations

import functools

from common.options import option

CROPS = ("center", "none", "pad")
RESAMPLE = ("lanczos", "box", "bilinear", "bicubic", "points")
MOST_SAVES = 4  # JPEG qualities of `Preprocess.saved`
PATCH_SIZES = (32, 64, 128, 256)

DATA_ROOT = functools.partial(
    option, default=None, help="Where named sets lie.  [default: $FACES_DATA_ROOT, else ./datasets]", metavar="DIR"
)
LABELLED = functools.partial(
    option,
    default=None,
    help="Which folders, or words of a list, are real and which fake, where their names don't tell it.",
    metavar="real=A,fake=B",
)
CROP = functools.partial(option, default="center", help="How images become square.", choices=CROPS)
RESIZE_FILTER = functools.partial(option, default="lanczos", help="Kernel of resizing.", choices=RESAMPLE)
SPLIT = functools.partial(
    option, default=None, help="[default: test where there is one, else all]", choices=("train", "valid", "test", "all")
)
LABEL = functools.partial(
    option, default=None, help="What images are whose source doesn't say it.", choices=("real", "fake")
)
LIMIT = functools.partial(option, default=None, help="At most N images of a class of each --data.", metavar="N", low=1)
FACE_MODES = ("auto", "whole", "required")
FACE = functools.partial(
    option,
    default="auto",
    help="auto: find and judge every face where the detector was trained on aligned faces, else judge photos whole. "
    "whole: never look for faces. required: always look, and a photo without a face fails (exit code 2).",
    choices=FACE_MODES,
)
FACE_MODEL = functools.partial(
    option,
    default=None,
    help="YuNet's file, or haar for OpenCV's cascade.  [default: YuNet, which comes along]",
    metavar="FILE",
)
OFFLINE = functools.partial(
    option, default=False, help="Download nothing; without YuNet the Haar cascade finds the faces."
)
DATA = functools.partial(option, metavar="SOURCE")
RESOLUTION = functools.partial(option, metavar="N")
SUBSET = functools.partial(option, default=None, help="Train on N random images of each class.", metavar="N", low=2)
DEGRADATION = functools.partial(option, default="train", metavar="NAME")
MIRROR = functools.partial(option, negative=True)
FOLDS = functools.partial(option, metavar="K")
