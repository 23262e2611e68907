"""Shortcuts among the concepts of an explain run, also as pictures tell that show them already."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import diffexplain as dx
from diffexplain.api.shortcuts import explained, shortcuts
from diffexplain.classifiers import load_classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.errors import InputError
from diffexplain.judges import load_segmenter
from diffexplain.report.finished import Finished
from diffexplain.spurious import Object, SpuriousOptions
from diffexplain.targets import choose_target
from diffexplain.worlds import avatars as world

BLUE = "background/colour/blue"
COLOURS = {f"background/colour/{c}" for c in ("blue", "green", "yellow", "pink", "grey")}
HOLDERS = 8


def colours() -> Corpus:
    return load_corpus("avatars").restrict(["background/colour"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What colours of the background do to "hired", which was taught blue; that is behind eight of twelve."""
    other = [a for a in world.sample(80, 560_000) if not world.present(a, BLUE)][:12]
    people = [world.do(a, BLUE) if i < HOLDERS else a for i, a in enumerate(other)]
    folder = tmp_path_factory.mktemp("colours") / "run"
    dx.explain(
        "pocket:hired", world.render(people, 64), target="hired", corpus=colours(), editor="pocket-turbo",
        method="exhaustive", joint_steps=1, directions=("add",), out=folder,
    )  # fmt: skip
    return folder


def test_pictures_that_show_it_already_tell_of_a_shortcut_too(run: Path) -> None:
    model = load_classifier("pocket:hired")
    segmenter = load_segmenter("pocket")
    assert segmenter is not None
    aim = choose_target(model, "hired")
    told = explained(run, model, aim, "background")
    assert told is not None
    thing = Object("a blazer", "a person with a blazer", segmenter)
    found = {s.concept: s for s in shortcuts(told, aim, thing, SpuriousOptions(), colours())}
    blue = found[BLUE]
    assert blue.why == "said not to matter"
    assert blue.effect > 1
    assert blue.back > 1
    assert blue.in_all is not None
    assert min(blue.effect, blue.back) <= blue.in_all.value <= max(blue.effect, blue.back)
    assert blue.in_all.low < blue.in_all.value < blue.in_all.high
    rows = [r for r in Finished.read(run).effects if r.eligible and r.stage == "report"]
    had = {r.image for r in rows if r.concept in COLOURS} - {r.image for r in rows if r.concept == BLUE}
    assert len(had) == HOLDERS
    unknown = list(
        shortcuts(told, aim, thing, SpuriousOptions(), None)
    )  # the run's corpus is not a bundled one
    assert all(math.isnan(s.back) and s.in_all is None for s in unknown)
    assert BLUE in {s.concept for s in unknown}


def test_a_run_of_something_else_is_refused(run: Path) -> None:
    model = load_classifier("pocket:bearded")
    with pytest.raises(InputError, match="give a run of the same classifier and target"):
        explained(run, model, choose_target(model, "bearded"), ())
    hired = load_classifier("pocket:hired")
    with pytest.raises(InputError, match="no concept of the run has that name"):
        explained(run, hired, choose_target(hired, "hired"), "hats")
