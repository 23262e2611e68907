"""Files of models: those that lie here, and what to do when a hub does not give one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffexplain.classifiers.base import first_line
from diffexplain.errors import ClassifierError

_SAFE = "convert it where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), …)"


def existing(path: str, spec: str, cure: str) -> Path:
    """The file. Raises ClassifierError when there is none."""
    file = Path(path)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise ClassifierError(f"classifier {spec!r}: {str(file)!r} {kind}; {cure}")
    return file


def checkpoint(path: str, spec: str) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file. Raises ClassifierError when it is missing, a pickle or damaged."""
    from safetensors import safe_open

    file = existing(path, spec, "give the .safetensors file of the network's weights")
    with file.open("rb") as opened:
        head = opened.read(9)
    if file.suffix != ".safetensors" or head[:2] in (b"PK", b"\x80\x02", b"\x80\x04") or head[8:] != b"{":
        raise ClassifierError(
            f"classifier {spec!r}: {file.name} is no safetensors file; pickles (.pt, .pth, .bin) run code "
            f"when they are read and are refused; {_SAFE}"
        )
    try:
        with safe_open(file, "pt") as weights:
            return {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    except Exception as error:  # the library raises its own kind
        raise ClassifierError(f"classifier {spec!r}: {file.name} is damaged: {first_line(error)}") from error


def no_download(source: str, error: BaseException) -> str:
    """What kept a hub model from loading, what to download, and where it is looked for."""
    from huggingface_hub.constants import HF_HUB_CACHE

    names = {type(e).__name__ for e in _chain(error)}
    if "GatedRepoError" in names:
        return f"accept its owner's terms at https://huggingface.co/{source}, then run `hf auth login`"
    line = first_line(error) if isinstance(error, Exception) else type(error).__name__
    return (
        f"{line}; where there is a connection run `hf download {source}`; it is looked for in {HF_HUB_CACHE}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
