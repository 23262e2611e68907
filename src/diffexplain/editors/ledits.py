"""LEDITS++ and TurboEdit: edit-friendly inversion with masked semantic guidance.

Inversion (Huberman-Spiegelglas, Kulikov & Michaeli, CVPR 2024): every noisy latent is drawn
independently, x_t = α·x_0 + σ·ε̃, and the part of the next one that the solver's mean μ̂(x_t) does not
explain is kept; sampling with it and no edit returns the input, at any number of steps. Guidance (LEDITS++,
Brack et al., CVPR 2024, eq. 4): ε_u + Σ_i s·w_i·M_i⊙(ε_{c_i} - ε_u), where u is the picture's source
prompt, empty unless one is given.

TurboEdit (Deutch et al. 2024) is the same at three or four steps of first order: the noise added is that of
an earlier training time than the model is told (`shift`), and its pseudo-guidance, which scales the
difference of the means under the two prompts, is the guidance above with u the source prompt, because the
mean is linear in ε.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.nn import functional as F

from diffexplain.editors.base import Edit, Inversion, Term, done
from diffexplain.editors.latents import LatentDiffusion, Said
from diffexplain.editors.solver import Solver, Spacing

Mask = Literal["intersection", "attention", "quantile", "share", "none"]
MASKS = ("intersection", "attention", "quantile", "share", "none")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LeditsOptions:
    """Settings of the editor; a pipeline folder may state its own in `diffexplain.json`.

    Masks: `quantile`, where |ε_c - ε_u| is in its top 1 - λ; `attention`, where the attention paid to the
    prompt is; `intersection`, both, and above `free_above` the attention's alone; `share`, where the smoothed
    |ε_c - ε_u| reaches the share λ of its maximum, so that a concept takes the room it needs.
    """

    steps: int = 50  # made
    skip: float = 0.1  # share left out on top of them, the noisiest: more skip keeps more of the picture
    guidance: float = 10.0  # s
    threshold: float = 0.75  # λ, 0 to 1; 0 guides everywhere
    mask: Mask = "intersection"
    free_above: int = 800  # training steps
    least: int = 8  # side that attention maps should have; a quarter of the latent's if that is larger
    warmup: int = 0  # steps before guidance sets in
    cooldown: int | None = None  # the step from which it stops
    order: int = 2  # of the solver; 1 is DDPM
    spacing: Spacing = "leading"
    shift: int = 0  # training steps by which added noise is less than the model is told
    embedded_guidance: float = 4.0  # that a latent consistency model is told
    rows: int = 32  # UNet rows a call; 0: as many as fit
    dtype: str = "auto"  # of the UNet: bfloat16 on a GPU that has it
    offload: bool = False  # parts wait in main memory
    compiled: bool = False  # torch.compile the UNet

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.rows >= 0 and 0 <= self.skip < 1 and 0 <= self.threshold <= 1):
            raise ValueError("steps is at least 1, rows at least 0, skip in [0, 1), threshold in [0, 1]")
        if self.order not in (1, 2) or self.mask not in MASKS or self.spacing not in ("leading", "trailing"):
            raise ValueError(f"order is 1 or 2, spacing leading or trailing, mask one of {', '.join(MASKS)}")
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype is one of auto, {', '.join(DTYPES)}")


#: few steps on a distilled model.
TURBO = LeditsOptions(
    steps=4, skip=0.0, guidance=1.5, threshold=0.0, mask="none", order=1, spacing="trailing", shift=200
)


class LeditsEditor:
    """Edits with a Stable Diffusion 1.x, 2.x or XL pipeline's components, or one distilled from them."""

    captioned = True

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str,
        options: LeditsOptions,
        default_judge: str,
        default_segmenter: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        on = device or torch.device("cpu")
        self.name, self.options = name, options
        self.default_judge, self.default_segmenter = default_judge, default_segmenter
        self._model = LatentDiffusion(
            pipeline,
            rows=options.rows,
            device=on,
            dtype=choose_dtype(options.dtype, on),
            offload=options.offload,
            compiled=options.compiled,
            embedded_guidance=options.embedded_guidance,
        )
        self.rows, self.size = self._model.rows, self._model.size
        self._solver = Solver.of(
            pipeline.scheduler,
            steps=options.steps,
            skip=options.skip,
            order=options.order,
            spacing=options.spacing,
            shift=options.shift,
        )

    def settings(self) -> dict[str, Any]:
        """The options with the rows that were found to fit, and the pixel size."""
        return {"method": "ledits", "size": self.size, **asdict(self.options), "rows": self.rows}

    def evaluations(self, edit: Edit) -> int:
        """One of the source prompt and one for each term that acts, at each step, for an edit made alone.

        Edits of one picture made together share what is equal at the first step.
        """
        acting = sum(self._acts(t, i) for t in edit.terms for i in range(len(self._solver)))
        return len(self._solver) + acting

    def invert(
        self, images: torch.Tensor, seeds: Sequence[int], prompts: Sequence[str] | None = None
    ) -> Inversion:
        """Independent noise per step and image, then what each step must add: (N, S, C, h, w)."""
        x0 = self._model.encode(images)
        noise = torch.stack([self._noise(seed, x0.shape[1:]) for seed in seeds])  # (N, S, C, h, w)
        path = [self._solver.noised(x0, noise[:, i], i) for i in range(len(self._solver))] + [x0]
        prompts = tuple(prompts) if prompts is not None else ("",) * len(x0)
        said = self._model.say(prompts)
        x, before, residuals = path[0], None, []
        with self._model.at_work(reading=False):
            for i, time in enumerate(self._solver.times):
                answer, _ = self._model.answer(x, time, said)
                clean = self._solver.clean(x, answer, i)
                mean = self._solver.mean(x, clean, before, i)
                residuals.append(path[i + 1] - mean)
                x, before = mean + residuals[-1], clean  # as sampling will round it: errors do not add up
        kept = {"latent": x, "start": path[0], "residuals": torch.stack(residuals, dim=1)}
        return Inversion(kept, prompts, tuple(seeds), (images.shape[-2], images.shape[-1]))

    def reconstruct(self, inversion: Inversion) -> torch.Tensor:
        """The pictures through the autoencoder: sampling without an edit returns the latents."""
        return self._model.decode(inversion["latent"], inversion.size)

    def edit(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """Sample every edit with its picture's residuals; all rows go through the UNet together."""
        return self.begun(inversion, edits)()

    def begun(self, inversion: Inversion, edits: Sequence[Edit]) -> Callable[[], torch.Tensor]:
        """`edit`, whose latents are sampled at once; the call decodes them."""
        rest = partial(self._model.decode, self.sample(inversion, edits), inversion.size)
        return done(rest()) if self.options.offload else rest  # parts that take turns: not two at a time

    def sample(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """The latents of `edit`, (len(edits), C, h, w)."""
        chosen = inversion.select([e.row for e in edits])
        terms = [(i, t) for i, e in enumerate(edits) for t in e.terms]
        prompts = [*chosen.prompts, *(t.prompt for _, t in terms)]
        said = self._model.say(prompts)
        x, before = chosen["start"], None
        look = self._look(x)
        with self._model.at_work(reading=look is not None):
            for i, time in enumerate(self._solver.times):
                acting = [k for k, (_, t) in enumerate(terms) if self._acts(t, i)]
                owners = torch.tensor([terms[k][0] for k in acting], dtype=torch.long, device=x.device)
                at = [*range(len(x)), *(terms[k][0] for k in acting)]  # whose latent each branch is asked of
                words = [*range(len(x)), *(len(x) + k for k in acting)]
                same = (
                    [(edits[e].row, prompts[w]) for e, w in zip(at, words, strict=True)] if i == 0 else None
                )
                answer, seen = self._asked(x[at], time, said.of(words), look, same)
                source = answer[: len(x)]
                push = self._push(
                    answer[len(x) :] - source[owners], seen[len(x) :], [terms[k][1] for k in acting], time
                )
                clean = self._solver.clean(x, source.index_add(0, owners, push), i)
                x = self._solver.mean(x, clean, before, i) + chosen["residuals"][:, i]
                before = clean
        return x

    def _asked(
        self,
        x: torch.Tensor,
        time: int,
        said: Said,
        look: tuple[int, int] | None,
        same: Sequence[Hashable] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's answer for each row; rows of the `same` key are alike and asked once.

        At the first step all edits of a picture are where it starts.
        """
        if same is None:
            return self._model.answer(x, time, said, look)
        first = {key: i for i, key in reversed(list(enumerate(same)))}
        once = sorted(first.values())
        answer, seen = self._model.answer(x[once], time, said.of(once), look)
        back = [once.index(first[key]) for key in same]
        return answer[back], seen[back]

    def _acts(self, term: Term, step: int) -> bool:
        """Whether a term's branch has to be computed at a step."""
        first = self.options.warmup if term.warmup is None else term.warmup
        last = self.options.cooldown if term.cooldown is None else term.cooldown
        within = step >= first and (last is None or step < last)
        return within and term.weight != 0 and self.options.guidance != 0

    def _push(
        self, direction: torch.Tensor, seen: torch.Tensor, terms: Sequence[Term], time: int
    ) -> torch.Tensor:
        """s·w·M⊙(ε_c - ε_u) of each term, (terms, C, h, w)."""
        if not terms:
            return direction
        default = self.options.threshold
        weights = torch.tensor([t.weight for t in terms], device=direction.device)
        shares = [default if t.threshold is None else t.threshold for t in terms]
        mask = self._mask(direction, seen, torch.tensor(shares, device=direction.device), time)
        return self.options.guidance * weights.view(-1, 1, 1, 1) * mask * direction

    # -- where a term may act ---------------------------------------------------------------------------

    def _look(self, x: torch.Tensor) -> tuple[int, int] | None:
        """The size of the attention maps to read, if the mask needs them."""
        if self.options.mask not in ("intersection", "attention"):
            return None
        return self._model.look_size((x.shape[-2], x.shape[-1]), self.options.least)

    def _mask(
        self, direction: torch.Tensor, seen: torch.Tensor, shares: torch.Tensor, time: int
    ) -> torch.Tensor:
        """(terms, 1, h, w) of zeros and ones."""
        kind = self.options.mask
        if kind == "none":
            return torch.ones_like(direction[:, :1])
        if kind == "share":
            strength = direction.abs().mean(1, keepdim=True)
            smooth = F.avg_pool2d(F.pad(strength, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            return (smooth >= shares.view(-1, 1, 1, 1) * smooth.amax((2, 3), keepdim=True)).float()
        strongest = _top(direction.abs().sum(1, keepdim=True), shares)
        if kind == "quantile":
            return strongest
        looked = F.interpolate(_top(_smoothed(seen[:, None]), shares), direction.shape[-2:])
        return looked if kind == "attention" or time > self.options.free_above else looked * strongest

    def _noise(self, seed: int, shape: torch.Size) -> torch.Tensor:
        """One draw a step from the row's own generator, the least noisy step first; (S, C, h, w)."""
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(shape, generator=generator) for _ in range(len(self._solver))]
        return torch.stack(drawn[::-1]).to(self._model.device)


def _top(x: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """1 where a map (terms, 1, h, w) reaches its own quantile λ."""
    flat = x.flatten(1)
    bars = torch.stack([torch.quantile(row, share) for row, share in zip(flat, shares, strict=True)])
    return (x >= bars.view(-1, 1, 1, 1)).float()


def _smoothed(x: torch.Tensor) -> torch.Tensor:
    """A Gaussian of three by three, as LEDITS++ smooths attention."""
    side = torch.tensor([-1.0, 0.0, -1.0], device=x.device).exp()
    kernel = torch.outer(side, side) / side.sum() ** 2
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel[None, None])


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """What the UNet computes in; on a CPU float32, where the bundled figures were measured."""
    if name != "auto":
        return DTYPES[name]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
