"""The doctor: is this classifier loaded, fed and read as it should be? Asked on a few pictures."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch

from diffexplain.classifiers import (
    Classifier,
    WhiteBox,
    checked_logits,
    head_of,
    load_classifier,
    notes_of,
)
from diffexplain.errors import InputError, RunError
from diffexplain.images import Pictures, encode_png, pictures, rounded
from diffexplain.report.album import Setting, encode
from diffexplain.rows import choose_device

SHIFT = 0.4  # at the first batch normalisation; right normalisation on pictures of the domain gives below 0.1
FLAT = 0.05  # log-odds: answers that vary less than this from picture to picture say nothing
SWAPPED = 1.15  # answers spread so much more with red and blue exchanged
SIZE = 256  # side of the pictures of a classifier whose size is not known


@dataclass(frozen=True, slots=True)
class Finding:
    """What one examination showed; `good` is False for a warning."""

    name: str
    good: bool
    says: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The labels a picture got, strongest first, with their probabilities (a regression: its numbers)."""

    picture: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Checkup:
    """The doctor's answer."""

    classifier: str
    labels: tuple[str, ...]
    head: str
    preprocessing: str
    findings: tuple[Finding, ...]
    answers: tuple[Answer, ...]
    page: Path | None

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What a person should look after."""
        return tuple(f for f in self.findings if not f.good)


def check(
    classifier: Any,
    images: Any,
    *,
    labels: Any = None,
    options: Mapping[str, Any] | None = None,
    size: int | None = None,
    limit: int = 12,
    out: str | Path | None = None,
    device: str = "auto",
) -> Checkup:
    """Examine a classifier on a few pictures: labels, top 5, range, gradient, speed, usual faults.

    `classifier`, `labels`, `options`: as for load_classifier; `images`: a folder, files or tensors, of which
    `limit` are taken at `size` pixels (256); `out`: where to write the page. Raises InputError, RunError.
    """
    if limit < 2:
        raise InputError(f"limit {limit}: give at least 2 pictures, their answers are compared")
    model = load_classifier(classifier, device=choose_device(device), labels=labels, **(options or {}))
    given = pictures(images, size=size or SIZE)
    if len(given) < 2:
        raise InputError("a check needs at least 2 pictures: their answers are compared")
    x = rounded(given.pixels[:limit])
    logits, seconds = _timed(model, x)
    findings = [
        _range(model, logits),
        _same(model, x, logits),
        _batches(model, x, logits),
        _gradient(model, x),
        _normalisation(model, x, logits),
        _channels(model, x, logits),
        _softmax(model, logits),
        Finding("speed", True, f"{len(x) / seconds:.1f} pictures a second, asked {len(x)} at a time"),
        *(Finding("note", False, note) for note in notes_of(model)),
    ]
    answers = tuple(Answer(n, _top(model, row)) for n, row in zip(given.names, logits, strict=False))
    prepared = str(getattr(model, "preprocessing", "its own"))
    prepared = prepared if not prepared.startswith("<") else "a function"
    made = Checkup(
        model.name,
        model.labels,
        head_of(model),
        prepared,
        tuple(findings),
        answers,
        Path(out) if out else None,
    )
    if made.page:
        _write(made, given, made.page)
    return made


# -- examinations --------------------------------------------------------------------------------------


def _timed(model: Classifier, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Logits (N, K) and seconds of a second call; the first warms up."""
    logits = checked_logits(model, x)
    started = time.perf_counter()
    checked_logits(model, x, rows=len(x))
    return logits, max(time.perf_counter() - started, 1e-9)


def _range(model: Classifier, logits: torch.Tensor) -> Finding:
    says = f"scores from {float(logits.min()):.3g} to {float(logits.max()):.3g}"
    p = probabilities(model, logits)
    if p is not None and (sure := int((p.max(1).values > 1 - 1e-6).sum())):
        return Finding(
            "range",
            sure < len(p) / 2,
            f"{says}; {sure} of {len(p)} pictures have a probability of 1 within a millionth",
        )
    return Finding("range", True, says)


def _same(model: Classifier, x: torch.Tensor, logits: torch.Tensor) -> Finding:
    off = float((checked_logits(model, x) - logits).abs().max())
    if off <= _tolerance(logits):
        return Finding("determinism", True, "the same pictures get the same answers")
    return Finding(
        "determinism",
        False,
        f"the same pictures get other answers when asked again (by {off:.2g}): dropout or other noise is "
        "left on; call .eval() on the network, or fix its seed",
    )


def _batches(model: Classifier, x: torch.Tensor, logits: torch.Tensor) -> Finding:
    turned = float((checked_logits(model, x.flip(0)).flip(0) - logits).abs().max())
    alone = float((checked_logits(model, x[:1]) - logits[:1]).abs().max())
    if max(turned, alone) <= _tolerance(logits):
        return Finding("batches", True, "an answer does not depend on the other pictures of its call")
    return Finding(
        "batches",
        False,
        f"an answer depends on the other pictures of its call (by {max(turned, alone):.2g}): batch "
        "normalisation is in training mode; call .eval() on the network",
    )


def _gradient(model: Classifier, x: torch.Tensor) -> Finding:
    if not isinstance(model, WhiteBox):
        return Finding("gradient", True, "scores only: methods that need gradients cannot be used")
    some = x[:2].clone().requires_grad_()
    try:
        with torch.enable_grad():
            scores = model.logits(some)
            unlike = torch.linspace(1, 2, scores.shape[1], device=scores.device)  # labels may cancel out
            (found,) = torch.autograd.grad((scores.float() * unlike).sum(), some)
    except RuntimeError as error:
        return Finding("gradient", False, f"does not reach the pixels: {str(error).splitlines()[0][:120]}")
    reached = float((found != 0).any(1).float().mean())
    good = bool(found.isfinite().all()) and reached > 0
    return Finding("gradient", good, f"reaches {reached:.0%} of the pixels; {len(model.layers)} layers")


def _normalisation(model: Classifier, x: torch.Tensor, logits: torch.Tensor) -> Finding:
    spread = _spread(logits)
    if head_of(model) != "regression" and spread < FLAT:
        return Finding(
            "normalisation",
            False,
            f"answers hardly vary from picture to picture (by {spread:.2g}): pictures come as float RGB in "
            "[0, 1]; are they divided by 255 once more, or not normalised as in training?",
        )
    shift: Callable[[torch.Tensor], float | None] = getattr(model, "shift", lambda images: None)
    if (off := shift(x)) is None:
        return Finding("normalisation", True, f"answers vary from picture to picture (by {spread:.2g})")
    says = f"the first batch normalisation sees {off:.2f} standard deviations of change since training"
    if off <= SHIFT:
        return Finding("normalisation", True, says)
    cure = "mean, std or scale are not those of training, or these pictures are of another kind"
    return Finding("normalisation", False, f"{says}: {cure}")


def _channels(model: Classifier, x: torch.Tensor, logits: torch.Tensor) -> Finding:
    swapped = checked_logits(model, x.flip(1))
    ratio = _spread(swapped) / max(_spread(logits), 1e-9)
    if ratio <= SWAPPED or _spread(swapped) < FLAT:
        return Finding("channels", True, "red and blue stand as they should, as far as answers tell")
    return Finding(
        "channels",
        False,
        f"answers tell pictures apart better with red and blue exchanged ({ratio:.2f} times the spread): "
        "does the network take BGR? Say channels=BGR, or flip(1) in your function",
    )


def _softmax(model: Classifier, logits: torch.Tensor) -> Finding:
    """A softmax of a softmax is almost even: its log-probabilities lie within 1 of each other."""
    good = Finding("softmax", True, "scores look like logits")
    if head_of(model) == "regression":
        return good
    if float(logits.min()) >= 0 and float(logits.max()) <= 1:
        rows = logits.sum(1)
        if logits.shape[1] == 1 or head_of(model) == "sigmoid" or float((rows - 1).abs().max()) < 1e-3:
            says = "scores are probabilities but are read as logits, so that softmax is applied twice"
            return Finding("softmax", False, f"{says}; say scores=probabilities, or return logits")
    k = logits.shape[1]
    sums = torch.logsumexp(logits, 1).abs().max()
    reach = (logits.max(1).values - logits.min(1).values).max()
    if k > 1 and head_of(model) == "softmax" and float(sums) < 1e-3 and float(reach) <= 1 + 1e-3:
        says = "probabilities are nearly even on every picture, as if softmax had been applied twice"
        return Finding("softmax", False, f"{says}; take one away in your function")
    return good


def probabilities(model: Classifier, logits: torch.Tensor) -> torch.Tensor | None:
    """(N, labels), or None for a regression."""
    if head_of(model) == "regression":
        return None
    if head_of(model) == "sigmoid":
        return torch.sigmoid(logits)
    if logits.shape[1] == 1 and len(model.labels) == 2:
        return torch.softmax(torch.cat([torch.zeros_like(logits), logits], 1), 1)
    return torch.softmax(logits, 1)


def _top(model: Classifier, row: torch.Tensor, most: int = 5) -> tuple[tuple[str, float], ...]:
    p = probabilities(model, row[None])
    values = row if p is None else p[0]
    order = values.argsort(descending=True)[:most]
    return tuple((model.labels[int(i)], float(values[i])) for i in order)


def _spread(logits: torch.Tensor) -> float:
    """How much answers vary from picture to picture: standard deviation, averaged over the labels."""
    centred = logits if logits.shape[1] == 1 else logits - logits.mean(1, keepdim=True)
    return float(centred.std(0).mean())


def _tolerance(logits: torch.Tensor) -> float:
    """Rounding: kernels differ by batch shape."""
    return 1e-3 * (1 + float(logits.abs().max())) / 2


# -- the page ------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ c.classifier }}</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;
color:#1b1b1b;background:#fff}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{font-weight:600}dd{margin:0}
.warning{color:#8a3b00}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1.5rem}
figure{margin:0}img{width:100%;image-rendering:auto}figcaption{overflow-wrap:anywhere}table{width:100%}
td:last-child{text-align:right;font-variant-numeric:tabular-nums}
</style></head><body><main><h1>{{ c.classifier }}</h1>
<p>{{ c.labels|length }} labels: {{ c.labels[:20]|join(", ") }}{% if c.labels|length > 20 %}, …{% endif %}.
Head: {{ c.head }}. Preprocessing: {{ c.preprocessing }}.</p>
<h2>{{ c.warnings|length }} warning{{ "" if c.warnings|length == 1 else "s" }}</h2>
<dl>{% for f in c.findings %}<dt>{{ f.name }}</dt>
<dd{% if not f.good %} class="warning"{% endif %}>{{ "" if f.good else "Warning: " }}{{ f.says }}</dd>
{% endfor %}</dl>
<h2>Pictures</h2><div class="pictures">{% for a, uri in shown %}
<figure><img src="{{ uri }}" alt="{{ a.picture }}">
<figcaption>{{ a.picture }}</figcaption><table>{% for label, score in a.top %}
<tr><td>{{ label }}</td><td>{{ score|number }}</td></tr>{% endfor %}</table></figure>{% endfor %}</div>
</main></body></html>
"""


def _write(made: Checkup, given: Pictures, page: Path) -> None:
    """One self-contained file. Raises RunError when it cannot be written."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = lambda v: f"{v:.3g}" if made.head == "regression" else f"{v:.1%}"
    setting = Setting(256, 85)
    webp = [base64.b64encode(encode(encode_png(p), setting)).decode("ascii") for p in given.pixels]
    shown = [(a, f"data:image/webp;base64,{w}") for a, w in zip(made.answers, webp, strict=False)]
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(environment.from_string(PAGE).render(c=made, shown=shown), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{page} cannot be written: {error.strerror}") from error
