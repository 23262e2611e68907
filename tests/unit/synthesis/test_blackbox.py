"""The search without gradients: budget, reproducibility, and that it finds what the scores reward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffexplain.classifiers import load_classifier
from diffexplain.classifiers.modules import CallableClassifier
from diffexplain.editors.generator import Generator, load_generator
from diffexplain.errors import ClassifierError, InputError
from diffexplain.synthesis import SynthesisOptions
from diffexplain.synthesis.blackbox import BlackBoxOptions, optimise_black_box
from diffexplain.synthesis.words import noises, pooled_losses
from diffexplain.targets import ClassObjective, choose_target
from tests.tiny import tiny_pipeline_folder

OPTIONS = SynthesisOptions(tokens=1, text="a", word="p", restarts=2, seeds=1, pool=2)


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Generator:
    folder = tiny_pipeline_folder(tmp_path_factory.mktemp("tiny"))
    return load_generator(str(folder), steps=2)


class Counted:
    """Brightness as a service that answers in numpy and counts what it was shown."""

    labels = ("dark", "bright")

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        self.seen += len(images)
        return 40 * (images.numpy().mean((1, 2, 3)) - 0.5)


def losses(generator: Generator, soft: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy (P,) of prompts on the pool's noises."""
    asked = noises(OPTIONS)
    said = generator.states(soft.repeat_interleave(len(asked), dim=0), OPTIONS.text)
    scores = bright(Counted()).score(generator.images(said, asked * len(soft)))
    return torch.nn.functional.softplus(4 - scores).view(len(soft), -1).mean(1)


def bright(function: Counted) -> ClassObjective:
    return ClassObjective(choose_target(CallableClassifier(function, None, name="service"), "bright"))


def test_the_search_beats_random_prompts_of_its_space_within_the_budget(generator):
    service = Counted()
    told = []
    box = BlackBoxOptions(queries=300, dimensions=4)
    found = optimise_black_box(generator, [bright(service)], OPTIONS, box, tell=told.append)
    assert service.seen <= 300
    assert [(o.objective, o.restart) for o in found] == [(0, 0), (0, 1)]
    assert all(o.soft.shape == (1, generator.width) for o in found)
    assert len(told) == max(o.iterations for o in found)
    start = losses(generator, generator.embedding("p")[None])
    words = losses(generator, generator.vocabulary[1][:20, None])
    best = min(o.best for o in found)
    assert best < float(start)
    assert best < float(words.quantile(0.25))


def test_what_is_reported_is_what_the_prompt_scores(generator):
    (found, _) = optimise_black_box(
        generator, [bright(Counted())], OPTIONS, BlackBoxOptions(queries=120, dimensions=2)
    )
    images = generator.images(generator.states(found.soft.expand(2, -1, -1), OPTIONS.text), noises(OPTIONS))
    loss = torch.nn.functional.softplus(4 - bright(Counted()).score(images)).mean()
    assert found.best == pytest.approx(float(loss), rel=0.02)  # pictures of 8 bits were scored


def test_the_same_seed_finds_the_same_and_numpy_is_left_alone(generator):
    box = BlackBoxOptions(queries=80, dimensions=2, subspace="random", population=4)
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.RandomState(3).random()
    once = optimise_black_box(generator, [bright(Counted())], OPTIONS, box)
    assert np.random.random() == expected  # noqa: NPY002
    again = optimise_black_box(generator, [bright(Counted())], OPTIONS, box)
    assert [o.curve for o in once] == [o.curve for o in again]
    assert all(torch.equal(a.soft, b.soft) for a, b in zip(once, again, strict=True))


def test_bad_options(generator):
    with pytest.raises(InputError, match="queries and dimensions"):
        BlackBoxOptions(queries=0)
    with pytest.raises(InputError, match="population is 1"):
        BlackBoxOptions(population=1)
    with pytest.raises(InputError, match="queries is 5, too few for one generation; give 28"):
        optimise_black_box(generator, [bright(Counted())], OPTIONS, BlackBoxOptions(queries=5))


def test_a_classifier_that_answers_nonsense_is_named(generator):
    class Broken(Counted):
        def __call__(self, images: torch.Tensor) -> np.ndarray:
            return np.full(len(images), np.nan)

    with pytest.raises(ClassifierError, match="returned NaN"):
        optimise_black_box(generator, [bright(Broken())], OPTIONS, BlackBoxOptions(queries=100))


def test_a_pocket_classifier_without_its_gradient(generator):
    """The bundled network behind a plain function: its scores alone raise the target's."""
    network = load_classifier("pocket:bearded")

    def scores(images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return network.logits(images).numpy()

    target = choose_target(CallableClassifier(scores, network.labels, name="function"), "bearded")
    box = BlackBoxOptions(queries=120, dimensions=3)
    found = optimise_black_box(generator, [ClassObjective(target)], OPTIONS, box)
    start = pooled_losses(
        generator,
        ClassObjective(choose_target(network, "bearded")),
        generator.embedding("p")[None],
        "a",
        OPTIONS,
    )
    assert min(o.best for o in found) < float(start.mean())
