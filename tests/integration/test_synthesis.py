"""`synthesize` and `units` as a user has them: a run, its page, a stop and a resume, and what goes wrong."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from diffexplain.api import foresee_synthesis
from diffexplain.api.synthesis import Synthesis, list_units, synthesize
from diffexplain.cli import app
from diffexplain.corpus import load_corpus
from diffexplain.demonstration import portraits
from diffexplain.errors import InputError
from diffexplain.records import SynthesisResult
from diffexplain.store import read_result, read_rows
from diffexplain.synthesis.openings import most_drawn
from diffexplain.synthesis.options import SynthesisOptions
from tests.unit.mining.chat_server import completion, pictures_in, question, serving

OPTIONS = {
    "steps": 2, "restarts": 2, "seeds": 1, "pool": 2, "tokens": 1,
    "cutouts": 0, "candidates": 2,
}  # fmt: skip
UNIT = "global_pool.flatten:2"
ASK = {
    "units": [UNIT],
    "options": OPTIONS,
    "held_out": 3,
    "methods": {"attack": {"steps": 4}},
    "second": "pocket:bearded",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return portraits(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Synthesis:
    out = tmp_path_factory.mktemp("run") / "whole"
    return synthesize("pocket:bearded", "bearded", images=str(images), out=out, **ASK)


def test_every_target_has_its_figures_and_pictures(done: Synthesis) -> None:
    a_class, a_unit = done.targets
    assert (a_class.target, a_class.kind) == ("bearded", "class")
    assert (a_unit.target, a_unit.kind) == (UNIT, "unit")
    assert len(a_class.restarts) == 2
    assert a_class.chosen == min((0, 1), key=lambda r: a_class.restarts[r].best)
    assert a_class.low <= a_class.score <= a_class.high
    origins = {c.origin for c in a_class.compared}
    assert origins == {"plain", "random", "hard", "attack", "real"}
    attack = next(c for c in a_class.compared if c.origin == "attack")
    real = next(c for c in a_class.compared if c.origin == "real")
    assert attack.score > real.score  # it starts from the first of them
    assert a_class.second == pytest.approx(a_class.score)  # the same classifier asked twice
    assert math.isnan(a_unit.second)
    assert a_class.hard_prompt.startswith("a person with ")
    assert done.images("bearded").shape == (3, 3, 64, 64)


def test_it_shows_itself_in_a_notebook(done: Synthesis) -> None:
    shown = done._repr_html_()
    assert shown.count("data:image/webp") == sum(len(t.examples) for t in done.targets)
    assert "<script" not in shown
    table = done.to_frame().set_index("target")
    assert table.loc["bearded", "score"] == done.targets[0].score
    assert table.loc[UNIT, "kind"] == "unit"
    assert len(done.plot().axes) >= 2
    with pytest.raises(InputError, match="drawn as units"):
        done.plot("forest")


def test_scores_are_of_the_pictures_that_are_kept(done: Synthesis) -> None:
    from diffexplain.classifiers import load_classifier
    from diffexplain.targets import class_objective

    scores = class_objective(load_classifier("pocket:bearded"), "bearded").score(done.images("bearded"))
    assert scores.tolist() == pytest.approx([s.score for s in done.targets[0].examples], abs=1e-5)


def test_the_run_folder_holds_everything(done: Synthesis) -> None:
    assert done.folder is not None
    kept = read_result(done.folder)
    assert kept.request == done.result.request
    assert repr(kept.targets) == repr(done.targets)  # nan is not equal to itself
    rows = read_rows(done.folder)
    assert {r.target for r in rows} == {"bearded", UNIT}
    page = (done.folder / "report.html").read_text()
    assert "What does pocket:bearded want to see?" in page
    assert json.loads((done.folder / "run.json").read_text())["kind"] == "synthesis"


def test_a_corpus_proposes_its_phrases(tmp_path: Path) -> None:
    few = load_corpus("avatars").restrict(["facial hair", "sticker"])
    asked = {"options": OPTIONS | {"restarts": 1, "steps": 0, "tokens": 3, "pool": 8}, "corpus": few}
    made = synthesize("pocket:bearded", ["bearded"], hard=False, held_out=4, out=tmp_path / "run", **asked)
    kept = made.result.request.settings["options"]["phrases"]
    assert "a star sticker" in kept
    assert read_result(tmp_path / "run").request == made.result.request
    words = {w.token for place in made.targets[0].restarts[0].words for w in place[:1]}
    assert words & {"beard", "moustache"}
    more, fewer = (foresee_synthesis(["bearded"], **(asked | {"corpus": c})) for c in (few, None))
    assert more.evaluations > fewer.evaluations
    with pytest.raises(InputError, match="give a list of them"):
        synthesize("pocket:bearded", ["bearded"], options={"phrases": "a beard"})


class Stop(BaseException):
    """What a person's Ctrl-C is here."""


def test_a_stopped_run_goes_on_to_the_same_result(done: Synthesis, images: Path, tmp_path: Path) -> None:
    def stop(what: str, at: int, total: int) -> None:
        if what == "drawing held-out pictures" and at == 1:
            raise Stop

    ask = {"images": str(images), "out": tmp_path / "run", **ASK}
    with pytest.raises(Stop):
        synthesize("pocket:bearded", "bearded", progress=stop, **ask)
    told: list[str] = []
    again = synthesize(
        "pocket:bearded", "bearded", resume=True, progress=lambda what, at, total: told.append(what), **ask
    )
    assert "optimising prompts" not in told
    assert repr(timeless(again)) == repr(timeless(done))


def timeless(synthesis: Synthesis) -> SynthesisResult:
    """The result without how long it took."""
    return replace(synthesis.result, cost=replace(synthesis.result.cost, evaluations=0, seconds=0.0))


def test_units_are_listed_with_the_pictures_that_excite_them(images: Path) -> None:
    units, names = list_units("pocket:bearded", str(images), target="bearded", top=3)
    assert len(units) == 3
    assert units[0].contribution >= units[1].contribution
    shown = CliRunner().invoke(app, ["units", "pocket:bearded", "--images", str(images), "--top", "2"])
    assert shown.exit_code == 0
    assert units[0].name in shown.stdout
    assert names[units[0].exciting[0]] in shown.stdout


def test_the_plan_counts_without_a_model() -> None:
    options = {"steps": 10, "restarts": 1, "seeds": 2}
    plan = foresee_synthesis(["a", "b"], units=["x:top3"], options=options | {"candidates": 0}, hard=False)
    assert plan.targets == 5
    assert plan.iterations == 50
    assert plan.evaluations == 4 * (3 * 50 * 2 + 5 * 32 * 4 + 5 * 2 * 16)
    openings = foresee_synthesis(["a"] * 5, options=options, hard=False).evaluations - plan.evaluations
    assert openings == 4 * most_drawn(SynthesisOptions(**options), 5)
    worded = foresee_synthesis(["a"] * 5, options=options).evaluations - openings - plan.evaluations
    read = 8 + 2 * SynthesisOptions().tokens + 1  # the best prompts, shorter ones, and the one as it was
    assert worded == 4 * 5 * (3 * 10 * 2 + read * 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "shaved"], "'shaved' is not a label"),
        (["--unit", "layer9:1"], "layer 'layer9' is not in pocket:bearded"),
        (["--unit", "global_pool.flatten:9999"], "channels 0 to"),
        (["--unit", "top5"], "give LAYER:NUMBER or LAYER:topK"),
        (["--unit", "layer4:top5"], "give images"),
        (["--option", "steps=-1"], "steps is -1"),
        (["--option", "speed=1"], "speed"),
        (["--compare", "magic"], "method magic: choose pixels"),
        (["--compare", "attack"], "give images"),
        (["--held-out", "1"], "held-out 1"),
        (["--black-box", "3"], "queries is 3"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    asked = ["synthesize", "pocket:bearded", "--out", str(tmp_path / "run"), *words]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_classifier_without_gradients_is_offered_the_black_box() -> None:
    def bright(images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3)) * 20 - 10

    with pytest.raises(InputError, match="--black-box"):
        synthesize(bright, options=OPTIONS)


def test_a_black_box_is_searched_by_queries() -> None:
    asked = 0

    def bright(images: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += len(images)
        return images.mean((1, 2, 3)) * 20 - 10

    from diffexplain.synthesis.blackbox import BlackBoxOptions

    found = synthesize(bright, options=OPTIONS, held_out=2, black_box=BlackBoxOptions(queries=60))
    assert 0 < asked <= 60 + 4 * 32  # and a padded call for each restart, the plain prompt and random words
    assert found.targets[0].target == "yes"
    assert found.targets[0].hard_prompt == ""


def test_a_vision_language_model_says_what_the_pictures_share(tmp_path: Path) -> None:
    command = ["synthesize", "pocket:bearded", "--target", "bearded", "--held-out", "2", "--no-hard"]
    command += [x for k, v in OPTIONS.items() for x in ("--option", f"{k}={v}")]
    with serving(lambda request, n: completion("All have a beard; the hats\nseem incidental.")) as chat:
        told = ["--describe", f"openai:llava@{chat.url}", "--out", str(tmp_path / "run")]
        asked = CliRunner().invoke(app, [*command, *told])
    assert asked.exit_code == 0, asked.output
    assert "incidental" in asked.output
    assert "the hats seem incidental" in (tmp_path / "run" / "report.html").read_text()
    (request,) = chat.requests
    assert "bearded" in question(request)
    assert pictures_in(request) == 2
