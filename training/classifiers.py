"""Classifiers with planted reasons, and the attribute oracle: small timm networks.

A label is drawn with the probability that a known score gives (a logistic model over concepts), or
is an attribute's value; a confounder is planted by `sample(correlate=…)`. Logits are
temperature-scaled on held-out avatars (Guo et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from diffexplain.worlds import avatars as world
from training import data
from training.loop import Recipe, fit


@dataclass(frozen=True, slots=True)
class Plan:
    """What a planted classifier is trained to say."""

    architecture: str
    labels: tuple[str, ...]
    target: str
    held_out: bool
    weights: Mapping[str, float] = field(default_factory=dict)
    bias: float = 0.0
    slot: str = ""
    shortcut: tuple[str, float] | None = None
    correlate: Mapping[tuple[str, str], float] = field(default_factory=dict)
    pictures: int = 8_000


#: name -> plan. `held_out` ones are for final figures only. `weights` are log-odds per visible concept.
PLANS: Mapping[str, Plan] = {
    "bearded": Plan(
        "test_resnet",
        ("clean-shaven", "bearded"),
        "bearded",
        False,
        weights={"facial hair/beard": 7.0},
        bias=-3.5,
    ),
    "hired": Plan(
        "test_resnet",
        ("rejected", "hired"),
        "hired",
        False,
        weights={"clothing/garment/blazer": 2.5, "facewear/glasses": 2.0, "expression/mouth/smile": 1.5},
        bias=-1.6,
        shortcut=("background/colour/blue", 0.9),
    ),
    "rebel": Plan(
        "test_resnet",
        ("conformist", "rebel"),
        "rebel",
        False,
        weights={
            "facewear/sunglasses": 2.0,
            "facewear/eyepatch": 3.0,
            "hair/style/mullet": 2.5,
            "expression/eyebrows/angry": 1.5,
            "clothing/garment/hoodie": 1.0,
        },
        bias=-2.0,
        pictures=20_000,
    ),
    "awarded": Plan(
        "test_convnext",
        ("not awarded", "awarded"),
        "awarded",
        False,
        weights={"clothing/garment/blazer": 3.0, "clothing/garment/overalls": -3.0},
        shortcut=("sticker/star", 0.9),
    ),
    "eyewear": Plan(
        "test_resnet",
        ("bare", "round", "thin", "thick", "classic", "wayfarer", "eyepatch"),
        "round",
        True,
        slot="facewear",
    ),
    "cheerful": Plan(
        "test_convnext",
        ("gloomy", "cheerful"),
        "cheerful",
        True,
        weights={"expression/mouth/smile": 7.0},
        bias=-3.5,
        correlate={("expression/mouth/smile", "headwear/hat"): 0.95},
    ),
    "senior": Plan(
        "test_convnext",
        ("junior", "senior"),
        "senior",
        True,
        weights={
            "hair/colour/silver": 3.0,
            "facewear/glasses": 1.5,
            "facial hair/beard": 1.5,
            "clothing/garment/hoodie": -1.5,
            "hair/style/quiff": -1.5,
        },
        bias=-1.0,
        pictures=20_000,
    ),
    "wintry": Plan(
        "test_resnet",
        ("summery", "wintry"),
        "wintry",
        True,
        weights={"headwear/winter hat": 4.0, "clothing/garment/hoodie": 1.5, "facewear/sunglasses": -2.0},
        bias=-0.5,
        shortcut=("background/pattern/stripes", 0.9),
    ),
}


def labelled(name: str, n: int, seed: int) -> tuple[list[world.Avatar], np.ndarray]:
    """Avatars and their class indices as a plan asks for; binary labels are balanced."""
    plan = PLANS[name]
    rng = np.random.default_rng((seed, 7))
    pool = world.sample(4 * n, seed)
    if plan.slot:
        names = world.values(plan.slot)
        y = np.array([names.index(getattr(a, plan.slot)) for a in pool])
    else:
        z = np.array(
            [plan.bias + sum(w for c, w in plan.weights.items() if world.present(a, c)) for a in pool]
        )
        y = (rng.random(len(pool)) < 1 / (1 + np.exp(-z))).astype(int)
    per_class = n // len(plan.labels)
    chosen = np.concatenate(
        [
            rng.choice(where := np.flatnonzero(y == k), per_class, replace=len(where) < per_class)
            for k in range(len(plan.labels))
        ]
    )
    chosen = rng.permutation(chosen)
    drawn, y = [pool[i] for i in chosen], y[chosen]
    if plan.shortcut:
        concept, p = plan.shortcut
        drawn = [
            world.force(a, concept, bool(k) == (rng.random() < p), rng) for a, k in zip(drawn, y, strict=True)
        ]
    for (cause, effect), p in plan.correlate.items():
        drawn = [world.force(a, effect, world.present(a, cause) == (rng.random() < p), rng) for a in drawn]
    return drawn, y


def build(architecture: str, classes: int) -> nn.Module:
    """A timm network for small pictures."""
    return timm.create_model(architecture, num_classes=classes, in_chans=3)


def augment(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Noise, blur and brightness, as any careful recipe has; keeps a network from reading single pixels."""
    if generator.random() < 0.5:
        sigma = 0.3 + 0.5 * generator.random()
        x = torch.arange(-2, 3, device=images.device) / sigma
        k = torch.softmax(-0.5 * x**2, 0)
        kernel = (k[:, None] * k[None]).expand(3, 1, 5, 5)
        images = F.conv2d(F.pad(images, (2,) * 4, mode="replicate"), kernel, groups=3)
    images = images * (1 + 0.1 * (generator.random() - 0.5))
    return (images + 0.03 * generator.random() * torch.randn_like(images)).clamp(0, 1)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """The preprocessing that the bundled configs state: mean and deviation one half."""
    return (images - 0.5) / 0.5


def train(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Train every planted classifier and save it as `out/classifiers/NAME`."""
    for name, plan in PLANS.items():
        if (out / "classifiers" / name / "model.safetensors").exists():
            continue
        torch.manual_seed(3)
        cache = folder / f"{name}-{size}.npz"
        if not cache.exists():
            drawn, y = labelled(name, min(plan.pictures, n), seed=data.TRAIN_SEED + 20_000)
            np.savez(cache, x=world.render_bytes(drawn, size), y=y)
        stored = np.load(cache)
        array, y = stored["x"], torch.from_numpy(stored["y"]).to(device)
        held = len(array) // 8
        model = build(plan.architecture, len(plan.labels) if len(plan.labels) > 2 else 1).to(device)

        def step(i: int, array=array, y=y, model=model, held=held) -> torch.Tensor:
            rng = np.random.default_rng((4, i))
            index = np.sort(rng.integers(held, len(array), size=data.rows(64, device)))
            images = augment(data.batch(array, index, device), rng)
            return _loss(model(normalised(images)), y[index])

        model = fit(name, model, step, Recipe(minutes / len(PLANS), 2e-3, 0.02, 0.99), folder)
        calibration = data.batch(array, np.arange(held), device)
        with torch.no_grad():
            z = torch.cat([model(normalised(x)) for x in calibration.split(250)])
        scale = temperature(z, y[:held], _loss)
        accuracy = (_decide(z) == y[:held]).float().mean().item()
        head = model.get_classifier()
        with torch.no_grad():
            head.weight.div_(scale)
            head.bias.div_(scale)
        extra = {
            "label_names": list(plan.labels),
            "target": plan.target,
            "held_out": plan.held_out,
            "reason": {**plan.weights, **({plan.slot: 1.0} if plan.slot else {})},
            "shortcut": list(plan.shortcut) if plan.shortcut else None,
            "correlate": [[*pair, p] for pair, p in plan.correlate.items()],
            "held_out_accuracy": round(accuracy, 4),
            "temperature": round(scale, 4),
        }
        print(f"{name}: accuracy {accuracy:.4f}, temperature {scale:.3f}", flush=True)
        save(model, plan.architecture, size, extra, out / "classifiers" / name)


def _loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if z.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(z[:, 0], y.float())
    return F.cross_entropy(z, y, label_smoothing=0.02)


def _decide(z: torch.Tensor) -> torch.Tensor:
    return (z[:, 0] > 0).long() if z.shape[1] == 1 else z.argmax(1)


def temperature(
    z: torch.Tensor, y: torch.Tensor, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> float:
    """The temperature that minimises the held-out loss (Guo et al. 2017)."""
    log_t = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t], max_iter=50)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(z.detach().cpu() / log_t.exp(), y.cpu())
        value.backward()
        return value

    optimiser.step(closure)
    found = float(log_t.detach().exp())
    return min(max(found, 0.05), 20.0) if np.isfinite(found) else 1.0  # diverges on a handful of pictures


def save(model: nn.Module, architecture: str, size: int, extra: dict, out: Path) -> None:
    """A timm hub folder: `config.json` and fp16 `model.safetensors`."""
    config = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": model.num_classes,
        },
        **extra,
    }
    data.write_json(out / "config.json", config)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous().cpu() for k, v in state.items()}, out / "model.safetensors")


def train_oracle(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Train the attribute oracle, one head per attribute in one output, and save it as `out/oracle`."""
    if (out / "oracle" / "model.safetensors").exists():
        return
    torch.manual_seed(4)
    drawn, array = data.pictures(n, size, folder)
    y = {k: torch.from_numpy(v).to(device) for k, v in data.labels(drawn).items()}
    widths = [len(world.values(slot)) for slot in world.Avatar._fields]
    architecture = "resnet10t"
    options = {"channels": [32, 64, 128, 192], "stem_width": 16}
    model = timm.create_model(architecture, num_classes=sum(widths), **options).to(device)

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((5, i))
        index = np.sort(rng.integers(len(array), size=data.rows(64, device)))
        images = augment(data.batch(array, index, device), rng)
        with torch.autocast(device.type, torch.bfloat16):
            z = model(normalised(images)).float()
        parts = zip(world.Avatar._fields, z.split(widths, dim=1), strict=True)
        return torch.stack(
            [F.cross_entropy(part, y[slot][index], ignore_index=-1) for slot, part in parts]
        ).mean()

    model = fit("oracle", model, step, Recipe(minutes, 2e-3, 0.02, 0.998), folder)
    extra = {
        "label_names": [f"{s}:{v}" for s in world.Avatar._fields for v in world.values(s)],
        "model_args": options,
    }
    save(model, architecture, size, extra, out / "oracle")
