"""A classifier on which no concept can have an effect: the ruler for false discoveries."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from scipy.stats import norm


class NullClassifier:
    """No network: the logit is a keyed pseudo-random function of the 8-bit picture, standard normal.

    A network trained on shuffled labels still responds to pictures; this does not.
    """

    labels: tuple[str, ...] = ("tails", "heads")

    def __init__(self, key: int = 0) -> None:
        self.name = f"pocket:null:{key}"
        self._key = key.to_bytes(8, "little", signed=True)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 1): one deviate a picture."""
        pictures = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
        draws = [blake2b(p.tobytes(), key=self._key, digest_size=8).digest() for p in pictures]
        uniform = (np.array([int.from_bytes(d, "little") >> 11 for d in draws]) + 0.5) / 2**53
        return torch.from_numpy(norm.ppf(uniform))[:, None]
