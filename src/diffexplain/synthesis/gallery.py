"""Pictures of written prompts, each drawn once: for the length of a call, or in a file that later runs share.

What words look like depends on the diffusion model alone, so one drawing serves every target of every
classifier. Pictures are kept as 8 bits hold them, whether they were just drawn or are read back.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from diffexplain.editors.generator import Generator
from diffexplain.errors import InputError, RunError
from diffexplain.images import rounded, to_8bit

AT_ONCE = 96  # pictures drawn before they are kept
MEMORY = 2**29  # bytes without a file; the oldest go first
WAIT = 60.0  # seconds for another process that writes
TABLE = "CREATE TABLE IF NOT EXISTS pictures (number INTEGER PRIMARY KEY, name BLOB UNIQUE, pixels BLOB)"


class Gallery:
    """Pictures by generator, prompt and seed. Several processes may share a file.

    Raises InputError for a file that is no gallery, RunError where it cannot be written.
    """

    def __init__(self, file: str | Path | None = None, *, most: int = MEMORY) -> None:
        self._file, self._most, self._held = file, most, 0
        try:
            if file is not None:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(
                ":memory:" if file is None else file, timeout=WAIT, check_same_thread=False
            )
            with self._base:
                if file is not None:
                    self._base.execute("PRAGMA journal_mode=WAL")
                self._base.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"gallery {str(file)!r}: {error}; name a new file, or one made as such"
            ) from error

    @staticmethod
    def at(place: Gallery | str | Path | None) -> Gallery:
        """One in hand, that of a file, or a new one in memory."""
        return place if isinstance(place, Gallery) else Gallery(place)

    def images(self, generator: Generator, texts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """A picture of each prompt with its own seed, (N, 3, H, W) of 8 bits; drawn where not here yet."""
        try:
            return self._images(generator, texts, seeds)
        except (sqlite3.Error, zlib.error) as error:
            raise RunError(
                f"gallery {str(self._file)!r}: {error}; free some space, or name a new file"
            ) from error

    def _images(self, generator: Generator, texts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        names = [_name(generator, *asked) for asked in zip(texts, seeds, strict=True)]
        found = {name: pixels for name in dict.fromkeys(names) if (pixels := self._read(name)) is not None}
        missing = [i for i, name in enumerate(names) if name not in found]
        missing = list({names[i]: i for i in missing}.values())
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            said = generator.prompts([texts[i] for i in some])
            drawn = rounded(generator.images(said, [seeds[i] for i in some]))
            found |= {names[i]: image for i, image in zip(some, drawn, strict=True)}
            self._keep({names[i]: found[names[i]] for i in some})
        return torch.stack([found[name] for name in names])

    def _read(self, name: bytes) -> torch.Tensor | None:
        row = self._base.execute("SELECT pixels FROM pictures WHERE name = ?", (name,)).fetchone()
        return None if row is None else _unpacked(row[0])

    def _keep(self, drawn: dict[bytes, torch.Tensor]) -> None:
        packed = {name: _packed(image) for name, image in drawn.items()}
        with self._base:
            self._base.executemany(
                "INSERT OR IGNORE INTO pictures (name, pixels) VALUES (?, ?)", packed.items()
            )
        if self._file is None:
            self._held += sum(map(len, packed.values()))
            while self._held > self._most:
                self._drop()

    def _drop(self) -> None:
        """Forget the oldest picture."""
        number, size = self._base.execute(
            "SELECT number, length(pixels) FROM pictures ORDER BY number LIMIT 1"
        ).fetchone()
        self._base.execute("DELETE FROM pictures WHERE number = ?", (number,))
        self._held -= size


def _name(generator: Generator, text: str, seed: int) -> bytes:
    return blake2b(f"{generator.fingerprint}\0{text}\0{seed}".encode(), digest_size=16).digest()


def _packed(image: torch.Tensor) -> bytes:
    """A picture (3, H, W) as two sides and compressed bytes."""
    pixels = to_8bit(image).numpy()
    return np.array(pixels.shape[1:], "<u4").tobytes() + zlib.compress(pixels.tobytes(), 1)


def _unpacked(data: bytes) -> torch.Tensor:
    height, width = np.frombuffer(data[:8], "<u4")
    pixels = np.frombuffer(zlib.decompress(data[8:]), np.uint8).reshape(3, int(height), int(width))
    return rounded(torch.from_numpy(pixels.copy()))
