"""Parts of a model that take turns on the device, for one that does not hold them all."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def take_turns(parts: Iterable[torch.nn.Module], device: torch.device) -> None:
    """Parts lie in main memory; each goes to the device when called, the one before back (accelerate).

    A call takes a transfer longer where the parts alternate, so ask of one part what can be asked at once.
    """
    from accelerate import cpu_offload_with_hook

    before = None
    for part in parts:
        _, before = cpu_offload_with_hook(part.to("cpu"), device, prev_module_hook=before)
