"""Take a shortcut out of a classifier: damp the units that carry it, or fine-tune on counterfactual pairs.

Damping holds the flagged inputs of the last layer at their mean level (mean ablation), which folds into
that layer's weights. Fine-tuning asks for the right answer on both pictures of a pair and for the same
one (counterfactual data augmentation; logit pairing, Kannan et al. 2018), either in the last layer alone
(Kirichenko et al., ICLR 2023) or in all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from diffexplain.classifiers import Classifier, checked_logits
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.counterfactuals import Counterfactuals
from diffexplain.errors import ClassifierError, InputError
from diffexplain.records.audit import Standing
from diffexplain.statistics import mean_effect
from diffexplain.targets import Target

Method = Literal["damp", "last-layer", "all"]
ENOUGH = 0.5  # of the shortcut's gap may remain, when units are chosen
LOSS = 0.01  # of the accuracy on the training pictures may go, when units are chosen


@dataclass(frozen=True, slots=True)
class MitigationOptions:
    """How to mitigate. The rates suit AdamW on a few hundred pictures."""

    method: Method = "all"
    units: tuple[int, ...] | None = None  # damp these; None: chosen by what the shortcut moves
    keep: float = 0.0  # share of a damped unit's deviation from its mean level that stays
    steps: int = 200
    batch: int = 32
    rate: float | None = None  # of learning; None: 0.01 for the last layer, 0.0005 for all
    pairing: float = 1.0  # weight of the squared difference of log-odds within a pair
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"mitigation method {self.method!r}: choose {', '.join(get_args(Method))}")
        if not (0 <= self.keep < 1 and self.pairing >= 0):
            raise InputError(f"keep {self.keep:g}, pairing {self.pairing:g}: give 0 ≤ keep < 1, pairing ≥ 0")
        if self.steps < 1 or self.batch < 1:
            raise InputError(f"steps {self.steps}, batch {self.batch}: give whole numbers of at least 1")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures (N, 3, H, W), their names (content hashes), and their classes (N,) as label indices."""

    images: torch.Tensor
    names: tuple[str, ...]
    classes: torch.Tensor

    def rows(self, index: Sequence[int]) -> Labelled:
        """Some of them."""
        chosen = list(index)
        return Labelled(self.images[chosen], tuple(self.names[i] for i in chosen), self.classes[chosen])


class Damped(nn.Module):
    """Any torch network with some channels of a layer's output held near a fixed level.

    `layer`: a module's name; its output (N, C), (N, C, H, W) or, where `last`, (…, C) loses `1 - keep` of
    the units' deviation from `level` (one number a unit). Its state dict holds all of that, so
    `Damped(network, layer, units, level)` loads what was saved.
    """

    level: torch.Tensor
    factor: torch.Tensor
    units: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        units: Sequence[int],
        level: torch.Tensor | Sequence[float],
        *,
        keep: float = 0.0,
        last: bool = False,
    ) -> None:
        super().__init__()
        if layer not in dict(network.named_modules()):
            names = ", ".join(name for name, _ in network.named_modules() if name)
            raise InputError(f"layer {layer!r} is not in the network; layers are {names}")
        self.network, self._last = network, last
        self.register_buffer("units", torch.as_tensor(list(units), dtype=torch.long))
        self.register_buffer("level", torch.as_tensor(level, dtype=torch.float32).reshape(len(units)))
        self.register_buffer("factor", torch.tensor(float(keep)))
        network.get_submodule(layer).register_forward_hook(self._damp)

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """What the network says with the units damped."""
        return self.network(*inputs, **more)

    def _damp(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        channels = -1 if self._last or output.ndim < 4 else 1
        shape = [1] * output.ndim
        shape[channels] = len(self.units)
        level = self.level.to(output).view(shape)
        found = output.index_select(channels, self.units)
        return output.index_copy(channels, self.units, level + self.factor.to(output) * (found - level))


def network(classifier: Classifier) -> nn.Module:
    """The torch network behind a classifier. Raises ClassifierError when there is none."""
    found = getattr(classifier, "module", None)
    if isinstance(found, nn.Module):
        return found
    raise ClassifierError(
        f"classifier {classifier.name!r} gives scores only, and mitigation changes the network; "
        "load the network itself (pocket:, timm:, a torch module)"
    )


def rewrapped(classifier: Classifier, changed: nn.Module, name: str) -> ModuleClassifier:
    """The same labels and preprocessing over another network."""
    if not isinstance(classifier, ModuleClassifier):
        raise ClassifierError(f"classifier {classifier.name!r} is no ModuleClassifier: wrap it in one")
    return classifier.with_module(changed, name)


def last_linear(module: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer. Raises ClassifierError when there is none."""
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not found:
        raise ClassifierError("the network has no linear layer to mitigate at: fine-tune all of it")
    return found[-1]


def read_units(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    """What the last linear layer reads, (N, C), float64 on the CPU."""
    _, layer = last_linear(network(classifier))
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].detach()))
    try:
        checked_logits(classifier, images)
    finally:
        hook.remove()
    return torch.cat([x.double().cpu() for x in seen])[: len(images)]  # the last call was padded


def flagged_units(
    target: Target, pairs: Sequence[Counterfactuals], data: Labelled
) -> tuple[tuple[int, ...], torch.Tensor]:
    """The units that carry a shortcut rather than the class, and every unit's mean level (C,).

    A unit carries weight × mean activation change over the pairs of the shortcut's gap, and weight ×
    difference between the target class's pictures and the others' of the class. Units are taken in order of
    the shortcut's share of both, until half the gap is left or the accuracy on `data` falls by a point.
    """
    weight = _towards(target)
    change = torch.cat(
        [_signed(p) * (read_units(target.classifier, p.after) - read_units(target.classifier, p.before))
         for p in pairs]
    ).mean(0)  # fmt: skip
    read = read_units(target.classifier, data.images)
    mine = data.classes == target.classifier.labels.index(target.label)
    if not (mine.any() and (~mine).any()):
        raise InputError(f"the pictures are all of class {target.label!r} or none is: give both kinds")
    shortcut, core = weight * change, weight * (read[mine].mean(0) - read[~mine].mean(0))
    towards = shortcut * shortcut.sum().sign()
    share = towards.clamp(min=0) / (towards.abs() + core.abs()).clamp(min=1e-12)
    level = (read[mine].mean(0) + read[~mine].mean(0)) / 2
    before = accuracy(target.classifier, data)[0]
    chosen: list[int] = []
    for unit in share.argsort(descending=True).tolist():
        if towards[unit] <= 0 or towards.sum() - towards[chosen].sum() <= ENOUGH * towards.sum():
            break
        tried = rewrapped(
            target.classifier, folded(network(target.classifier), [*chosen, unit], level, 0.0), "tried"
        )
        if accuracy(tried, data)[0] >= before - LOSS:
            chosen.append(unit)
    return tuple(chosen), level


def _towards(target: Target) -> torch.Tensor:
    """How each unit moves the target's log-odds, to first order: (C,)."""
    _, layer = last_linear(network(target.classifier))
    weight = layer.weight.detach().double().cpu()
    k = target.classifier.labels.index(target.label)
    if len(weight) == 1:
        return weight[0] if k else -weight[0]
    if target.versus is not None:
        return weight[k] - weight[target.classifier.labels.index(target.versus)]
    others = [i for i in range(len(weight)) if i != k]
    return weight[k] - weight[others].mean(0)


def folded(module: nn.Module, units: Sequence[int], level: torch.Tensor, keep: float) -> nn.Module:
    """A copy whose last linear layer reads the units damped: the same architecture, other weights."""
    changed = copy.deepcopy(module)
    _, layer = last_linear(changed)
    chosen = list(units)
    with torch.no_grad():
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_features, device=layer.weight.device))
        lost = (1 - keep) * layer.weight[:, chosen]
        layer.bias.add_(lost @ level[chosen].to(lost))
        layer.weight[:, chosen] = layer.weight[:, chosen] - lost
    return changed


def fine_tuned(
    target: Target,
    pairs: Sequence[Counterfactuals],
    data: Labelled,
    options: MitigationOptions,
    tell: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """A copy of the network, trained on labelled pictures and on pairs of them that happened.

    Batch statistics stay as they were. Raises InputError when no pair of a labelled picture happened.
    """
    classes = dict(zip(data.names, data.classes.tolist(), strict=True))
    kept = [(p, i) for p in pairs for i, name in enumerate(p.images) if p.happened[i] and name in classes]
    if not kept:
        raise InputError("no edit of the shortcut happened in the training pictures; choose another editor")
    before = torch.stack([p.before[i] for p, i in kept])
    after = torch.stack([p.after[i] for p, i in kept])
    y = torch.tensor([classes[p.images[i]] for p, i in kept])
    changed = copy.deepcopy(network(target.classifier)).float()
    model = rewrapped(target.classifier, changed, "fine-tuned")
    learner = Target(model, target.label, target.versus)
    last = options.method == "last-layer"
    parameters = list(last_linear(changed)[1].parameters() if last else changed.parameters())
    rate = options.rate or (1e-2 if last else 5e-4)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, options.steps)
    rng = np.random.default_rng(options.seed)
    balance = _balance(data.classes)
    with _learning(changed, parameters):
        for step in range(options.steps):
            some = rng.choice(len(data.names), options.batch, p=balance)
            two = rng.integers(len(y), size=options.batch)
            asked = torch.cat([data.images[some], before[two], after[two]])
            z = model.logits(asked)
            truth = torch.cat([data.classes[some], y[two], y[two]]).to(z.device)
            score = learner.of_logits(z)[options.batch :]
            paired = (score[: options.batch] - score[options.batch :]).square().mean()
            loss = _error(z, truth) + options.pairing * paired / score.detach().square().mean().clamp(min=1.0)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            if tell:
                tell(step + 1, options.steps)
    return changed.eval()


def _balance(classes: torch.Tensor) -> np.ndarray:
    """Chances that draw every class equally often."""
    counts = torch.bincount(classes)
    chances = (1.0 / counts[classes]).double().numpy()
    return np.asarray(chances / chances.sum())


def _error(z: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    if z.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(z[:, 0], truth.to(z))
    return F.cross_entropy(z, truth)


@contextmanager
def _learning(module: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradient for these parameters only; afterwards as it was."""
    asked = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.requires_grad_(False)
        for p in parameters:
            p.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for p, before in asked:
            p.requires_grad_(before)
            p.grad = None


def _signed(pair: Counterfactuals) -> float:
    return -1.0 if pair.direction == "remove" else 1.0


def standing(target: Target, pairs: Sequence[Counterfactuals], data: Labelled) -> Standing:
    """The shortcut's gap (removals count the other way round), flips and balanced accuracy."""
    changes: list[np.ndarray] = []
    flips: list[np.ndarray] = []
    images: list[str] = []
    for p in pairs:
        before, after = target.score(p.before).numpy(), target.score(p.after).numpy()
        changes.append(_signed(p) * (after - before))
        flips.append((before > 0) != (after > 0))
        images.extend(p.images)
    if not images:
        raise InputError("no held-out picture could be edited: give more pictures")
    gap = mean_effect(np.concatenate(changes), images)
    right, low, high = accuracy(target.classifier, data)
    return Standing(gap.mean, gap.low, gap.high, float(np.concatenate(flips).mean()), right, low, high)


def accuracy(classifier: Classifier, data: Labelled, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean over classes of the share right, with its interval.

    Each class's variance is taken after one more right and one more wrong (Agresti & Coull 1998).
    """
    z = checked_logits(classifier, data.images)
    said = (z[:, 0] > 0).long() if z.shape[1] == 1 else z.argmax(1)
    rates, variance = [], 0.0
    for k in sorted(set(data.classes.tolist())):
        right = (said == k)[data.classes == k]
        rate = (float(right.sum()) + 1) / (len(right) + 2)
        rates.append(float(right.float().mean()))
        variance += rate * (1 - rate) / (len(right) + 2)
    reach = float(norm.ppf((1 + confidence) / 2)) * variance**0.5 / len(rates)
    mean = float(np.mean(rates))
    return mean, max(mean - reach, 0.0), min(mean + reach, 1.0)
