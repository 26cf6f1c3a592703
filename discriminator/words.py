"""The verdict in plain words. Terminal, JSON, picture, page and report say these and no others. No PyTorch here.

REAL is never called that: a detector finds traces or finds none. Below the score from which REAL is no longer said, no
probability is given in words: a number near 0 would read as a certainty that nobody has of generators never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from discriminator.verdict import Verdict
from metrics.answers import EVEN

HEADLINES = {"FAKE": "looks generated", "UNSURE": "can't tell", "REAL": "no trace of a GAN found"}
COUNTS = {"FAKE": "look generated", "UNSURE": "can't be told", "REAL": "without a trace of a GAN",
          "NO FACE": "without a face", "UNREADABLE": "unreadable"}  # fmt: skip
NO_FACE, UNREADABLE = "no face found", "could not be read"
LIMITS = (
    "A verdict is a statistical judgement, never a proof. Do not decide about people by it.",
    "«No trace of a GAN found» does not mean that a photo is genuine: a generator that the detector does not know may"
    " leave traces that it does not see.",
    "Edited photos, face swaps and pictures of diffusion models are other problems; it may well find nothing in them.",
    "The rate of false alarms holds for photos like those it was measured on. Of other photos more may be accused.",
)
MOST_SURE = 0.99  # scores above it are all told alike
REASONS = {
    "high": "more likely generated than not, but below the score from which this detector says so",
    "low": "some fakes score as low as this, and some photos as high",
}
SAYS = {
    "UNSURE": "Can't tell: {reason}.",
    "REAL": "Nothing was found that this detector knows. It may still come from a generator that the detector does not"
    " know.",
    "FAKE": "Its score is {score}; this detector says so from {threshold} on, {share}",
    "own": "a threshold of your own: how many photos reach it was not measured.",
    "measured": "which {percent} % of {photos} validation photos reached, too.",
}
SCORES = {"below": "<{low}", "above": ">{most}"}
PHOTO = {
    "one": "the face", "of": "{k} of {n} faces", "looks": "{which} looks generated", "look": "{which} look generated",
    "unsure": "can't tell for {which}", "other": ", no trace of a GAN found in the other",
    "others": ", no trace of a GAN found in the others", "real": "no trace of a GAN found in {n} faces",
}  # fmt: skip


@dataclass(frozen=True)
class PhotoVerdict:
    """One answer for a photo of several faces. verdict: FAKE if any face is, else UNSURE if any is, else REAL."""

    verdict: str
    headline: str
    faces: int
    fake: int
    unsure: int
    real: int

    def to_dict(self) -> dict:
        return asdict(self)


def headline(verdict: Verdict | None, *, no_face: bool = False) -> str:
    """What is said first. Without a verdict: that no face was found, or that the file could not be read."""
    if verdict is None:
        return NO_FACE if no_face else UNREADABLE
    return HEADLINES[verdict.label]


def reason(verdict: Verdict) -> str:
    """Why UNSURE is said, "" for another verdict."""
    if verdict.label != "UNSURE":
        return ""
    if why := verdict.doubt or verdict.contradiction:
        return why
    return REASONS["high" if verdict.probability >= EVEN else "low"]


def says(verdict: Verdict) -> str:
    """The headline's meaning in a sentence or two."""
    if verdict.label != "FAKE":
        return SAYS[verdict.label].format(reason=reason(verdict))
    share = SAYS["own"]
    if verdict.fpr is not None:
        share = SAYS["measured"].format(percent=f"{100 * verdict.fpr:.2g}", photos=verdict.n_real)
    return SAYS["FAKE"].format(score=score(verdict), threshold=f"{verdict.threshold:.2g}", share=share)


def score(verdict: Verdict) -> str:
    """The probability of «generated», as far as it can be told: only that it is low where it is."""
    return score_of(verdict.probability, verdict.unsure_low)


def score_of(probability: float, low: float) -> str:
    """`score` of a number; low: the score from which REAL is no longer said."""
    if probability < low:
        return SCORES["below"].format(low=f"{low:.2g}")
    return SCORES["above"].format(most=f"{MOST_SURE:g}") if probability > MOST_SURE else f"{probability:.2f}"


def counted(n: int, kind: str) -> str:
    """How many have an answer of `COUNTS`: "1 looks generated"."""
    return f"{n} {HEADLINES[kind] if (kind, n) == ('FAKE', 1) else COUNTS[kind]}"


def quoted(label: str) -> str:
    """The headline of FAKE, UNSURE or REAL, as it stands in a sentence."""
    return f"«{HEADLINES[label]}»"


def of_photo(labels: Sequence[str]) -> PhotoVerdict:
    """The one answer for the verdicts on a photo's faces, at least one."""
    fake, unsure, real = (sum(label == word for label in labels) for word in ("FAKE", "UNSURE", "REAL"))
    n = len(labels)
    which = PHOTO["of"].format(k=fake or unsure, n=n) if n > 1 else PHOTO["one"]
    if fake:
        text = PHOTO["looks" if fake == 1 else "look"].format(which=which)
        return PhotoVerdict("FAKE", text, n, fake, unsure, real)
    if unsure:
        text = PHOTO["unsure"].format(which=which)
        if real:
            text += PHOTO["others" if real > 1 else "other"]
        return PhotoVerdict("UNSURE", text, n, fake, unsure, real)
    return PhotoVerdict("REAL", PHOTO["real"].format(n=n) if n > 1 else HEADLINES["REAL"], n, 0, 0, real)


def told() -> dict:
    """All of these words for a page that says them by itself at another threshold; plain JSON types."""
    return {
        "headlines": HEADLINES, "no_face": NO_FACE, "unreadable": UNREADABLE, "reasons": REASONS, "says": SAYS,
        "scores": SCORES, "photo": PHOTO, "most_sure": MOST_SURE, "even": EVEN,
    }  # fmt: skip


def worst_first(verdicts: Sequence[Verdict | None]) -> list[int]:
    """The order in which people read them: FAKE, UNSURE, REAL, none; the higher score first."""
    rank = {label: k for k, label in enumerate(HEADLINES)}

    def key(i: int) -> tuple[int, float, int]:
        verdict = verdicts[i]
        return (len(rank), 0.0, i) if verdict is None else (rank[verdict.label], -verdict.probability, i)

    return sorted(range(len(verdicts)), key=key)
