"""Pictures from prompts that may be learned: a diffusion model with a gradient.

Stable Diffusion 1.x, 2.x and XL, latent consistency models and few-step models distilled from them.
Guidance is 1: the conditional branch only. All weights are frozen.

Where the gradient goes, over S steps x_{i+1} = A_i·x_i + B_i·v(x_i, c):
`full`, everywhere; `last-k`, through the last k steps, the ones before are taken as given; `detached`, into
every step's conditioning c, while what the UNet is shown of x_i is taken as given (DEXTER, Carnemolla et al.
2025), so that its Jacobian is never multiplied along the path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

import torch

from diffexplain.editors import loading
from diffexplain.editors.latents import LatentDiffusion, Said
from diffexplain.editors.ledits import DTYPES, choose_dtype
from diffexplain.editors.solver import Solver, Spacing
from diffexplain.errors import EditorError
from diffexplain.rows import in_rows

Mode = Literal["detached", "last-k", "full"]
MODES = ("detached", "last-k", "full")
SAMPLERS = ("auto", "ddim", "lcm")
PLAIN_STEPS, FEW_STEPS = 20, 4
LCM_GRID = 50  # the times that latent consistency models were distilled on
ON_CPU = 8  # rows of a call
LARGE = 32  # side of latents from which blocks are computed twice rather than kept
METHODS = ("ledits", "turbo")


@dataclass(frozen=True, slots=True)
class GeneratorOptions:
    """Settings of the sampling. `ddim`: without fresh noise; `lcm`: every step starts from new noise."""

    steps: int = PLAIN_STEPS
    sampler: Literal["auto", "ddim", "lcm"] = "auto"  # auto: lcm for latent consistency models
    spacing: Spacing = "trailing"
    embedded_guidance: float = 4.0  # that a latent consistency model is told
    rows: int = 0  # UNet rows of a call without gradient; 0: as many as fit, on a CPU few
    dtype: str = "auto"  # of UNet and text encoder: bfloat16 on a GPU that has it

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 0:
            raise ValueError("steps is at least 1, rows at least 0")
        if self.sampler not in SAMPLERS or self.spacing not in ("leading", "trailing"):
            raise ValueError(f"sampler is one of {', '.join(SAMPLERS)}, spacing leading or trailing")
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype is one of auto, {', '.join(DTYPES)}")


class Generator:
    """Draws pictures from prompts, with or without a gradient. Keeps no state but how much it drew.

    `model` are the components, `path` the times and noise levels, `exact` what latents are computed in.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str,
        options: GeneratorOptions,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`dtype`, of everything, wins over that of the options."""
        on = device or torch.device("cpu")
        self.name, self.options = name, options
        self.model = LatentDiffusion(
            pipeline,
            rows=options.rows or (0 if on.type == "cuda" else ON_CPU),
            device=on,
            dtype=dtype or choose_dtype(options.dtype, on),
            embedded_guidance=options.embedded_guidance,
        )
        self.exact = torch.promote_types(dtype or torch.float32, torch.float32)  # of latents
        self._lcm = options.sampler == "lcm"
        if options.sampler == "auto":
            self._lcm = type(pipeline.scheduler).__name__ == "LCMScheduler"
        self.path = _path(pipeline.scheduler, options, self._lcm)
        self.size, self.rows, self.steps = self.model.size, self.model.rows, options.steps
        self.width = sum(weight.shape[1] for _, weight in self.model.vocabularies)
        side, depth = self.size // self.model.factor, int(pipeline.unet.config.in_channels)
        self.latent_shape = (depth, side, side)
        self.evaluations = 0  # of the UNet for the pictures drawn so far, backward passes not counted

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def settings(self) -> dict[str, Any]:
        """What the run record needs to repeat a picture."""
        sampler = "lcm" if self._lcm else "ddim"
        return {**asdict(self.options), "sampler": sampler, "rows": self.rows, "size": self.size}

    # -- prompts ----------------------------------------------------------------------------------------

    def embedding(self, word: str) -> torch.Tensor:
        """The vocabulary's embeddings of a word's tokens, (tokens, D) float32 on the CPU.

        Raises EditorError when a word is no token at all.
        """
        parts = []
        for tokenizer, weight in self.model.vocabularies:
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            parts.append(weight[ids].detach().float().cpu())
        if not len(parts[0]):
            raise EditorError(f"word {word!r} is no token of {self.name}; name a word, as 'person'")
        return torch.cat(parts, dim=-1)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and settings, which say what a prompt and a seed look like."""
        found = blake2b(
            json.dumps([self.settings(), self.device.type], sort_keys=True).encode(), digest_size=16
        )
        for part in self.model.parts:
            for name, tensor in part.state_dict().items():
                found.update(f"{name} {tensor.dtype}".encode())
                found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @cached_property
    def vocabulary(self) -> tuple[list[str], torch.Tensor]:
        """Words of letters that are read as one token, and their embeddings (V, D) float32 on the CPU."""
        tokenizer = self.model.vocabularies[0][0]
        known = sorted(tokenizer.get_vocab().items(), key=lambda item: int(item[1]))
        special = set(tokenizer.all_special_ids)
        words = {t.removesuffix("</w>"): i for t, i in known if t.endswith("</w>") and i not in special}
        words = {word: i for word, i in words.items() if word.isascii() and word.isalpha() and word.islower()}
        read = tokenizer(list(words), add_special_tokens=False)["input_ids"]
        words = {word: i for (word, i), ids in zip(words.items(), read, strict=True) if ids == [i]}
        rows = [weight[list(words.values())] for _, weight in self.model.vocabularies]
        return list(words), torch.cat(rows, dim=-1).detach().float().cpu()

    def states(self, soft: torch.Tensor, text: str = "a picture of a") -> Said:
        """Fixed text, then embeddings (R, N, D), which get the gradient, then real end and padding.

        Raises EditorError when they do not fit behind the text.
        """
        return self.model.spoken(text, soft.to(self.device))

    def prompts(self, texts: Sequence[str]) -> Said:
        """Real prompts, one a row."""
        return self.model.say(texts)

    # -- pictures ---------------------------------------------------------------------------------------

    def images(
        self, conditioning: Said, seeds: Sequence[int], *, latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pictures (R, 3, H, W) in [0, 1] on the CPU, without gradient; one noise generator a row.

        `latent` (R, C, h, w): a first noise in place of the seed's.
        """
        self.evaluations += self.steps * len(seeds)
        noise = self.noises(seeds)  # (R, n, C, h, w)
        if latent is not None:
            noise = torch.cat([latent.to(noise)[:, None], noise[:, 1:]], dim=1)

        def drawn(
            states: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor, noise: torch.Tensor
        ) -> torch.Tensor:
            return self._sampled(Said(states, pooled, tokens), noise, noise[:, 0], 0, detached=False)

        said = (conditioning.states.detach(), conditioning.pooled.detach(), conditioning.tokens)
        with torch.no_grad():
            latents = in_rows(drawn, *said, noise, rows=self.rows)
        return self.model.decode(latents, (self.size, self.size))

    def draw(
        self,
        conditioning: Said,
        seeds: Sequence[int],
        *,
        mode: Mode,
        k: int = 1,
        latent: torch.Tensor | None = None,
        checkpointing: bool | None = None,
    ) -> torch.Tensor:
        """Pictures (R, 3, H, W) in [0, 1] with a gradient to the conditioning, all rows in one call.

        `latent` (R, C, h, w): a first noise in place of the seed's, which gets a gradient too; in mode
        `last-k` only where k reaches the first step. `checkpointing`: blocks are computed again for the
        gradient, which saves memory; by default from latents of 32 by 32 on.
        """
        if checkpointing is None:
            checkpointing = self.latent_shape[-1] >= LARGE
        self.model.checkpoint(checkpointing)
        self.evaluations += self.steps * len(seeds)
        noise = self.noises(seeds)
        first = noise[:, 0] if latent is None else latent.to(noise)
        given = max(0, self.steps - k) if mode == "last-k" else 0
        return self.model.decoded(
            self._sampled(conditioning, noise, first, given, detached=mode == "detached")
        )

    def noises(self, seeds: Sequence[int]) -> torch.Tensor:
        """Each row's own draws: the first latent, and what later steps start from, (R, n, C, h, w)."""
        n = self.steps if self._lcm else 1

        def drawn(seed: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(seed)
            return torch.stack([torch.randn(self.latent_shape, generator=generator) for _ in range(n)])

        return torch.stack([drawn(seed) for seed in seeds]).to(self.device, self.exact)

    def _sampled(
        self, said: Said, noise: torch.Tensor, x: torch.Tensor, given: int, *, detached: bool
    ) -> torch.Tensor:
        """Latents (R, C, h, w) at the end of the path; the first `given` steps get no gradient."""
        path = self.path
        for i, time in enumerate(path.times):
            with torch.no_grad() if i < given else nullcontext():
                answer = self.model.asked(x.detach() if detached else x, time, said)
                clean = path.clean(x, answer, i)
                alpha, sigma = float(path.alpha[i + 1]), float(path.sigma[i + 1])
                if i + 1 == len(path):
                    x = clean
                elif self._lcm:
                    x = alpha * clean + sigma * noise[:, i + 1]
                else:  # DDIM (Song, Meng & Ermon 2021, eq. 12 without noise): the same ε̂ at less noise
                    kept = sigma / float(path.sigma[i])
                    x = kept * x + (alpha - kept * float(path.alpha[i])) * clean
        return x


def _path(scheduler: Any, options: GeneratorOptions, lcm: bool) -> Solver:
    """Times and noise of the steps. The last one arrives at no noise whatever the solver's end."""
    steps, spacing = options.steps, options.spacing
    if not lcm:
        return Solver.of(scheduler, steps=steps, skip=0.0, order=1, spacing=spacing, shift=0)
    if steps > LCM_GRID:
        raise EditorError(f"steps is {steps}; a latent consistency model takes {LCM_GRID} at most")
    grid = Solver.of(scheduler, steps=LCM_GRID, skip=0.0, order=1, spacing="trailing", shift=0)
    # as Luo et al. (2023) choose among the times that the model was distilled on
    index = [k * LCM_GRID // steps for k in range(steps)]
    ends = [*index, LCM_GRID]
    return Solver(
        times=tuple(grid.times[i] for i in index),
        alpha=grid.alpha[ends],
        sigma=grid.sigma[ends],
        noise_alpha=grid.noise_alpha[ends],
        noise_sigma=grid.noise_sigma[ends],
        order=1,
        prediction=grid.prediction,
    )


def load_generator(spec: Any, *, device: torch.device | None = None, **options: Any) -> Generator:
    """A generator from the same specs as load_editor, or one in hand, which passes through.

    `options` are those of GeneratorOptions. A distilled model takes 4 steps, or those in its folder's
    `diffexplain.json`. Raises EditorError when it cannot be loaded, saying what to do, and MissingExtra.
    """
    if not isinstance(spec, str):
        return spec  # type: ignore[no-any-return]
    known = {f.name for f in fields(GeneratorOptions)}
    if unknown := set(options) - known:
        raise EditorError(
            f"generator {spec!r}: unknown option {', '.join(sorted(unknown))}; "
            f"known are {', '.join(sorted(known))}"
        )
    parsed = loading.parse_spec(spec)
    stated = loading.stated_in(parsed)
    pipeline = loading.load_pipeline(parsed)
    method = parsed.method or stated.get("method") or loading.method_of(pipeline)
    if method not in METHODS:
        raise EditorError(
            f"generator {spec!r} is a {type(pipeline).__name__}, through which prompts cannot be optimised; "
            "supported are Stable Diffusion 1.x, 2.x and XL and models distilled from them"
        )
    pipeline = loading.supported(parsed, pipeline, method)
    try:
        chosen = GeneratorOptions(**{**_usual(parsed, stated, method), **options})
    except (TypeError, ValueError) as error:
        raise EditorError(f"generator {spec!r}: {error}") from error
    return Generator(pipeline, name=parsed.name, options=chosen, device=device)


def _usual(spec: loading.Spec, stated: dict[str, Any], method: str) -> dict[str, Any]:
    """What a model's options are unless they are given."""
    usual: dict[str, Any] = {"steps": PLAIN_STEPS}
    if method == "turbo":
        usual["steps"] = stated.get("options", {}).get("steps", FEW_STEPS)
    if "lcm" in (spec.lora or "").lower():
        usual |= {"sampler": "lcm", "embedded_guidance": 1.0}
    return usual
