"""Counts in words, and that commands use them."""

import re
from pathlib import Path

import pytest

from common.words import are, counted, none_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "n, words, said",
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (1.0, ("epoch",), "1 epoch"),
        (1.5, ("epoch",), "1.5 epochs"),
        (12, ("real image",), "12 real images"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_counts_in_words(n, words, said):
    assert counted(n, *words) == said


def test_what_goes_with_one_and_with_several():
    assert [f"{n} {are(n)}" for n in (0, 1, 2)] == ["0 are", "1 is", "2 are"]
    said = none_of(3, "image", "can be used", "a.png: broken", "set")
    assert said == "none of the 3 images of set can be used; the first, a.png: broken"
    assert (
        none_of(1, "image", "can be used", "a.png: broken", "set")
        == "the only image of set can't be used: a.png: broken"
    )
    assert none_of(1, "video", "gives a face") == "the only video gives no face"
    assert none_of(2, "video", "gives a face") == "none of the 2 videos gives a face"


def test_no_count_is_followed_by_a_plural_in_brackets_or_made_by_hand():
    """Neither «1 image(s)» nor an s of one's own, which forgets that none takes one; nor «none of the 1 images»."""
    by_hand = re.compile(r"\} [a-z ]*[a-z]\(e?s\)|'s' \* \(|\"s\" \* \(|[\"']s[\"'] if |none of the \{(?!counted)")
    rooms = [p for p in ROOT.glob("**/*.py") if not {"tests", "benchmarks"} & set(p.relative_to(ROOT).parts)]
    rooms = [p for p in rooms if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
    assert not [p for p in rooms if by_hand.search(p.read_text(encoding="utf-8"))]
