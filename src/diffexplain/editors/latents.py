"""Stable Diffusion 1.x, 2.x and XL as three calls: pictures to latents and back, prompts, the UNet.

Every call has a fixed row count, but for those with a gradient: `spoken`, `asked`, `decoded`. Latents stay in
float32, whatever the UNet computes in; the autoencoder does too, for at 16 bits SDXL's overflows.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from diffexplain.editors.attention import averaged, lookers, looking
from diffexplain.errors import EditorError
from diffexplain.rows import in_rows

REMEMBERED = 256  # prompts whose embeddings are kept: one of XL takes 0.6 MB, and every edit has its own
PIXELS = 2**20  # the autoencoder sees that many at a time, but at most 16 pictures


@dataclass(frozen=True, slots=True)
class Said:
    """Prompts as the UNet reads them."""

    states: torch.Tensor  # (P, length, D)
    pooled: torch.Tensor  # (P, D'), empty without a second text encoder
    tokens: torch.Tensor  # (P, length): 1 on the prompt's own tokens

    def of(self, rows: Sequence[int]) -> Said:
        """The prompts in another order, repeats allowed."""
        index = torch.as_tensor(rows, device=self.states.device)
        return Said(self.states[index], self.pooled[index], self.tokens[index])


class LatentDiffusion:
    """A diffusers pipeline's components. Keeps prompt embeddings, which are the same whenever made."""

    def __init__(
        self,
        pipeline: Any,
        *,
        rows: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
        compiled: bool = False,
        embedded_guidance: float = 4.0,
    ) -> None:
        """`rows` 0: as many as fit. `offload`: parts lie in main memory while they are not used.

        `compiled`: torch.compile the UNet.
        """
        self.device, self._dtype, self._offload = device, dtype, offload
        home = torch.device("cpu") if offload else device
        self._unet = _placed(pipeline.unet, home, dtype).to(memory_format=torch.channels_last)
        self._vae = _placed(pipeline.vae, home, torch.promote_types(dtype, torch.float32))
        second = getattr(pipeline, "text_encoder_2", None)
        self._texts = [(pipeline.tokenizer, _placed(pipeline.text_encoder, home, dtype))]
        if second is not None:
            self._texts.append((pipeline.tokenizer_2, _placed(second, home, dtype)))
        self._two = second is not None
        self._empty_is_zero = self._two and bool(
            getattr(pipeline.config, "force_zeros_for_empty_prompt", False)
        )
        self._embedded_guidance = embedded_guidance  # of latent consistency models, as their UNet was told
        self._lookers = lookers(self._unet)
        self._compiled = compiled
        self._call = _compiled(self._unet, device) if compiled else self._unet
        self._known: OrderedDict[str, tuple[torch.Tensor, ...]] = OrderedDict()
        self.factor = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self.size = int(self._unet.config.sample_size) * self.factor
        self.rows = rows or self._fitting()

    @property
    def parts(self) -> tuple[Any, ...]:
        """The UNet, the autoencoder and the text encoders."""
        return (self._unet, self._vae, *(encoder for _, encoder in self._texts))

    @property
    def multiple(self) -> int:
        """Pictures have to have sides that are multiples of this many pixels."""
        return int(self.factor * 2 ** (len(self._unet.config.block_out_channels) - 1))

    # -- pictures ---------------------------------------------------------------------------------------

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> latents (N, C, h, w); sides that do not fit are filled up by their edges."""
        height, width = images.shape[-2:]
        fill = (0, -width % self.multiple, 0, -height % self.multiple)
        images = F.pad(images, fill, mode="replicate")

        def encoded(x: torch.Tensor) -> torch.Tensor:
            mode: torch.Tensor = self._vae.encode(x.to(self.device) * 2 - 1).latent_dist.mode()
            return mode * float(self._vae.config.scaling_factor)

        with torch.no_grad(), self._at_work(self._vae):
            found: torch.Tensor = in_rows(encoded, images, rows=self._pictures(images))
        return found

    def decode(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Latents -> images of `size` (height, width) in [0, 1], on the CPU."""

        def decoded(z: torch.Tensor) -> torch.Tensor:
            return self.decoded(z).cpu()

        with torch.no_grad(), self._at_work(self._vae):
            images: torch.Tensor = in_rows(decoded, latents, rows=self._pictures(latents, self.factor))
        return images[..., : size[0], : size[1]]

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (R, C, h, w) -> images in [0, 1] with a gradient, in one call."""
        x: torch.Tensor = self._vae.decode(latents / self._vae.config.scaling_factor).sample
        return (x / 2 + 0.5).clamp(0, 1)

    def _pictures(self, x: torch.Tensor, factor: int = 1) -> int:
        """Rows of an autoencoder call."""
        pixels = x.shape[-2] * x.shape[-1] * factor**2
        return max(1, min(self.rows, 16, PIXELS // pixels))

    # -- prompts ----------------------------------------------------------------------------------------

    def say(self, prompts: Sequence[str]) -> Said:
        """Each distinct prompt encoded once, (P, …) in the order given."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            with torch.no_grad(), self._at_work(*(t for _, t in self._texts)):
                self._known.update(zip(new, zip(*self._encoded(new), strict=True), strict=True))
        states, pooled, tokens = (
            torch.stack(x) for x in zip(*(self._known[p] for p in prompts), strict=True)
        )
        for prompt in prompts:
            self._known.move_to_end(prompt)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return Said(states, pooled, tokens)

    def _encoded(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = [self._read(prompts, tokenizer, encoder) for tokenizer, encoder in self._texts]
        states = torch.cat([p[0] for p in parts], dim=-1)
        pooled, tokens = parts[-1][1], parts[-1][2]
        if self._empty_is_zero:
            said = torch.tensor([bool(p) for p in prompts], device=self.device)
            states, pooled = states * said[:, None, None], pooled * said[:, None]
        return states, pooled, tokens

    def _read(
        self, prompts: Sequence[str], tokenizer: Any, encoder: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """States (P, length, D), pooled (P, D') and own tokens (P, length) by one text encoder."""
        length = tokenizer.model_max_length
        read = tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_length=True
        )
        ids = torch.tensor(read["input_ids"], device=self.device)

        states, pooled = in_rows(partial(self._through, encoder), ids, rows=16)
        # without the start and the end, as LEDITS++ counts them
        own = torch.tensor([_length(i, tokenizer) - 2 for i in read["input_ids"]], device=self.device)
        place = torch.arange(length, device=self.device)
        return states, pooled, ((place >= 1) & (place <= own[:, None])).float()

    def _through(self, encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States (P, length, D) and pooled (P, D') of tokens (P, length) by one text encoder."""
        out = encoder(ids, output_hidden_states=self._two)
        if not self._two:
            return out.last_hidden_state, out.last_hidden_state.new_zeros(len(ids), 0)
        pooled = out[0][:, 0] if out[0].dim() == 3 else out[0]  # the first of two encoders pools nothing
        return out.hidden_states[-2], pooled

    @property
    def vocabularies(self) -> tuple[tuple[Any, torch.Tensor], ...]:
        """Each text encoder's tokenizer and its tokens' embeddings (V, D)."""
        return tuple((t, encoder.get_input_embeddings().weight) for t, encoder in self._texts)

    def spoken(self, text: str, soft: torch.Tensor) -> Said:
        """A text and then embeddings (R, N, D) in the place of tokens, with a gradient, in one call.

        Of two text encoders, each reads its own part of D. Raises EditorError when they do not fit behind
        the text.
        """
        rows, n, _ = soft.shape
        widths = [w.shape[1] for _, w in self.vocabularies]
        parts = []
        for (tokenizer, encoder), own in zip(self._texts, torch.split(soft, widths, dim=-1), strict=True):
            start, ids = _with_room(tokenizer, text, n)
            known = torch.tensor(ids, device=self.device).expand(rows, -1)
            with _in_place(encoder.get_input_embeddings(), own, start):
                parts.append(self._through(encoder, known))
        tokens = torch.zeros(rows, len(ids), device=self.device)
        tokens[:, 1 : start + n] = 1
        return Said(torch.cat([states for states, _ in parts], dim=-1), parts[-1][1], tokens)

    # -- the UNet ---------------------------------------------------------------------------------------

    def answer(
        self, x: torch.Tensor, time: int, said: Said, look: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The UNet's raw answer for rows (R, C, h, w), and where it looked for the prompts' own tokens.

        The second is (R, *look), averaged over layers and heads of that size; (R, 0) without `look`.
        """

        def asked(*rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self._asked(time, look, *rows)

        answer: tuple[torch.Tensor, torch.Tensor] = in_rows(
            asked, x, said.states, said.pooled, said.tokens, rows=self.rows
        )
        return answer

    def asked(self, x: torch.Tensor, time: int, said: Said) -> torch.Tensor:
        """The UNet's raw answer for rows (R, C, h, w) with a gradient, in one call."""
        return self._asked(time, None, x, said.states, said.pooled, said.tokens)[0]

    def checkpoint(self, wanted: bool) -> None:
        """Whether blocks forget what they computed and do it again for the gradient (Chen et al. 2016)."""
        for part in (self._unet, self._vae):
            (part.enable_gradient_checkpointing if wanted else part.disable_gradient_checkpointing)()

    def _asked(
        self,
        time: int,
        look: tuple[int, int] | None,
        x: torch.Tensor,
        states: torch.Tensor,
        pooled: torch.Tensor,
        tokens: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        maps: list[tuple[torch.Tensor, int]] = []
        more: dict[str, Any] = {}
        if look:
            more["cross_attention_kwargs"] = {"tokens": tokens, "maps": maps, "pixels": look[0] * look[1]}
        if self._two:
            side = [x.shape[-2] * self.factor, x.shape[-1] * self.factor]
            ids = torch.tensor([[*side, 0, 0, *side]], device=x.device, dtype=self._dtype)
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.expand(len(x), -1)}
        if self._unet.config.time_cond_proj_dim is not None:
            more["timestep_cond"] = self._guidance_embedding(len(x))
        rows = x.to(self._dtype, memory_format=torch.channels_last)
        told = torch.tensor(time, device=x.device)  # a plain number would be compiled in
        raw = self._call(rows, told, encoder_hidden_states=states, return_dict=False, **more)[0]
        raw = (raw.clone() if self._compiled else raw).to(x.dtype)  # a graph's output is used again
        return raw, averaged(maps, *look) if look else raw.new_zeros(len(x), 0)

    def _guidance_embedding(self, rows: int) -> torch.Tensor:
        """What a latent consistency model is told of the guidance distilled into it (Luo et al. 2023)."""
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.full((rows,), (self._embedded_guidance - 1) * 1000, device=self.device)
        half: torch.Tensor = get_timestep_embedding(
            scale, self._unet.config.time_cond_proj_dim, flip_sin_to_cos=False, downscale_freq_shift=1
        )
        return half.to(self._dtype)

    def look_size(self, latent: tuple[int, int], least: int) -> tuple[int, int]:
        """A quarter of the latent, as attention maps are read; less reduced where a side is below `least`."""
        level = 4
        while level > 1 and min(latent) // level < least:
            level //= 2
        return latent[0] // level, latent[1] // level

    def _fitting(self) -> int:
        """Rows of a call that leave a fifth of a GPU's free memory: a power of two, at most 256.

        On a CPU 32, where latents are small enough for that to be faster than fewer.
        """
        side = self.size // self.factor
        if self.device.type != "cuda":
            return 32 if side <= 32 else 4
        self.rows = 2
        x = torch.zeros(2, self._unet.config.in_channels, side, side, device=self.device)
        said = self.say(["", ""])
        free, _ = torch.cuda.mem_get_info(self.device)
        with self.at_work(reading=False):
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.answer(x, 0, said)
            used = torch.cuda.max_memory_allocated(self.device) - before
        return int(2 ** min(8, max(0, math.floor(math.log2(0.8 * free / max(1, used / 2))))))

    @contextmanager
    def at_work(self, reading: bool) -> Iterator[None]:
        """The UNet is on its device inside, and can be read if asked."""
        with torch.no_grad(), self._at_work(self._unet):
            if not reading:
                yield
                return
            with looking(self._unet, self._lookers):
                yield

    @contextmanager
    def _at_work(self, *parts: Any) -> Iterator[None]:
        """Parts that lie in main memory are on the device inside."""
        if not self._offload:
            yield
            return
        try:
            for part in parts:
                part.to(self.device)
            yield
        finally:
            for part in parts:
                part.to("cpu")


def _compiled(unet: Any, device: torch.device) -> Any:
    """The UNet compiled for one row count; on a GPU replayed as a CUDA graph."""
    return torch.compile(unet, dynamic=False, mode="reduce-overhead" if device.type == "cuda" else None)


def _placed(part: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A frozen part, ready for inference."""
    if part.dtype != dtype:
        part = part.to(dtype)
    return part.to(device).eval().requires_grad_(False)


def _with_room(tokenizer: Any, text: str, n: int) -> tuple[int, list[int]]:
    """Where n embeddings behind a text start, and its tokens with as many others in their place."""
    length, end = tokenizer.model_max_length, tokenizer.eos_token_id
    said = tokenizer(text, truncation=False)["input_ids"]
    start = _length(said, tokenizer) - 1
    if start + n + 1 > length:
        raise EditorError(
            f"text {text!r} and {n} learnable tokens are longer than the {length} that the text encoder "
            "reads; shorten the text or learn fewer"
        )
    other = next(i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids)
    padding = [tokenizer.pad_token_id] * (length - start - n - 1)
    return start, [*said[:start], *[other] * n, end, *padding]


@contextmanager
def _in_place(embeddings: Any, soft: torch.Tensor, start: int) -> Iterator[None]:
    """The embeddings of the tokens from `start` on are `soft` (R, N, D) inside."""

    def put(module: Any, inputs: Any, looked_up: torch.Tensor) -> torch.Tensor:
        before, after = looked_up[:, :start], looked_up[:, start + soft.shape[1] :]
        return torch.cat([before, soft.to(looked_up), after], dim=1)

    hook = embeddings.register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()


def _length(ids: Sequence[int], tokenizer: Any) -> int:
    """Tokens up to and with the first end token."""
    end = tokenizer.eos_token_id
    return list(ids).index(end) + 1 if end in ids else len(ids)
