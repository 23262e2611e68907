"""Training pictures: avatars rendered once, kept as bytes beside their attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from diffexplain.worlds import avatars as world

#: seeds of the bundled models; benchmarks use seeds from 1,000,000 on.
TRAIN_SEED, CALIBRATION_SEED = 0, 500_000
CHUNK = 500


def _chunk(job: tuple[int, int, int]) -> np.ndarray:
    n, seed, size = job
    return world.render_bytes(world.sample(n, seed), size)


def pictures(
    n: int, size: int, folder: Path, workers: int | None = None
) -> tuple[list[world.Avatar], np.ndarray]:
    """`n` avatars and their pictures (n, size, size, 3) uint8, rendered by all cores, cached in `folder`."""
    jobs = [(min(CHUNK, n - s), TRAIN_SEED + s // CHUNK, size) for s in range(0, n, CHUNK)]
    drawn = [avatar for count, seed, _ in jobs for avatar in world.sample(count, seed)]
    cache = folder / f"pictures-{n}-{size}.npy"
    if not cache.exists():
        with ProcessPoolExecutor(workers) as pool:
            array = np.concatenate(list(pool.map(_chunk, jobs)))
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "partial.npy", array)
        (folder / "partial.npy").replace(cache)
    return drawn, np.load(cache, mmap_mode="r")


def rows(base: int, device: torch.device) -> int:
    """Pictures a step: `base` on a CPU, eight times as many where a GPU would idle otherwise."""
    return base * 8 if device.type == "cuda" else base


def batch(array: np.ndarray, index: np.ndarray, device: torch.device) -> torch.Tensor:
    """Rows of the cached pictures as images in [0, 1], (N, 3, H, W)."""
    rows = torch.from_numpy(np.ascontiguousarray(array[np.sort(index)]))
    return rows.permute(0, 3, 1, 2).to(device).float().div_(255)


def caption_table() -> dict[str, int]:
    """Every clause a caption can hold -> its column in the clause matrix."""
    clauses = [v.phrase for values in world.ATTRIBUTES.values() for v in values.values()]
    clauses += [absent for _, absent in world.OPTIONAL.values()]
    clauses += list(world.GENERAL.values())
    return {clause: i for i, clause in enumerate(clauses)}


def rivals() -> list[list[int]]:
    """Clause columns that exclude each other: one list an attribute, its absence included."""
    table = caption_table()
    return [
        [table[v.phrase] for v in values.values()]
        + ([table[world.OPTIONAL[slot][1]]] if slot in world.OPTIONAL else [])
        for slot, values in world.ATTRIBUTES.items()
    ]


def truths(drawn: list[world.Avatar]) -> np.ndarray:
    """Which clauses are true of which avatar: bool (N, clauses)."""
    table = caption_table()
    matrix = np.zeros((len(drawn), len(table)), dtype=bool)
    for row, avatar in enumerate(drawn):
        for slot, name in world.readings(avatar).items():
            if name is None:
                continue
            if name == world.NONE:
                matrix[row, table[world.OPTIONAL[slot][1]]] = True
                continue
            value = world.ATTRIBUTES[slot][name]
            matrix[row, table[value.phrase]] = True
            for path, word in world.GENERAL.items():
                if value.path.startswith(path + "/"):
                    matrix[row, table[word]] = True
    return matrix


def clauses_of(caption: str) -> list[int]:
    """The clause columns of a caption."""
    table = caption_table()
    return [table[c] for c in caption.removeprefix("a person with ").split(", ")]


def labels(drawn: list[world.Avatar]) -> Mapping[str, np.ndarray]:
    """Attribute -> class index per avatar, -1 where it cannot be seen."""
    out = {}
    for slot in world.Avatar._fields:
        names = world.values(slot)
        out[slot] = np.array(
            [names.index(v) if (v := world.readings(a)[slot]) is not None else -1 for a in drawn]
        )
    return out


def write_json(path: Path, value: object) -> None:
    """Write a small JSON file with stable key order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def forget_paths(folder: Path) -> None:
    """Take out of saved configurations where on this machine the weights came from."""
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_json(file, content)
