"""Where a UNet looks for the words of a prompt: cross-attention maps, read while it runs.

LEDITS++ (Brack et al., CVPR 2024, section 3.3) masks an edit by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Looking:
    """An attention processor that also sums, where asked, the attention paid to marked tokens.

    Stateless: what to read and where to put it come with the call, as `tokens` (rows, length), 1 on marked
    tokens, and `maps`, a list that receives (rows, pixels) sums over heads, and how many heads.
    """

    def __init__(self, plain: Any, reads: bool) -> None:
        self.plain, self.reads = plain, reads

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        maps: list[tuple[torch.Tensor, int]] | None = None,
        pixels: int = 0,
    ) -> torch.Tensor:
        """Attention as it was, and where this layer is read, its map."""
        if self.reads and maps is not None and tokens is not None and hidden_states.shape[1] == pixels:
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            paid = attn.get_attention_scores(query, key, attention_mask)  # (rows · heads, pixels, length)
            paid = paid.view(-1, attn.heads, *paid.shape[1:]).float()
            marked = paid @ tokens[:, None, :, None]
            maps.append((marked[..., 0].sum(1), attn.heads))
        answer: torch.Tensor = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return answer


def lookers(unet: Any) -> dict[str, Looking]:
    """Processors that read cross-attention on the way down and up, around the UNet's own."""
    return {
        name: Looking(plain, "attn2" in name and "mid_block" not in name)
        for name, plain in unet.attn_processors.items()
    }


@contextmanager
def looking(unet: Any, processors: dict[str, Looking]) -> Iterator[None]:
    """Attention can be read inside; the UNet's own processors come back."""
    own = dict(unet.attn_processors)
    unet.set_attn_processor(dict(processors))
    try:
        yield
    finally:
        unet.set_attn_processor(own)


def averaged(maps: list[tuple[torch.Tensor, int]], height: int, width: int) -> torch.Tensor:
    """The mean over all heads of all layers read, (rows, height, width)."""
    total = torch.stack([m for m, _ in maps]).sum(0) / sum(heads for _, heads in maps)
    return total.view(-1, height, width)
