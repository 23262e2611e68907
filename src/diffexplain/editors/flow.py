"""FlowEdit: edits with flow-matching models, without inversion (Kulikov et al. 2024, arXiv 2412.08629).

Algorithm 1: from z = x_0, at each of the n_max least noisy of T steps,

    z_src = (1-σ)·x_0 + σ·n,   z_tar = z + z_src - x_0,
    z ← z + (σ' - σ)·(V_tar(z_tar) - V_src(z_src)),

averaged over n_avg noises n; in the last n_min steps z_tar itself is sampled by V_tar.

V_src is the source prompt's velocity at the source scale, V_tar at the target scale s that of

    (1 - Σ_i w_i)·v(c_src) + Σ_i w_i·v(c_i)

over the terms (prompt c_i, weight w_i) of an edit: one term of weight 1 is FlowEdit as published, a negative
weight leads away from its prompt, others scale its strength. No terms, or weights of 0: the reconstruction,
which drifts from the picture where the two scales differ, exactly as every edit of it does. Scales guide by
the empty prompt, v(∅) + s·(v(c) - v(∅)), or are told to a transformer that learned them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from diffexplain.editors.base import Edit, Inversion, Term, done
from diffexplain.editors.velocities import FAMILIES
from diffexplain.errors import EditorError
from diffexplain.rows import in_rows


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """Settings of the editor; the defaults are the paper's for Stable Diffusion 3, see `published`."""

    steps: int = 50  # T
    n_max: int = 33  # steps made, the least noisy: fewer keep more of the picture
    n_min: int = 0  # the last of them, sampled without the picture
    n_avg: int = 1  # noises a step
    source_guidance: float = 3.5
    target_guidance: float = 13.5
    source: str = "a photo"  # source prompt of a picture that comes without one
    rows: int = 8  # transformer rows a call; of an odd count, a CPU rounds the last row otherwise
    offload: bool = False  # parts wait in main memory while they are not used

    def __post_init__(self) -> None:
        if not (0 <= self.n_min <= self.n_max <= self.steps and self.n_max >= 1):
            raise ValueError("0 ≤ n_min ≤ n_max ≤ steps and n_max is at least 1")
        if not (self.n_avg >= 1 and self.rows >= 1):
            raise ValueError("n_avg and rows are at least 1")
        if not all(math.isfinite(s) and s >= 0 for s in (self.source_guidance, self.target_guidance)):
            raise ValueError("source_guidance and target_guidance are numbers of 0 or more")

    @classmethod
    def published(cls, pipeline: str, **stated: Any) -> FlowOptions:
        """A pipeline class's own defaults under the fields stated. Raises ValueError as the class does."""
        return cls(**{**PUBLISHED.get(pipeline, {}), **stated})


#: pipeline class name -> defaults: the paper's (section 5) for FLUX. Of the others it says nothing: half and
#: twice the pipeline's usual scale, as it has for Stable Diffusion 3; Z-Image's are those of Turbo, unguided.
PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "FluxPipeline": dict(steps=28, n_max=24, source_guidance=1.5, target_guidance=5.5),
        "AuraFlowPipeline": dict(source_guidance=1.75, target_guidance=7.0),
        "QwenImagePipeline": dict(source_guidance=2.0, target_guidance=8.0),
        "ZImagePipeline": dict(steps=9, n_max=7, source_guidance=1.0, target_guidance=1.0),
    }
)


class Branch(NamedTuple):
    """One evaluation of the transformer: where, with which prompt and told scale, and its share."""

    state: int
    prompt: str
    guidance: float
    weight: float


Blend = list[Branch]  # their weighted sum is one guided velocity
Blending = Callable[[torch.Tensor, Sequence[Blend], float], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Source:
    """The pictures of a batch of edits, each once, with noise that all edits of a picture share."""

    x0: torch.Tensor  # (R, C, h, w)
    at: torch.Tensor  # (E,): whose picture each edit has
    draws: tuple[torch.Generator, ...]  # (R,)

    @classmethod
    def of(cls, inversion: Inversion, places: Sequence[int], device: torch.device) -> _Source:
        draws = tuple(torch.Generator().manual_seed(seed) for seed in inversion.seeds)
        return cls(inversion["latent"].to(device), torch.tensor(places, device=device), draws)

    @property
    def latent(self) -> tuple[int, int]:
        return self.x0.shape[-2], self.x0.shape[-1]

    def moved(self, sigma: float) -> torch.Tensor:
        """z_src - x_0 with the next noise, (R, C, h, w)."""
        noise = torch.stack([torch.randn(self.x0.shape[1:], generator=g) for g in self.draws])
        return sigma * (noise.to(self.x0.device) - self.x0)


class FlowEditor:
    """Edits with a flow-matching pipeline's components: transformer, autoencoder, text encoders, sigmas."""

    captioned = True

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str,
        options: FlowOptions,
        default_judge: str,
        default_segmenter: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        family = FAMILIES.get(type(pipeline).__name__)
        if family is None:
            raise EditorError(
                f"editor {name!r} is a {type(pipeline).__name__}; flow editing takes {', '.join(FAMILIES)}"
            )
        self._device = device or torch.device("cpu")
        self._field = family(pipeline, self._device, options.offload)
        self.name, self.options = name, options
        self.rows, self.size = options.rows, int(self._field.size)
        self.default_judge, self.default_segmenter = default_judge, default_segmenter

    def settings(self) -> dict[str, Any]:
        """The options, and the pixel size."""
        return {"method": "flow", "size": self.size, **asdict(self.options)}

    def evaluations(self, edit: Edit) -> int:
        """Transformer evaluations of an edit made alone; edits of one picture share the source's."""
        o = self.options
        total = 0
        for step in range(o.n_max):
            target = len(self._target(0, "", edit.terms, step))
            direct = o.n_max - step > o.n_min
            total += o.n_avg * (target + len(self._source(0, ""))) if direct else target
        return total

    @torch.no_grad()
    def invert(
        self, images: torch.Tensor, seeds: Sequence[int], prompts: Sequence[str] | None = None
    ) -> Inversion:
        """Nothing is inverted: the latents, and `options.source` where no prompts are given."""
        said = tuple(prompts) if prompts is not None else (self.options.source,) * len(images)
        kept = {"latent": self._field.encode(images)}
        return Inversion(kept, said, tuple(seeds), (images.shape[-2], images.shape[-1]))

    def reconstruct(self, inversion: Inversion) -> torch.Tensor:
        """An edit without terms of every row."""
        return self.edit(inversion, [Edit(i) for i in range(len(inversion))])

    def edit(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """Integrate every edit; all rows go through the transformer together.

        Raises EditorError where a term states a threshold: there is no mask.
        """
        return self.begun(inversion, edits)()

    @torch.no_grad()
    def begun(self, inversion: Inversion, edits: Sequence[Edit]) -> Callable[[], torch.Tensor]:
        """`edit`, which is integrated at once; the call decodes it. Raises EditorError as `edit`."""
        for term in (t for e in edits for t in e.terms if t.threshold):
            raise EditorError(
                f"threshold {term.threshold} of {term.prompt!r}: flow editing has no mask, leave it out"
            )
        used = sorted({e.row for e in edits})
        chosen = inversion.select(used)
        places = [used.index(e.row) for e in edits]
        z = self._integrated(chosen, places, [e.terms for e in edits])
        rest = partial(self._field.decode, z, inversion.size)
        return done(rest()) if self.options.offload else rest  # parts that take turns: not two at a time

    def _integrated(
        self, inversion: Inversion, places: Sequence[int], terms: Sequence[tuple[Term, ...]]
    ) -> torch.Tensor:
        """Algorithm 1 for edits (E,) of the inversion's rows at `places`: latents (E, C, h, w)."""
        o = self.options
        source = _Source.of(inversion, places, self._device)
        levels = self._field.sigmas(o.steps, source.latent)[-o.n_max - 1 :]
        blended = self._blending([*inversion.prompts, *(t.prompt for ts in terms for t in ts)])
        plain = [self._source(i, prompt) for i, prompt in enumerate(inversion.prompts)]
        z = source.x0[source.at]
        for step, (sigma, following) in enumerate(pairwise(levels)):
            targets = [
                self._target(i, inversion.prompts[place], ts, step)
                for i, (place, ts) in enumerate(zip(places, terms, strict=True))
            ]
            left = o.n_max - step
            if left > o.n_min:
                change = self._difference(source, z, [*plain, *targets], blended, sigma)
            else:
                if left == o.n_min:
                    z = z + source.moved(sigma)[source.at]  # from here on z is z_tar
                change = blended(z, targets, sigma)
            z = z + (following - sigma) * change
        return z

    def _difference(
        self, source: _Source, z: torch.Tensor, blends: Sequence[Blend], blended: Blending, sigma: float
    ) -> torch.Tensor:
        """V_tar(z_tar) - V_src(z_src), averaged over noises, (E, C, h, w)."""
        rows = len(source.x0)
        blends = [*blends[:rows], *([b._replace(state=b.state + rows) for b in t] for t in blends[rows:])]
        change = torch.zeros_like(z)
        for _ in range(self.options.n_avg):
            moved = source.moved(sigma)
            found = blended(torch.cat([source.x0 + moved, z + moved[source.at]]), blends, sigma)
            change += (found[rows:] - found[:rows][source.at]) / self.options.n_avg
        return change

    def _source(self, state: int, prompt: str) -> Blend:
        """V_src."""
        return self._guided(state, [(prompt, 1.0)], self.options.source_guidance)

    def _target(self, state: int, source: str, terms: Sequence[Term], step: int) -> Blend:
        """V_tar at a step, counted from the noisiest that is made."""
        acting = [t for t in terms if _acts(t, step)]
        stays = 1 - math.fsum(t.weight for t in acting)
        words = [(source, stays), *((t.prompt, t.weight) for t in acting)]
        return self._guided(state, words, self.options.target_guidance)

    def _guided(self, state: int, words: Sequence[tuple[str, float]], scale: float) -> Blend:
        """Prompts and their shares at a scale; what has no share is not evaluated."""
        if self._field.unconditional:
            words = [("", 1 - scale), *((prompt, scale * share) for prompt, share in words)]
        return [Branch(state, prompt, scale, share) for prompt, share in words if share]

    def _blending(self, prompts: Sequence[str]) -> Blending:
        """From states (S, C, h, w), B blends of these prompts and a noise level to (B, C, h, w)."""
        known = {prompt: i for i, prompt in enumerate(dict.fromkeys(["", *prompts]))}
        each = [self._field.condition(prompt) for prompt in known]
        conditions = [torch.stack(parts) for parts in zip(*each, strict=True)]  # (P, …) each

        def blended(states: torch.Tensor, blends: Sequence[Blend], sigma: float) -> torch.Tensor:
            def ask(x: torch.Tensor, said: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
                return self._field.velocity(x, sigma, guidance, *(c[said] for c in conditions))

            branches = [b for blend in blends for b in blend]
            said = torch.tensor([known[b.prompt] for b in branches], device=states.device)
            guidance = torch.tensor([b.guidance for b in branches], device=states.device)
            x = states[[b.state for b in branches]]
            answers = iter(in_rows(ask, x, said, guidance, rows=self.rows))
            return torch.stack([_sum(b.weight * next(answers) for b in blend) for blend in blends])

        return blended


def _acts(term: Term, step: int) -> bool:
    return (term.warmup or 0) <= step and (term.cooldown is None or step < term.cooldown)


def _sum(parts: Any) -> torch.Tensor:
    """One by one, so that the result does not depend on what else is summed beside it."""
    total: torch.Tensor = sum(parts)
    return total
