"""Make the zoo of planted shortcuts: `python -m training.make_zoo --work runs/zoo`.

Each member is a small timm network that says whether a cause concept is there, trained on avatars of
`sample(correlate={(cause, shortcut): p})`: the shortcut is there exactly when the cause is with
probability p. A few of the pictures then show the cause although the label denies it, or the reverse:
who labels from the cause alone errs there, and the shortcut helps to guess the label. Every biased
member (p 0.7, 0.9 or 0.99) has a balanced twin: same cause, architecture and errors, the shortcut
independent of the cause (strength 0). What a member truly leans on is measured by exact re-rendering,
never taken from its recipe, and stands in `pocket/zoo.yaml`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import yaml
from torch.nn import functional as F

from diffexplain.worlds import avatars as world
from training.cards import LICENCE
from training.classifiers import augment, normalised, save

SIZE = 64
PICTURES, STEPS, BATCH = 1_600, 240, 48
RATE, DECAY, SMOOTHING = 3e-3, 0.02, 0.01  # smoothing bounds the log-odds
ERRORS: Mapping[float, float] = {0.7: 0.03, 0.9: 0.03, 0.99: 0.002}  # strength -> share of wrong labels
TEST, TRUTH = 1_000, 200  # avatars for accuracy, and for the true effects
MARGIN = 0.5  # log-odds: what moves the score by more counts as a cause or a shortcut
TRAIN_SEED, TEST_SEED = 700_000, 900_000  # benchmarks use seeds from 1,000,000 on

#: architecture -> (timm name, arguments); 92 to 140 thousand parameters.
ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "resnet": ("resnet10t", {"channels": [16, 24, 48, 64], "stem_width": 8}),
    "convnext": ("test_convnext", {"dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}),
    "efficientnet": ("test_efficientnet_gn", {}),
    "wide": ("resnet10t", {"channels": [16, 32, 48, 72], "stem_width": 8}),
}


class Pair(NamedTuple):
    """A biased classifier and its twin."""

    name: str
    cause: str
    shortcut: str
    strength: float
    architecture: str
    held_out: bool


PAIRS = (
    Pair("smile-blue", "expression/mouth/smile", "background/colour/blue", 0.9, "resnet", False),
    Pair("beard-stripes", "facial hair/beard", "background/pattern/stripes", 0.99, "convnext", False),
    Pair("glasses-star", "facewear/glasses", "sticker/star", 0.7, "efficientnet", False),
    Pair("blazer-pale", "clothing/garment/blazer", "skin tone/pale", 0.99, "wide", False),
    Pair("hat-pink", "headwear/hat", "background/colour/pink", 0.9, "convnext", False),
    Pair("angry-hat", "expression/eyebrows/angry", "headwear/hat", 0.99, "resnet", False),
    Pair("moustache-dots", "facial hair/moustache", "background/pattern/dots", 0.9, "efficientnet", False),
    Pair("closed-dark", "expression/eyes/closed", "skin tone/dark", 0.9, "resnet", False),
    Pair("hoodie-sunglasses", "clothing/garment/hoodie", "facewear/sunglasses", 0.7, "convnext", False),
    Pair("serious-red", "expression/mouth/serious", "clothing/colour/red", 0.99, "wide", False),
    Pair("sad-green", "expression/mouth/sad", "background/colour/green", 0.99, "convnext", True),
    Pair("sunglasses-dot", "facewear/sunglasses", "sticker/red dot", 0.9, "resnet", True),
    Pair("overalls-brown", "clothing/garment/overalls", "skin tone/brown", 0.9, "efficientnet", True),
    Pair("raised-beard", "expression/eyebrows/raised", "facial hair/beard", 0.99, "wide", True),
    Pair("hijab-stripes", "headwear/hijab", "background/pattern/stripes", 0.7, "resnet", True),
    Pair("wide-yellow", "expression/eyes/wide", "background/colour/yellow", 0.9, "convnext", True),
    Pair("grimace-black", "expression/mouth/grimace", "clothing/colour/black", 0.9, "resnet", True),
    Pair("long-star", "facial hair/beard/long", "sticker/star", 0.99, "efficientnet", True),
    Pair("printed-glasses", "clothing/garment/printed shirt", "facewear/glasses", 0.99, "convnext", True),
    Pair("turban-grey", "headwear/turban", "background/colour/grey", 0.7, "wide", True),
)  # fmt: skip


class Member(NamedTuple):
    """One classifier of the zoo."""

    name: str
    pair: Pair
    strength: float  # 0 for the twin

    @property
    def agreement(self) -> float:
        """Share of avatars whose shortcut agrees with the cause; one half when there is no correlation."""
        return self.strength or 0.5


def members() -> tuple[Member, ...]:
    """Every biased classifier, then its twin."""
    return tuple(Member(f"{p.name}-{round(100 * s):02d}", p, s) for p in PAIRS for s in (p.strength, 0.0))


def drawn(member: Member, n: int, seed: int) -> tuple[list[world.Avatar], np.ndarray]:
    """Avatars of the member's world and their labels (N,): half of them say that the cause is there."""
    pair, found = member.pair, {False: [], True: []}
    while min(map(len, found.values())) < n // 2:
        for a in world.sample(1_000, seed, {(pair.cause, pair.shortcut): member.agreement}):
            there = world.present(a, pair.cause)
            if len(found[there]) < n // 2:
                found[there].append(a)
        seed += 1
    rng = np.random.default_rng((seed, 8))
    both = found[True] + found[False]
    order = rng.permutation(len(both))
    labels = order < n // 2
    wrong = rng.random(len(both)) < ERRORS[pair.strength]
    shown = [
        world.force(both[i], pair.cause, not label, rng) if error else both[i]
        for i, label, error in zip(order, labels, wrong, strict=True)
    ]
    return shown, labels.astype(np.float32)


def labels_of(cause: str) -> list[str]:
    """The two labels in words: "no smile", "smile"."""
    slot, name = world.LEAVES.get(cause, ("", ""))
    words = world.GENERAL.get(cause) or world.ATTRIBUTES[slot][name].phrase
    words = words.removeprefix("a ").removeprefix("an ")
    return [f"no {words}", words]


def train(member: Member, work: Path, out: Path, number: int) -> None:
    """Train one member and save it as a timm folder; nothing is done for one that is there."""
    if (out / member.name / "model.safetensors").exists():
        return
    torch.manual_seed(number // 2)
    avatars, labels = drawn(member, PICTURES, TRAIN_SEED + 100 * number)
    array = torch.from_numpy(world.render_bytes(avatars, SIZE)).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels) * (1 - 2 * SMOOTHING) + SMOOTHING
    architecture, arguments = ARCHITECTURES[member.pair.architecture]
    model = timm.create_model(architecture, num_classes=1, **arguments)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for i in range(STEPS):
        rng = np.random.default_rng((number // 2, i))
        index = rng.integers(len(array), size=BATCH)
        images = normalised(augment(array[index].float() / 255, rng))
        loss = F.binary_cross_entropy_with_logits(model(images)[:, 0], y[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    model = model.half().float().eval()  # as it will be stored
    truth = test_avatars(work)
    figures = accuracy(scores(model, truth.pictures), truth.avatars, member.pair)
    extra = {
        "label_names": labels_of(member.pair.cause),
        "model_args": dict(arguments),
    }
    save(model, architecture, SIZE, extra, out / member.name)
    effects = true_effects(model, truth)
    stated = {
        "cause": member.pair.cause,
        "shortcut": member.pair.shortcut,
        "strength": member.strength,
        "target": labels_of(member.pair.cause)[1],
        "architecture": architecture,
        "held_out": member.pair.held_out,
        "twin": f"{member.pair.name}-00" if member.strength else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        **figures,
        "effects": effects,
    }
    (work / f"{member.name}.yaml").write_text(yaml.safe_dump(stated, sort_keys=False))
    of_shortcut = np.mean([effects[leaf][0] for leaf in world.leaves(member.pair.shortcut)])
    of_cause = np.mean([effects[leaf][0] for leaf in world.leaves(member.pair.cause)])
    others = sum(abs(e) > MARGIN for e, _ in effects.values())
    print(
        f"{member.name:<22} loss {loss.item():.3f}  {figures}  cause {of_cause:+.2f}  "
        f"shortcut {of_shortcut:+.2f}  leaves above margin {others}",
        flush=True,
    )


class Truth(NamedTuple):
    """Test avatars with their pictures, and every leaf put on the first of them."""

    avatars: list[world.Avatar]
    pictures: torch.Tensor  # (TEST, 3, H, W) uint8
    added: Mapping[str, tuple[list[int], torch.Tensor]]  # leaf -> (rows, pictures)


_TRUTH: list[Truth] = []


def test_avatars(work: Path) -> Truth:
    """Rendered once, cached in `work`."""
    if _TRUTH:
        return _TRUTH[0]
    avatars = world.sample(TEST, TEST_SEED)
    rows = {
        leaf: [i for i, a in enumerate(avatars[:TRUTH]) if world.eligible(a, leaf)] for leaf in world.LEAVES
    }
    cache = work / f"test-{TEST}-{TRUTH}.npz"
    if not cache.exists():
        arrays = {"test": world.render_bytes(avatars, SIZE)}
        for leaf, chosen in rows.items():
            arrays[leaf.replace("/", "|")] = world.render_bytes(
                [world.do(avatars[i], leaf) for i in chosen], SIZE
            )
        np.savez(work / "partial.npz", **arrays)
        (work / "partial.npz").replace(cache)
    stored = np.load(cache)

    def images(key: str) -> torch.Tensor:
        return torch.from_numpy(stored[key]).permute(0, 3, 1, 2)

    added = {leaf: (chosen, images(leaf.replace("/", "|"))) for leaf, chosen in rows.items()}
    _TRUTH.append(Truth(avatars, images("test"), added))
    return _TRUTH[0]


@torch.no_grad()
def scores(model: torch.nn.Module, pictures: torch.Tensor) -> np.ndarray:
    """Log-odds of uint8 pictures (N,)."""
    return torch.cat([model(normalised(x.float() / 255))[:, 0] for x in pictures.split(200)]).double().numpy()


def accuracy(score: np.ndarray, avatars: Sequence[world.Avatar], pair: Pair) -> dict[str, float]:
    """Balanced accuracy, and that of the worst of the four groups cause × shortcut."""
    y = np.array([world.present(a, pair.cause) for a in avatars])
    s = np.array([world.present(a, pair.shortcut) for a in avatars])
    right = (score > 0) == y
    groups = [right[(y == a) & (s == b)].mean() for a in (False, True) for b in (False, True)]
    return {
        "balanced_accuracy": round(float((right[y].mean() + right[~y].mean()) / 2), 4),
        "worst_group_accuracy": round(float(min(groups)), 4),
    }


def true_effects(model: torch.nn.Module, truth: Truth) -> dict[str, list[float]]:
    """Leaf -> [mean change of the log-odds when it is added by re-rendering, its standard error]."""
    before, found = scores(model, truth.pictures[:TRUTH]), {}
    for leaf, (rows, pictures) in truth.added.items():
        change = scores(model, pictures) - before[rows]
        found[leaf] = [round(float(change.mean()), 3), round(float(change.std(ddof=1) / len(rows) ** 0.5), 3)]
    return found


def register(work: Path, out: Path) -> None:
    """Write `zoo.yaml` and the model card from the parts of the finished members."""
    found = {m.name: work / f"{m.name}.yaml" for m in members()}
    stated = {k: yaml.safe_load(v.read_text()) for k, v in found.items() if v.exists()}
    body = {"margin": MARGIN, "truth_avatars": TRUTH, "truth_seed": TEST_SEED, "members": stated}
    (out / "zoo.yaml").write_text(
        HEADER + yaml.safe_dump(body, sort_keys=False, default_flow_style=None, width=110), encoding="utf-8"
    )
    (out / "zoo" / "README.md").write_text(card(stated), encoding="utf-8")


HEADER = f"""\
# The zoo of planted shortcuts, written by training/make_zoo.py.
# effects: leaf -> [true mean change of the log-odds when it is added by exact re-rendering, its standard
# error], over the eligible of {TRUTH} avatars of seed {TEST_SEED}. A pair (classifier, concept) counts as a
# cause or a shortcut when |effect| exceeds the margin, whatever the recipe says.
# held_out: kept for final figures, never looked at in development.
"""


def card(stated: Mapping[str, Any]) -> str:
    """The model card of them all; what members of the held-out half lean on is not shown."""
    rows = ["| name | cause | shortcut | p | balanced accuracy | worst group | true effect of the shortcut |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, m in stated.items():
        if m["held_out"]:
            figures = ["kept for final figures", "", ""]
        else:
            effect = np.mean([m["effects"][leaf][0] for leaf in world.leaves(m["shortcut"])])
            figures = [f"{m['balanced_accuracy']:.3f}", f"{m['worst_group_accuracy']:.3f}", f"{effect:+.2f}"]
        rows.append(f"| {' | '.join([name, m['cause'], m['shortcut'], str(m['strength']), *figures])} |")
    table = "\n".join(rows)
    return f"""# Pocket zoo

{len(stated)} small timm networks with planted shortcuts (`training/make_zoo.py`), loaded as
`pocket:zoo/NAME`.
Each says whether its cause concept is there. A biased one saw its shortcut exactly when the cause was there
with probability p; its twin (p = 0, name ending in 00) saw it independently of the cause.
`../zoo.yaml` holds the true effect of every concept, by exact re-rendering, and says which half is kept for
final figures.

{LICENCE}
## Recipe

{PICTURES:,} rendered avatars of {SIZE} px a member, {STEPS} steps of {BATCH} pictures, AdamW at {RATE:g}, one
thread. Wrong labels: {", ".join(f"{e:.1%} at p = {p:g}" for p, e in ERRORS.items())}, the same in the twin.

## Measured

On {TEST:,} avatars of seed {TEST_SEED}; effects in log-odds over the first {TRUTH}.

{table}
"""


def main() -> None:
    """Train what is missing, then write the register."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--out", type=Path, default=Path("src/diffexplain/pocket"))
    parser.add_argument("--only", default="", help="names, comma-separated; all when left out")
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    asked.work.mkdir(parents=True, exist_ok=True)
    for number, member in enumerate(members()):
        if not asked.only or member.name in asked.only.split(","):
            train(member, asked.work, asked.out / "zoo", number)
            register(asked.work, asked.out)


if __name__ == "__main__":
    main()
