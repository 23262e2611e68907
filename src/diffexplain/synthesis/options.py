"""Settings of the optimisation of prompts."""

from __future__ import annotations

from dataclasses import dataclass

from diffexplain.editors.generator import MODES, Mode
from diffexplain.errors import InputError


@dataclass(frozen=True, slots=True)
class SynthesisOptions:
    """How prompts are optimised; raises InputError for values out of range.

    Lengths are relative: a `rate` of 1 moves an embedding by a vocabulary's norm in one step.
    """

    tokens: int = 16  # learnable embeddings
    text: str = "a picture of a"  # fixed, ahead of them
    word: str = "person"  # neutral, what they start from
    candidates: int = 192  # words that the first gradient proposes for a target, and pictures judge; 0: none
    phrases: tuple[str, ...] = ()  # of a corpus, proposed besides
    negation: str = "no"  # said before words that do harm, where it is a word; "": never
    steps: int = 24  # iterations at most
    rate: float = 0.15  # Adam's, in norms of the vocabulary
    anneal: bool = False  # the rate falls to 0, by half a cosine over all steps
    restarts: int = 2  # of each target
    seeds: int = 4  # noises a prompt is drawn with in each step
    pool: int = 16  # noises that these are taken from in turn
    mode: Mode = "detached"
    k: int = 1  # last steps with a gradient, in mode last-k
    cutouts: int = 2  # random crops that the classifier sees of a picture; 0: the picture alone
    smallest: float = 0.8  # side of a crop, as a share
    noise: float = 0.005  # of each pixel, standard deviation
    patience: int = 16  # steps without improvement after which a prompt is finished; 0: never
    learn_latent: bool = False  # the first noise is optimised too (DiG-IN)
    seed: int = 0
    rows: int = 0  # pictures with a gradient at a time; 0: as the generator
    spread: float = 0.5  # how far restarts after the first start from the word, in norms

    def __post_init__(self) -> None:
        if isinstance(self.phrases, str):
            raise InputError(f"phrases {self.phrases!r}: give a list of them, or a corpus that has them")
        whole = {"tokens": 1, "steps": 0, "restarts": 1, "seeds": 1, "pool": 1, "k": 1}
        for name, least in (
            whole | {"cutouts": 0, "patience": 0, "candidates": 0, "rows": 0, "seed": 0}
        ).items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it is at least {least}")
        for name in ("anneal", "learn_latent"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; it is true or false")
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is unknown; choose {', '.join(MODES)}")
        if self.rate <= 0 or self.noise < 0 or self.spread < 0 or not 0 < self.smallest <= 1:
            raise InputError("rate is above 0, noise and spread are at least 0, smallest is in (0, 1]")
        if self.pool % self.seeds:
            raise InputError(f"pool {self.pool} is no multiple of seeds {self.seeds}; make it one")
        if not self.word.strip():
            raise InputError("word is empty; name a neutral word, as 'person'")
