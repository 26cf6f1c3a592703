"""What names of folders say about the images in them: label, split, order, and which folder is a copy of another.

A path is judged by its folders below the source's root, at any depth; the folder nearest to the file decides. A name is
read word by word ("AI-Generated Images": ai, generated, images), and known where every word is: one that tells a label
or a split, or one that tells nothing ("images", "set"). So `real_faces`, `Fake Images` and `1_fake` are known without a
list of all combinations, and `surreal`, `real_and_fake` or `not_real` are not.
"""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from common.errors import UserError
from common.tables import windows_text

REAL, FAKE = 0, 1
LABELS = {"real": REAL, "fake": FAKE}  # how a person says a label; folders know more words, see `label_word`
LABEL_NAMES = ("real", "fake")

# Words that tell a label wherever they stand.
SURE = {
    **dict.fromkeys("real reals genuine authentic pristine bonafide bona fide".split(), REAL),
    **dict.fromkeys(
        "fake fakes deepfake deepfakes synthetic synthesis synthesized synthesised generated manipulated manipulation"
        " manipulations forged forgery forgeries tampered counterfeit spoof altered face2face faceswap faceswaps"
        " faceshifter neuraltextures deepfakedetection".split(),
        FAKE,
    ),
}
# Words of many meanings: they tell a label only where the other one lies beside them (`nature` beside `ai`).
UNSURE = {
    **dict.fromkeys("original originals nature natural youtube human live".split(), REAL),
    **dict.fromkeys(
        "ai gan gans stylegan stylegan2 stylegan3 diffusion artificial swapped swap edited morph morphed"
        " morphs attack attacks".split(),
        FAKE,
    ),
}
NUMBERS = {"0": REAL, "1": FAKE}  # the same, and only where no other number lies beside them
SPLITS = {
    **dict.fromkeys("train training trainset traindata".split(), "train"),
    **dict.fromkeys("valid validation val dev devel development valset devset validset".split(), "valid"),
    **dict.fromkeys("test testing testset eval evaluation testdata".split(), "test"),
}
# Words that may stand beside the others and tell nothing, as may any number.
PLAIN = frozenset(
    "a of the face faces image images img imgs photo photos picture pictures pic pics portrait portraits video"
    " videos frame frames sequence sequences sample samples example examples data dataset datasets set sets class label"
    " labels folder people person persons crop crops cropped aligned celeb public private".split()
)
NUMBERED = frozenset(
    "label labels class classes target y".split()
)  # before 0 and 1 these tell as much as they do alone
PIECES = frozenset("part parts batch chunk shard piece section volume vol dir folder group subset".split())
# Kaggle's copy of the Yonsei set carries itself a second time: (folder of the copy, the original beside it).
COPIES = (("real_and_fake_face_detection", "real_and_fake_face"),)
# Folders that systems make beside or of people's own.
SYSTEM = frozenset(("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"))
# Photoshopped faces of Yonsei University: difficulty, a number of its own, and which parts were replaced (left eye,
# right eye, nose, mouth; one name lacks a digit). Nothing in such a name says whose photo it was.
COMPOSITE = re.compile(r"(easy|mid|hard)_[0-9]+_[01]{3,4}\.\w+")

_CLASSES = ("auto", "none", "classes", "real-fake")  # what `labels` of `pack` took once
_DIGITS = re.compile(r"[0-9]+")
_BETWEEN = re.compile(r"[\W_]+")
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a relative path or zip member name ("..", "." and drive-like oddities are plain names here)."""
    return tuple(part for part in path.replace("\\", "/").split("/") if part)


@functools.lru_cache(65536)
def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: "AI-Generated Images" gives ("ai", "generated", "images"), "FakeFaces2"
    ("fake", "faces", "2"); a word that is known ("stylegan2", "FaceSwap") stays whole."""
    found: list[str] = []
    for word in _BETWEEN.split(unicodedata.normalize("NFKC", name)):
        low = word.casefold()
        found += [low] if _is_known(low) else [part.casefold() for part in _HUMPS.split(word) if part]
    return tuple(found)


def _is_known(word: str) -> bool:
    return word in SURE or word in UNSURE or word in SPLITS or word in PLAIN


def sounds_fake(name: str) -> bool:
    """Whether one of a name's words means fakes, whatever stands beside it."""
    return any(SURE.get(word, UNSURE.get(word)) == FAKE for word in words_of(name))


@functools.lru_cache(65536)
def _told(name: str) -> tuple[int | None, int | None, str | None]:
    """(sure label, unsure label, split) that a name tells; three times None where one of its words is unknown."""
    words = words_of(name)
    nothing = (None, None, None)
    if not all(_is_known(word) or word.isdecimal() for word in words):
        return nothing
    sure = {SURE[word] for word in words if word in SURE}
    unsure = {UNSURE[word] for word in words if word in UNSURE}
    splits = {SPLITS[word] for word in words if word in SPLITS}
    if (number := _number_of(words)) in NUMBERS:
        unsure = {NUMBERS[number]}
    if len(sure | unsure) > 1 or len(splits) > 1:
        return nothing
    label = next(iter(sure), None)
    return label, None if sure else next(iter(unsure), None), next(iter(splits), None)


def _number_of(words: Sequence[str]) -> str | None:
    """The number that a name is ("1", "label_1", "class1")."""
    *before, last = words or ("",)
    return last if last.isdecimal() and NUMBERED.issuperset(before) else None


def label_word(name: str, *, alone: bool = False) -> int | None:
    """0 (real), 1 (fake) or None: what a name tells by itself. alone: of a cell that holds a label and nothing else, so
    that "0", "1", "original" or "ai" are known, too."""
    sure, unsure, _ = _told(name)
    return unsure if sure is None and alone else sure


def split_word(name: str) -> str | None:
    """ "train", "valid", "test" or None: what a name tells that says nothing of labels."""
    sure, unsure, split = _told(name)
    return split if sure is None and unsure is None else None


def label_of(folders: Sequence[str]) -> int | None:
    """0 (real), 1 (fake) or None by the nearest folder whose name tells a label by itself."""
    return next((label for f in reversed(folders) if (label := label_word(f)) is not None), None)


def split_of(folders: Sequence[str]) -> str | None:
    """ "train", "valid", "test" or None by the nearest folder that names a split."""
    return next((split for f in reversed(folders) if (split := split_word(f)) is not None), None)


@dataclass(frozen=True)
class LabelRule:
    """What a person says of labels, "real=A,fake=B": `words` maps a folder's name (its path, if it has slashes), or
    what stands in a list's column of labels, to 0 (real) or 1 (fake). Names are compared without regard to case."""

    text: str
    words: Mapping[tuple[str, ...], int]

    @staticmethod
    def parse(text: str | None) -> LabelRule | None:
        """None of None. Raises UserError."""
        if text is None:
            return None
        words: dict[tuple[str, ...], int] = {}
        for part in _rules(text):
            side, equals, name = part.partition("=")
            label, key = LABELS.get(side.strip().lower()), _key(name)
            if not equals or label is None or not key:
                raise UserError(
                    f"`labels` {text}: {part!r} is not real=NAME or fake=NAME; write real=A,fake=B with the names of"
                    " folders, or with what a list's column of labels holds"
                    + (" (what dataset.json gets is said with `classes`)" if text in _CLASSES else "")
                )
            if words.setdefault(key, label) != label:
                raise UserError(f"`labels` {text}: {name.strip()} is called real and fake; give it one label")
        if not words:
            raise UserError(f"`labels` {text}: says nothing; write real=A,fake=B")
        return LabelRule(text, words)

    def cell(self, text: str) -> int | None:
        """The label of what a list says of an image; 1.0 is 1. None: not named."""
        found = self.words.get(_key(text))
        return found if found is not None else self.words.get(_key(text.removesuffix(".0")))

    def name(self, key: tuple[str, ...]) -> str:
        """A key as a person wrote it, nearly."""
        return "/".join(key)


def labels_as(*said: tuple[str, str]) -> str:
    """`labels` as it is typed into a shell: `labels_as(("real", "my photos"), ("fake", "b"))`."""
    return f"`labels` {shlex.quote(','.join(f'{label}={windows_text(name)}' for label, name in said))}"


def _rules(text: str) -> list[str]:
    """The parts of "real=A,fake=B". What follows a comma without an equals sign belongs to the name before it."""
    parts: list[str] = []
    for piece in text.split(","):
        if parts and "=" in parts[-1] and piece.strip() and "=" not in piece:
            parts[-1] += f",{piece}"
        elif piece.strip():
            parts.append(piece)
    return [part.strip() for part in parts]


def _key(name: str) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in parts_of(windows_text(name).strip()))


@dataclass(frozen=True)
class FolderNames:
    """What the folders of one source mean, once all of them are known: see `read`.

    unsure: the names of many meanings that tell a label here, in lower case. joined: whether names like `train_real`
    tell a split, too (they do where there is more than one of these). rule: what a person said of labels; no other name
    then tells one. by_file: labels are in the names of the files, not of folders."""

    unsure: Mapping[str, int] = field(default_factory=dict)
    joined: bool = False
    rule: LabelRule | None = None
    by_file: bool = False

    @staticmethod
    def read(folders: Iterable[tuple[str, ...]], rule: LabelRule | None = None, *, numbers: bool = True) -> FolderNames:
        """folders: those of each image, from the root down, repeats allowed. numbers: whether `0` and `1` side by side
        are labels, not classes."""
        all_of_them = set(folders)
        children: dict[tuple[str, ...], set[str]] = {}
        for path in all_of_them:
            for i, name in enumerate(path):
                children.setdefault(path[:i], set()).add(name)
        joined = {split for names in children.values() for name in names if (split := _told(name)[2])
                  if split_word(name) is None}  # fmt: skip
        unsure: dict[str, int] = {}
        for parent, names in children.items():
            if rule is None and label_of(parent) is None:
                unsure |= _paired(names, numbers)
        return FolderNames(unsure, len(joined) > 1, rule)

    def label(self, folders: Sequence[str]) -> int | None:
        """0 (real), 1 (fake) or None: by the nearest folder that tells a label; a sure name goes before an unsure."""
        if self.rule is not None:
            keys = _key("/".join(folders))
            ends = [(end, len(key), label) for key, label in self.rule.words.items() if (end := _end(keys, key))]
            return max(ends)[2] if ends else None
        sure = label_of(folders)
        if sure is not None or not self.unsure:
            return sure
        return next((self.unsure[low] for f in reversed(folders) if (low := f.casefold()) in self.unsure), None)

    def split(self, folders: Sequence[str]) -> str | None:
        """ "train", "valid", "test" or None."""
        if not self.joined:
            return split_of(folders)
        return next((split for f in reversed(folders) if (split := _told(f)[2])), None)

    def tells(self, folder: str) -> bool:
        """Whether a folder's name says a label or a split, so that it is no class, no source, no person."""
        return self.label((folder,)) is not None or self.split((folder,)) is not None

    def strangers(self, folders: Iterable[tuple[str, ...]]) -> list[str]:
        """The names, in natural order, of the folders that part a source's images where nothing else does: those of one
        level, neither labels nor splits, below what all have in common; "" for images that lie in none. Names that
        differ in their digits alone (00000, 00001; part1, part2) are one folder in pieces, and part nothing."""
        names = self._parting(folders)
        return names if len({_DIGITS.sub("0", name) for name in names}) > 1 else []

    def pieces(self, folders: Iterable[tuple[str, ...]]) -> list[str]:
        """The folders that were taken for one in pieces by their digits alone (`strangers`), where their names do not
        say so themselves (part1, 00000)."""
        names = self._parting(folders)
        words = {word for name in names for word in words_of(name) if not word.isdecimal()}
        known = words <= PIECES | PLAIN if words else all(len(name) > 4 for name in names)
        return names if len(names) > 1 and not known and not self.strangers(folders) else []

    def _parting(self, folders: Iterable[tuple[str, ...]]) -> list[str]:
        """The names of one level, in natural order, in which folders that tell nothing first differ."""
        bare = {tuple(f for f in path if not self.tells(f)) for path in folders}
        common = 0
        while bare and all(len(path) > common for path in bare) and len({path[common] for path in bare}) == 1:
            common += 1
        return sorted({path[common] if len(path) > common else "" for path in bare}, key=natural_key)


def _paired(names: set[str], numbers: bool) -> dict[str, int]:
    """The unsure names among siblings that tell a label because the other label lies beside them."""
    told = {name: _told(name) for name in names}
    sure = {label for label, _, _ in told.values() if label is not None}
    digits = {name: number for name in names if (number := _number_of(words_of(name))) is not None}
    count = numbers and sorted(digits.values()) == ["0", "1"] and not sure
    unsure = {
        name.casefold(): label for name, (_, label, _) in told.items()
        if label is not None and label not in sure and (count if name in digits else not count)
    }  # fmt: skip
    found = sure | set(unsure.values())
    return unsure if len(found) == 2 else {}


def _end(keys: tuple[str, ...], key: tuple[str, ...]) -> int:
    """Where the last run of `key` in `keys` ends; 0: nowhere."""
    size = len(key)
    return next((end for end in range(len(keys), size - 1, -1) if keys[end - size : end] == key), 0)


@dataclass(frozen=True)
class Reading:
    """How the labels and splits of a source are read (`faces.source.open_source`).

    labels: what a person says of them, "real=A,fake=B" (`LabelRule`). classes: sub-folders are classes, so that two
    unknown ones, or `0` and `1`, are no question of real or fake. unsplit: images of no split are kept beside splits.
    ask: two folders of unknown names are refused, for one of them may be the fakes. otherwise: what a person said that
    images are of which nothing else tells it."""

    labels: str | None = None
    classes: bool = False
    unsplit: bool = False
    ask: bool = True
    otherwise: int | None = None


AS_NAMED = Reading()  # by the folders' names alone


def is_hidden(parts: Sequence[str]) -> bool:
    """Whether a path is a system's own file (".DS_Store", "__MACOSX/._a.jpg", ".ipynb_checkpoints/…", a thumbnail in a
    Synology's "@eaDir", what was thrown away).

    "." and ".." are no hidden names: an archive with them is odd, its images are not."""
    return any((part[0] == "." and part not in (".", "..")) or part.casefold() in SYSTEM for part in parts)


def natural_key(path: str) -> tuple[str, str]:
    """Sort key: numbers by value ("img2" before "img10"), the rest by code point, folder by folder, on every locale."""
    return _DIGITS.sub(_by_value, "\0".join(parts_of(path))), path


def _by_value(digits: re.Match) -> str:
    # Length first, then the digits, orders numbers as strings: no int(), which refuses absurdly long ones.
    number = digits[0].lstrip("0")
    return f"\2{len(number):06d}{number}"


def without_copies(paths: Sequence[str]) -> list[bool]:
    """For every path, whether to keep it: False where a set is known to carry a second copy of the same images."""
    split = [parts_of(path) for path in paths]
    lower = [tuple(part.lower() for part in parts[:-1]) for parts in split]
    present = {folders[: i + 1] for folders in set(lower) for i in range(len(folders))}

    def is_copy(folders: tuple[str, ...]) -> bool:
        pairs = enumerate(itertools.pairwise(folders))
        return any(pair in COPIES and (*folders[:at], pair[1]) in present for at, pair in pairs)

    verdict = {folders: not is_copy(folders) for folders in set(lower)}
    return [verdict[folders] for folders in lower]
