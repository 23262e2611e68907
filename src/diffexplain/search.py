"""Which edit to ask next, and when to stop: a beam search over the concept tree that races.

After DiffEx, Algorithm 1 (Kazimi et al., CVPR 2025), as a generator: it yields rounds of asks, receives
the measured rows, and never sees a model. Racing (Maron & Moore 1994) gives no more edits to candidates
that cannot reach the beam any more. A race edit is always made with a leaf and counts for every node
above it; a node is worth its best leaf, so children that cancel are not overlooked. The pictures of
the race are never those of the report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np
from scipy.stats import norm

from diffexplain.corpus import Concept, Corpus
from diffexplain.records import Ask, Direction, Effect, Question, Stage
from diffexplain.statistics import paired_difference

Method = Literal["race", "exhaustive"]
Rounds = Generator[list[Ask], Sequence[Effect], "Outcome"]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How the tree is searched."""

    method: Method = "race"
    beam: int = 8  # B: candidates kept at each level
    delta: float = 0.1  # δ, log-odds: what an effect must be able to reach
    confidence: float = 0.9  # of a race interval
    wave: int = 8  # race edits an inner node gets at a time
    leaf_wave: int = 2  # race edits a leaf gets at a time
    joint_steps: int = 3  # longest joint path
    joint_tries: int = 3  # candidates tried at each joint step
    directions: tuple[Direction, ...] = ("add", "remove")
    budget: int | None = None  # edits in all


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the search decided; every number is computed from the rows afterwards."""

    asked: tuple[Question, ...]  # every candidate that was considered, in order
    reported: tuple[Question, ...]  # those measured on images outside the race
    joint: tuple[Question, ...]  # the single questions on the joint path, in the order accepted
    notes: tuple[str, ...] = ()


@dataclass
class _State:
    """What the generator has seen so far."""

    rows: dict[tuple[str, str], list[Effect]] = field(default_factory=lambda: defaultdict(list))
    made: set[Ask] = field(default_factory=set)
    spent: int = 0
    notes: list[str] = field(default_factory=list)


def split(images: Sequence[str], method: Method) -> tuple[list[int], list[int]]:
    """Indices of the race's and of the report's images, by hash; too few to share: all report."""
    order = sorted(range(len(images)), key=lambda i: blake2b(images[i].encode()).digest())
    if method == "exhaustive" or len(images) < MINIMUM:
        return [], sorted(order)
    return sorted(order[: len(order) // 2]), sorted(order[len(order) // 2 :])


MINIMUM = 8  # images below which racing and reporting cannot share


def search(
    corpus: Corpus,
    images: Sequence[str],
    seeds: int,
    eligible: Callable[[int, int, str, Direction], bool],
    options: SearchOptions,
) -> Rounds:
    """Yield rounds of asks, receive their rows, return what was decided.

    `eligible(image, seed, leaf, direction)` is read from the reconstructions before any edit.
    """
    return _Search(corpus, images, seeds, eligible, options).run()


class _Search:
    def __init__(
        self,
        corpus: Corpus,
        images: Sequence[str],
        seeds: int,
        eligible: Callable[[int, int, str, Direction], bool],
        options: SearchOptions,
    ) -> None:
        self.corpus, self.seeds, self.eligible, self.options = corpus, seeds, eligible, options
        self.race, self.report = split(images, options.method)
        self.state = _State()
        if options.method == "race" and not self.race:
            self.state.notes.append(
                f"{len(images)} images are too few to race and report apart (at least {MINIMUM}): "
                "every concept was asked of every image"
            )

    def run(self) -> Rounds:
        if not self.race:
            return (yield from self._exhaustive())
        asked: dict[Question, None] = {}
        kept: dict[Question, None] = {}
        level = self._roots()
        while True:
            asked.update(dict.fromkeys(level))
            beam = yield from self._race(level)
            kept.update(dict.fromkeys(beam))
            inner = [q for q in beam if not self._node(q).is_leaf]
            if not inner:
                break
            level = [q for q in beam if self._node(q).is_leaf] + self._children(inner)
        joint = yield from self._joint(beam)
        reported = yield from self._report([*beam, *(q for q in kept if q not in beam)], joint)
        return Outcome(tuple(asked), reported, joint, tuple(self.state.notes))

    # -- the race ---------------------------------------------------------------------------------

    def _roots(self) -> list[Question]:
        return [
            Question.single(root, d)
            for root in self.corpus.roots
            for d in self.options.directions
            if self._leaves(root, d)
        ]

    def _children(self, inner: Iterable[Question]) -> list[Question]:
        return [
            Question.single(child.path, q.directions[0])
            for q in inner
            for child in self.corpus.children(q.concept)
            if self._leaves(child.path, q.directions[0])
        ]

    def _leaves(self, concept: str, direction: Direction) -> list[str]:
        return [
            leaf for leaf in self.corpus[concept].leaves if direction in self.corpus[leaf].directions
        ]

    def _node(self, question: Question) -> Concept:
        return self.corpus[question.concept]

    def _race(self, level: list[Question]) -> Generator[list[Ask], Sequence[Effect], list[Question]]:
        """Give edits wave by wave, dropping candidates that cannot reach the beam; return the beam."""
        alive = list(level)
        for _ in range(max(2, len(self.race))):
            asks = [a for q in alive for a in self._wave(q)]
            asks = self._affordable(list(dict.fromkeys(asks)))
            if not asks:
                break
            yield from self._ask(asks)
            alive = self._ruled(alive)
            if len(alive) <= self.options.beam:
                break
        worth = {q: self._worth(q) for q in alive}
        reach = [q for q in alive if worth[q][2] >= self.options.delta]
        return sorted(reach, key=lambda q: -worth[q][1])[: self.options.beam]

    def _wave(self, question: Question) -> list[Ask]:
        """The next few (leaf, image) pairs under a candidate: leaves in turn, each on its next image."""
        direction = question.directions[0]
        leaves = self._leaves(question.concept, direction)
        size = self.options.leaf_wave if self._node(question).is_leaf else self.options.wave
        pending = {leaf: self._pending(leaf, direction) for leaf in leaves}
        found: list[Ask] = []
        done = {leaf: len(self.state.rows[leaf, direction]) for leaf in leaves}
        while len(found) < size and any(pending.values()):
            leaf = min((x for x in leaves if pending[x]), key=lambda x: (done[x], leaves.index(x)))
            found.append(pending[leaf].pop(0))
            done[leaf] += 1
        return found

    def _pending(self, leaf: str, direction: Direction) -> list[Ask]:
        """Race edits of a leaf not made yet, starting at an image of its own so that leaves spread."""
        start = int.from_bytes(blake2b(leaf.encode(), digest_size=2).digest(), "little")
        turn = [self.race[(start + k) % len(self.race)] for k in range(len(self.race))]
        question = Question.single(leaf, direction)
        asks = [Ask(i, s, question, (leaf,), "race") for s in range(self.seeds) for i in turn]
        return [a for a in asks if a not in self.state.made and self.eligible(a.image, a.seed, leaf, direction)]

    def _worth(self, question: Question) -> tuple[float, float, float]:
        """(low, value, high) of the largest |mean Δ| among the leaves under a candidate."""
        direction = question.directions[0]
        spread = self._spread()
        z = float(norm.ppf(0.5 + self.options.confidence / 2))
        best = (0.0, 0.0, 0.0)
        for leaf in self._leaves(question.concept, direction):
            changes = [r.change for r in self.state.rows[leaf, direction]]
            if changes:
                value, half = abs(float(np.mean(changes))), z * spread / np.sqrt(len(changes))
                best = tuple(max(a, b) for a, b in zip(best, (value - half, value, value + half), strict=True))
        return best

    def _spread(self) -> float:
        """Standard deviation of Δ within leaves, pooled over all leaves edited at least twice."""
        groups = [[r.change for r in rows] for rows in self.state.rows.values() if len(rows) > 1]
        freedom = sum(len(g) - 1 for g in groups)
        if not freedom:
            return float("inf")
        return float(np.sqrt(sum(np.var(g) * len(g) for g in groups) / freedom))

    def _ruled(self, alive: list[Question]) -> list[Question]:
        worth = {q: self._worth(q) for q in alive}
        lows = sorted((low for low, _, _ in worth.values()), reverse=True)
        bar = lows[self.options.beam - 1] if len(lows) > self.options.beam else -np.inf
        return [q for q in alive if worth[q][2] >= bar]

    # -- the joint path -----------------------------------------------------------------------------

    def _joint(
        self, beam: list[Question]
    ) -> Generator[list[Ask], Sequence[Effect], tuple[Question, ...]]:
        """Greedy: keep a combination if it beats the path so far, as a paired difference (race images)."""
        means = {q: float(np.mean([r.change for r in rows])) for q in beam if (rows := self._rows(q))}
        if not means or self.options.joint_steps < 2:
            return ()
        ranked = sorted(means, key=lambda q: -abs(means[q]))
        path, steps = ranked[0], (ranked[0],)
        sign = float(np.sign(means[path]))
        rivals = [q for q in ranked[1:] if sign * means[q] > 0]
        while len(steps) < self.options.joint_steps:
            found = None
            for rival in [q for q in rivals if self._compatible(steps, q)][: self.options.joint_tries]:
                candidate = path.joined(rival)
                yield from self._ask(self._affordable(self._on_race(path) + self._on_race(candidate)))
                new, old = self._by_image(candidate), self._by_image(path)
                if len(new.keys() & old.keys()) < 3:
                    continue
                gain = paired_difference(
                    {k: sign * v for k, v in new.items()}, {k: sign * v for k, v in old.items()}
                )
                if gain.low > 0:
                    found = (candidate, rival)
                    break
            if found is None:
                break
            path, steps = found[0], (*steps, found[1])
        return steps

    def _compatible(self, steps: tuple[Question, ...], rival: Question) -> bool:
        """Not in a slot the path has used, and neither hides the other."""
        mine = self.corpus[rival.concept]
        for q in steps:
            theirs = self.corpus[q.concept]
            if q.concept == rival.concept or (mine.slot is not None and mine.slot == theirs.slot):
                return False
            if _covers(theirs.hidden_by, mine.path) or _covers(mine.hidden_by, theirs.path):
                return False
        return True

    def _on_race(self, question: Question) -> list[Ask]:
        stage: Stage = "race" if len(question.concepts) == 1 else "joint race"
        return [
            a
            for i in self.race
            for s in range(self.seeds)
            if self._all_eligible(i, s, question)
            and (a := Ask(i, s, question, question.concepts, stage)) not in self.state.made
        ]

    def _all_eligible(self, image: int, seed: int, question: Question) -> bool:
        pairs = zip(question.concepts, question.directions, strict=True)
        return all(self.eligible(image, seed, c, d) for c, d in pairs)

    def _rows(self, question: Question) -> list[Effect]:
        return self.state.rows[question.concept, question.direction]

    def _by_image(self, question: Question) -> dict[str, float]:
        groups: dict[str, list[float]] = defaultdict(list)
        for row in self._rows(question):
            groups[row.image].append(row.change)
        return {image: float(np.mean(changes)) for image, changes in groups.items()}

    # -- the report -----------------------------------------------------------------------------------

    def _report(
        self, questions: list[Question], joint: tuple[Question, ...]
    ) -> Generator[list[Ask], Sequence[Effect], tuple[Question, ...]]:
        """Measure what survived on the images outside the race, leaves first, then the joint path."""
        whole = [q for q in questions if self._node(q).is_leaf]
        whole += [q for q in questions if not self._node(q).is_leaf]
        asks: list[Ask] = []
        reported = []
        if len(joint) > 1:
            path = joint[0]
            for q in joint[1:]:
                path = path.joined(q)
            asks += [
                Ask(i, s, path, path.concepts, "joint report")
                for i in self.report
                for s in range(self.seeds)
                if self._all_eligible(i, s, path)
            ]
        for q in whole:
            mine = self._on_report(q)
            budget = self.options.budget
            if budget is not None and self.state.spent + len(asks) + len(mine) > budget:
                self.state.notes.append(f"the budget of {budget} edits was too small to report {q}")
                continue
            asks += mine
            reported.append(q)
        yield from self._ask(asks)
        return tuple(reported)

    def _on_report(self, question: Question) -> list[Ask]:
        node, direction = self._node(question), question.directions[0]
        found: list[Ask] = []
        for turn, i in enumerate(self.report):
            for s in range(self.seeds):
                if node.prompt:
                    leaves = [node.path] if self.eligible(i, s, node.path, direction) else []
                else:
                    leaves = [x for x in self._leaves(node.path, direction) if self.eligible(i, s, x, direction)]
                if leaves:
                    leaf = leaves[(turn * self.seeds + s) % len(leaves)]
                    found.append(Ask(i, s, question, (leaf,), "report"))
        return found

    def _exhaustive(self) -> Rounds:
        """Every node with words of its own, in every direction, on every eligible image."""
        questions = [
            Question.single(c.path, d)
            for c in self.corpus.walk()
            for d in self.options.directions
            if self._leaves(c.path, d)
        ]
        edited = [q for q in questions if self._node(q).prompt]
        reported = yield from self._report(edited, ())
        left_out = set(edited) - set(reported)
        return Outcome(
            tuple(questions), tuple(q for q in questions if q not in left_out), (), tuple(self.state.notes)
        )

    # -- asking ---------------------------------------------------------------------------------------

    def _affordable(self, asks: list[Ask]) -> list[Ask]:
        """What the race's share of the budget still pays for: half, the other half reports."""
        if self.options.budget is None:
            return asks
        return asks[: max(0, self.options.budget // 2 - self.state.spent)]

    def _ask(self, asks: list[Ask]) -> Generator[list[Ask], Sequence[Effect], None]:
        if not asks:
            return
        rows = yield asks
        self.state.made.update(asks)
        self.state.spent += len(asks)
        for row in rows:
            if row.eligible and "race" in row.stage:
                self.state.rows[row.concept, row.direction].append(row)


def _covers(paths: Iterable[str], concept: str) -> bool:
    return any(concept == p or concept.startswith(p + "/") for p in paths)
