"""Mining: pictures of a domain → groups → kinds → terms that are seen → a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffexplain.corpus import available, load_corpus, written
from diffexplain.errors import InputError, RunError
from diffexplain.images import Pictures, load_images
from diffexplain.judges import Judge, load_judge
from diffexplain.mining import (
    Draft,
    Ledger,
    MiningOptions,
    Usage,
    foreseen,
    load_model,
    mined,
    read_words,
    sorted_words,
)
from diffexplain.mining.drafting import tidied
from diffexplain.mining.passes import Mined, Wording, alike, cleaned
from diffexplain.rows import choose_device

JUDGE = "clip:openai/clip-vit-large-patch14"
SIZE = 336  # pixels of a sample picture


def mine_corpus(
    images: Any,
    *,
    domain: str,
    out: str | Path,
    model: Any = None,
    words: str | Path | None = None,
    judge: Any = JUDGE,
    run: str | Path | None = None,
    sample: int = 32,
    prompt: str = "",
    neutral: str = "",
    device: str = "auto",
    options: MiningOptions | None = None,
    told: Callable[[str, Usage], None] = lambda what, usage: None,
) -> tuple[Mined, Usage]:
    """A corpus for a domain from pictures of it, written to `out` as YAML; and what the model cost.

    `model`: a spec, `openai:MODEL@http://HOST:PORT/v1` or `transformers:ORG/NAME`; or `words`: a list of
    candidates, with which no model is asked. `judge`: the CLIP of the clean-up, `none` leaves it out (not
    with words). `run`: folder of the kept calls, beside `out` unless given; the same command goes on where
    it was killed. `sample`: pictures looked at. `prompt`, `neutral`: the corpus's wording; unless given,
    that of the bundled corpus of that domain, else it is made of the subject. `told(what, usage)` hears of
    each answer.

    Raises InputError (wrong argument, unusable answer), RunError (folder).
    """
    file, chosen = Path(out), options or MiningOptions()
    if (model is None) == (words is None):
        raise InputError("mining: give either a model that sees or a list of words")
    if words is not None and judge in (None, "none"):
        raise InputError(f"judge {judge!r}: a word list is sorted and sifted by a CLIP; give clip:ORG/NAME")
    if file.exists():
        raise InputError(f"--out {file}: is there already; remove it or choose another")
    wording = worded(domain, prompt, neutral, name=file.stem)
    candidates = None if words is None else read_words(Path(words))
    given, on = sampled(images, sample), choose_device(device)
    asked = None if model is None else load_model(model, device=on)
    clip = None if judge in (None, "none") else load_judge(judge, device=on)
    if asked is not None:
        wording = replace(wording, sources=(_source(given, f"by {asked.name}", clip),))
        folder = Path(run) if run is not None else file.with_name(f"{file.stem}.mining")
        ledger = Ledger(asked, folder, told=told)
        made = mined(ledger, given.pixels, wording=wording, judge=clip, options=chosen)
        usage = ledger.usage
        _note(folder / "mined.json", made, usage, given)
    elif candidates is not None and clip is not None:
        wording = replace(
            wording, sources=(_source(given, f"and the words of {Path(str(words)).name}", clip),)
        )
        made, usage = _from_words(candidates, given, clip, wording, chosen), Usage()
    _write(file, "# mined by `diffexplain corpus mine`; edit freely\n" + written(made.document))
    return made, usage


def foresee_mining(
    images: Any, *, domain: str, sample: int = 32, options: MiningOptions | None = None
) -> Usage:
    """About what mining by a model will cost; loads no model and asks nothing."""
    worded(domain, "", "", name="mined")
    return foreseen(len(sampled(images, sample)), domain, options or MiningOptions())


def sampled(images: Any, sample: int) -> Pictures:
    """The pictures that mining looks at: evenly spread over those given."""
    if sample < 2:
        raise InputError(f"sample {sample}: give at least 2 pictures to look at")
    given = load_images(images, size=SIZE)
    if len(given) < 2:
        raise InputError(f"images {images}: mining compares pictures; give at least 2")
    looked = min(sample, len(given))
    stay = [round(i * (len(given) - 1) / (looked - 1)) for i in range(looked)]
    return Pictures(
        given.pixels[stay],
        tuple(given.names[i] for i in stay),
        tuple(given.hashes[i] for i in stay),
        given.skipped,
        given.notes,
    )


def worded(domain: str, prompt: str, neutral: str, *, name: str) -> Wording:
    """The head of the corpus to be. Raises InputError."""
    said = " ".join(domain.split())
    if not said or len(said) > 80 or any(c in said for c in "{}"):
        raise InputError(f"domain {domain[:80]!r}: give a few words such as birds")
    if prompt and "{phrase}" not in prompt:
        raise InputError(f"prompt {prompt!r}: put {{phrase}} where the concept goes")
    if bool(prompt) != bool(neutral):
        raise InputError("prompt and neutral: give both or none")
    if not prompt and said in available():
        there = load_corpus(said)
        prompt, neutral = there.prompt, there.neutral
    return Wording(name, said, prompt, neutral)


def _source(given: Pictures, how: str, judge: Judge | None) -> str:
    return f"mined from {len(given)} pictures {how}, judge {judge.name if judge else 'none'}"


def _from_words(
    draft: Draft, given: Pictures, judge: Judge, wording: Wording, options: MiningOptions
) -> Mined:
    prompt = wording.prompt or f"a photo of {wording.domain} with {{phrase}}"
    full = replace(wording, prompt=prompt, neutral=wording.neutral or f"a photo of {wording.domain}")
    tidy, unfit = tidied(sorted_words(draft))
    tidy, twins = alike(tidy, judge, full, options)
    made = cleaned(tidy, given.pixels, wording=full, judge=judge, options=options)
    return replace(made, dropped=(*unfit, *twins, *made.dropped))


def _note(file: Path, made: Mined, usage: Usage, given: Pictures) -> None:
    """What a reader of the run folder wants to know beside the calls."""
    about = {
        "pictures": dict(zip(given.names, given.hashes, strict=True)),
        "usage": asdict(usage),
        "sources": list(made.corpus.sources),
        "dropped": [asdict(d) for d in made.dropped],
    }
    _write(file, json.dumps(about, indent=1, ensure_ascii=False))


def _write(file: Path, text: str) -> None:
    """Completely or not at all."""
    half = file.with_name(f"{file.name}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, "utf-8")
        half.replace(file)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise RunError(f"{file}: cannot be written ({error.strerror}); choose another --out") from None
