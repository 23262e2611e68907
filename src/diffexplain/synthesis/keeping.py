"""What a synthesis finds out, kept in the run once it is known, so that a resume does not do it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from diffexplain.editors.generator import Generator
from diffexplain.images import decode_png
from diffexplain.records import Word
from diffexplain.store import MemoryRun
from diffexplain.synthesis.blanks import load_language_model, masked_prompt
from diffexplain.synthesis.evaluation import Asked, Optimised
from diffexplain.synthesis.optimisation import Optimum, Step
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.words import hard_prompt, nearest_words

GROUP = 16  # targets optimised together: what a kill can cost
NEAREST = 5  # real words named for each learned token


def optimised(
    run: MemoryRun,
    asked: Sequence[Asked],
    options: SynthesisOptions,
    find: Callable[..., list[Optimum]],
    tell: Callable[[str, int, int], None],
) -> list[tuple[Optimum, ...]]:
    """The optima of every target, one a restart; groups of targets that the run has are not done again."""
    found: list[tuple[Optimum, ...]] = []
    for start in range(0, len(asked), GROUP):
        key = f"optima {start}"
        if key not in run.rounds():

            def told(step: Step, start: int = start) -> None:
                done = start * options.steps + step.iteration * min(GROUP, len(asked) - start)
                tell("optimising prompts", done, len(asked) * step.steps)

            optima = find(objectives=[a.objective for a in asked[start : start + GROUP]], tell=told)
            run.note_round(key, {"optima": [_packed(o) for o in optima]})
        group = [_unpacked(o) for o in run.rounds()[key]["optima"]]
        for i in range(len(asked[start : start + GROUP])):
            found.append(tuple(o for o in group if o.objective == i))
    return found


def _packed(optimum: Optimum) -> dict[str, Any]:
    """As JSON; float32 come back to the last bit."""
    latent = None if optimum.latent is None else optimum.latent.tolist()
    return {**{f: getattr(optimum, f) for f in optimum.__slots__}, "soft": optimum.soft.tolist(),
            "latent": latent}  # fmt: skip


def _unpacked(values: Mapping[str, Any]) -> Optimum:
    latent = None if values["latent"] is None else torch.tensor(values["latent"])
    more = {"soft": torch.tensor(values["soft"]), "latent": latent, "curve": tuple(values["curve"])}
    return Optimum(**{**values, **more})


def worded_prompt(
    run: MemoryRun,
    index: int,
    one: Asked,
    found: Sequence[Optimum],
    generator: Generator,
    options: SynthesisOptions,
    hard: bool,
    language_model: str | None,
) -> str:
    """A prompt of real words: by a masked language model where one is named, else by projection.

    The projection sets out from the best of the soft prompts that were found.
    """
    key = f"words {index}"
    if not (hard or language_model):
        return ""
    if key not in run.rounds():
        if language_model:
            model = load_language_model(language_model)
            text = masked_prompt(generator, one.objective, model, options=options).text
        else:
            start = min(found, key=lambda o: o.best).soft
            text = hard_prompt(generator, one.objective, options, start=start).text
        run.note_round(key, {"text": text})
    return str(run.rounds()[key]["text"])


def nearest(generator: Generator, optima: Sequence[Optimum]) -> tuple[tuple[tuple[Word, ...], ...], ...]:
    """The nearest real words of each restart's learned tokens."""
    return tuple(tuple(n.words for n in nearest_words(generator, o.soft, NEAREST)) for o in optima)


def caption(
    run: MemoryRun, index: int, found: Optimised, captions: Callable[[torch.Tensor], str] | None
) -> str:
    """What someone who sees a few of the pictures says of them."""
    key = f"caption {index}"
    if captions is None:
        return ""
    if key not in run.rounds():
        shown = [
            r for r in run.rows() if r.batch == index and (r.origin, r.restart) == ("optimised", found.chosen)
        ]
        run.note_round(
            key, {"text": captions(torch.stack([decode_png(run.picture(r.picture)) for r in shown[:8]]))}
        )
    return str(run.rounds()[key]["text"])
