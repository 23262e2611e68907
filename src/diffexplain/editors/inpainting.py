"""A region of a picture drawn anew, the rest kept: blended latent diffusion with a generator's components.

At every step the latent outside the mask is the noised original's (Blended Diffusion, Avrahami, Lischinski &
Fried, CVPR 2022; in latents: Avrahami, Fried & Lischinski, SIGGRAPH 2023). Each step is made a few times, its
noise put back in between, so that the region comes to fit what is around it (RePaint, Lugmayr et al., CVPR
2022, section 4.2). No weights but the generator's are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from diffexplain.editors.generator import Generator
from diffexplain.editors.latents import Said
from diffexplain.errors import EditorError
from diffexplain.rows import in_rows

ROUNDS = 3  # how often each step is made


def inpaint(
    generator: Generator,
    images: torch.Tensor,
    masks: torch.Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    rounds: int = ROUNDS,
) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [0, 1] whose masked places (N, H, W) bool are drawn from prompts and seeds.

    Cells of the latent that a mask touches are drawn anew, and nothing else of the picture changes: an empty
    mask gives the autoencoder's reconstruction, which is what the others are to be measured from. Raises
    EditorError when masks or pictures have another size than the generator's.
    """
    side = (generator.size, generator.size)
    if tuple(images.shape[-2:]) != side or tuple(masks.shape) != (len(images), *side):
        raise EditorError(
            f"pictures {tuple(images.shape)} and masks {tuple(masks.shape)}: {generator.name} paints "
            f"{side[0]} by {side[1]} pixels; resize both"
        )
    if rounds < 1:
        raise EditorError(f"rounds is {rounds}; it is at least 1")
    kept = generator.model.encode(images).to(generator.device, generator.exact)  # (N, C, h, w)
    cells = _cells(generator, masks)
    said = generator.prompts(list(prompts))
    noise = _noises(generator, seeds, len(generator.path) * rounds * 2)

    def drawn(
        states: torch.Tensor, pooled: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor,
        cells: torch.Tensor, noise: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        return _blended(generator, Said(states, pooled, tokens), kept, cells, noise, rounds)

    with torch.no_grad():
        latents = in_rows(
            drawn, said.states, said.pooled, said.tokens, kept, cells.to(kept), noise, rows=generator.rows
        )
    made = generator.model.decode(latents, side)
    plain = generator.model.decode(kept, side)
    anew = F.interpolate(cells, side, mode="nearest").bool()
    return torch.where(anew, made, plain)


def touched(generator: Generator, masks: torch.Tensor) -> torch.Tensor:
    """What `inpaint` really draws anew for masks (N, H, W): every pixel of the latent's cells they touch."""
    return F.interpolate(_cells(generator, masks), masks.shape[-2:], mode="nearest")[:, 0].bool()


def _cells(generator: Generator, masks: torch.Tensor) -> torch.Tensor:
    """(N, 1, h, w), 1 where a mask touches the cell."""
    return F.adaptive_max_pool2d(masks[:, None].float(), generator.latent_shape[-2:])


def _noises(generator: Generator, seeds: Sequence[int], n: int) -> torch.Tensor:
    """Each row's own draws, (R, n, C, h, w)."""

    def drawn(seed: int) -> torch.Tensor:
        source = torch.Generator().manual_seed(seed)
        return torch.randn(n, *generator.latent_shape, generator=source)

    return torch.stack([drawn(seed) for seed in seeds]).to(generator.device, generator.exact)


def _blended(
    generator: Generator,
    said: Said,
    kept: torch.Tensor,
    cells: torch.Tensor,
    noise: torch.Tensor,
    rounds: int,
) -> torch.Tensor:
    """z_{t-1} = m·(a step from z_t) + (1 - m)·(α·z_0 + σ·ε), and back to z_t by q(z_t | z_{t-1})."""
    path, model = generator.path, generator.model
    draws = iter(noise.unbind(1))
    x = noise[:, 0]  # pure where it is drawn anew
    for i, time in enumerate(path.times):
        here = float(path.alpha[i]), float(path.sigma[i])
        there = float(path.alpha[i + 1]), float(path.sigma[i + 1])
        last = i + 1 == len(path)
        for r in range(rounds):
            original = here[0] * kept + here[1] * next(draws)
            x = cells * x + (1 - cells) * original
            clean = path.clean(x, model.asked(x, time, said), i)
            if last:
                x = clean
            else:
                ratio = there[1] / here[1]
                x = ratio * x + (there[0] - ratio * here[0]) * clean
            fresh = next(draws)
            if r + 1 < rounds:
                back = here[0] / there[0] if not last else here[0]
                level = here[1] ** 2 - (back * (0 if last else there[1])) ** 2
                x = back * x + max(level, 0.0) ** 0.5 * fresh
    return cells * x + (1 - cells) * kept
