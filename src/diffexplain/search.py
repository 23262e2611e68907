"""Which edit to ask next, and when to stop: a beam search over the concept tree that races.

After DiffEx, Algorithm 1 (Kazimi et al., CVPR 2025), as a generator: it yields rounds of asks, receives
the measured rows, and never sees a model. Racing (Maron & Moore 1994) gives no more edits to candidates
that cannot reach the beam any more. A race edit is always made with a leaf and counts for every node
above it; a node is worth its best leaf, so children that cancel are not overlooked. The pictures of
the race are never those of the report.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from math import fsum, inf, sqrt
from typing import Literal

from scipy.special import ndtri

from diffexplain.corpus import Concept, Corpus
from diffexplain.records import Ask, Direction, Effect, Question, Stage
from diffexplain.statistics import mean_effect

MINIMUM = 8  # images below which racing and reporting cannot share

Method = Literal["race", "exhaustive"]
Rounds = Generator[list[Ask], Sequence[Effect], "Outcome"]
Eligible = Callable[[int, int, str, Direction], bool]


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
    joint: tuple[Question, ...] = ()  # the single questions on the joint path, in the order accepted
    notes: tuple[str, ...] = ()
    ineligible: tuple[Question, ...] = ()  # those that no image could be edited for

    @property
    def path(self) -> Question | None:
        """The joint path as one question; None when nothing was combined."""
        return reduce(Question.joined, self.joint) if len(self.joint) > 1 else None


def split(images: Sequence[str], method: Method) -> tuple[list[int], list[int]]:
    """Indices of the race's and of the report's images, by hash; too few to share: all report."""
    order = sorted(range(len(images)), key=lambda i: blake2b(images[i].encode()).digest())
    half = 0 if method == "exhaustive" or len(images) < MINIMUM else len(images) // 2
    return order[:half], order[half:]


def search(
    corpus: Corpus, images: Sequence[str], seeds: int, eligible: Eligible, options: SearchOptions
) -> Rounds:
    """Yield rounds of asks, receive their rows, return what was decided; no round where none is possible.

    `eligible(image, seed, concept, direction)` is read from the reconstructions before any edit. Neither
    the order of the images nor that of the rows in a round matters, so the same rows give the same search.
    """
    return _Search(corpus, images, seeds, eligible, options).run()


class _Search:
    def __init__(
        self, corpus: Corpus, images: Sequence[str], seeds: int, eligible: Eligible, options: SearchOptions
    ) -> None:
        self.corpus, self.seeds, self.eligible, self.options = corpus, seeds, eligible, options
        self.race, self.report = split(images, options.method)
        self.rows: dict[tuple[str, str], list[Effect]] = defaultdict(list)
        self.turns: dict[tuple[str, Direction], deque[Ask]] = {}
        self.spent = 0
        self.cut = False  # whether the budget cut the race
        self.notes: list[str] = []
        if options.method == "race" and not self.race:
            self.notes.append(
                f"{len(images)} images are too few to race and report apart (at least {MINIMUM}): "
                "every concept was asked of every image"
            )

    def run(self) -> Rounds:
        if not self.race:
            return (yield from self._exhaustive())
        asked: dict[Question, None] = {}
        kept: dict[Question, None] = {}
        level = [q for d in self.options.directions for q in self._candidates(self.corpus.roots, d)]
        while True:
            asked.update(dict.fromkeys(level))
            beam = yield from self._race(level)
            kept.update(dict.fromkeys(beam))
            if all(self._node(q).is_leaf for q in beam):
                break
            level = [q for q in beam if self._node(q).is_leaf]
            for q in beam:
                level += self._candidates(self._node(q).children, q.directions[0])
        steps = yield from self._joint(beam)
        if self.cut:
            self.notes.append(
                f"the budget of {self.options.budget} edits ended the race early; half of it is the report's"
            )
        best = [*beam, *(q for q in kept if q not in beam)]
        reported, joint = yield from self._report(best, steps)
        return Outcome(tuple(asked), reported, joint, tuple(self.notes), self._ineligible(asked))

    def _candidates(self, concepts: Iterable[str], direction: Direction) -> list[Question]:
        return [Question.single(c, direction) for c in concepts if self._leaves(c, direction)]

    def _leaves(self, concept: str, direction: Direction) -> list[str]:
        return [x for x in self.corpus[concept].leaves if direction in self.corpus[x].directions]

    def _node(self, question: Question) -> Concept:
        return self.corpus[question.concept]

    def _ineligible(self, questions: Iterable[Question]) -> tuple[Question, ...]:
        images = self.race or self.report
        return tuple(
            q
            for q in questions
            if not any(
                self.eligible(i, s, leaf, q.directions[0])
                for leaf in self._leaves(q.concept, q.directions[0])
                for i in images
                for s in range(self.seeds)
            )
        )

    # -- the race ---------------------------------------------------------------------------------

    def _race(self, level: list[Question]) -> Generator[list[Ask], Sequence[Effect], list[Question]]:
        """Give edits wave by wave, dropping candidates that cannot reach the beam; return the beam."""
        alive = self._ruled(level)  # by what the levels above have shown of its leaves
        for _ in range(max(2, len(self.race))):
            asks = self._affordable([a for q in alive for a in self._wave(q)])
            if not asks:
                break
            yield from self._ask(asks)
            alive = self._ruled(alive)
            if len(alive) <= self.options.beam:
                break
        worth = self._worths(alive)
        reach = [q for q in alive if worth[q][2] >= self.options.delta]
        return sorted(reach, key=lambda q: -worth[q][1])[: self.options.beam]

    def _wave(self, question: Question) -> list[Ask]:
        """The next few (leaf, image) pairs under a candidate: least edited leaf first, on its next image."""
        direction = question.directions[0]
        leaves = self._leaves(question.concept, direction)
        size = self.options.leaf_wave if self._node(question).is_leaf else self.options.wave
        done = {leaf: len(self.rows[leaf, direction]) for leaf in leaves if self._turn(leaf, direction)}
        found: list[Ask] = []
        while len(found) < size and done:
            leaf = min(done, key=done.__getitem__)
            turn = self._turn(leaf, direction)
            found.append(turn.popleft())
            done[leaf] += 1
            if not turn:
                del done[leaf]
        return found

    def _turn(self, leaf: str, direction: Direction) -> deque[Ask]:
        """Race edits of a leaf still to ask, starting at an image of its own so that leaves spread."""
        if (leaf, direction) not in self.turns:
            start = int.from_bytes(blake2b(leaf.encode(), digest_size=2).digest(), "little") % len(self.race)
            turn = self.race[start:] + self.race[:start]
            self.turns[leaf, direction] = deque(self._asks(Question.single(leaf, direction), turn, "race"))
        return self.turns[leaf, direction]

    def _asks(self, question: Question, images: Sequence[int], stage: Stage) -> list[Ask]:
        """A question, as itself, of every image where it is eligible in all its parts."""
        parts = list(zip(question.concepts, question.directions, strict=True))
        return [
            Ask(i, s, question, question.concepts, stage)
            for s in range(self.seeds)
            for i in images
            if all(self.eligible(i, s, c, d) for c, d in parts)
        ]

    def _ruled(self, alive: list[Question]) -> list[Question]:
        """The candidates that can still reach the beam."""
        worth = self._worths(alive)
        lows = sorted((low for low, _, _ in worth.values()), reverse=True)
        bar = lows[self.options.beam - 1] if len(lows) > self.options.beam else -inf
        return [q for q in alive if worth[q][2] >= bar]

    def _worths(self, questions: Iterable[Question]) -> dict[Question, tuple[float, float, float]]:
        reach = float(ndtri(0.5 + self.options.confidence / 2)) * self._spread()
        return {q: self._worth(q, reach) for q in questions}

    def _worth(self, question: Question, reach: float) -> tuple[float, float, float]:
        """(low, value, high) of the largest |mean Δ| among the leaves under a candidate.

        A leaf that was not edited yet, but can be, may be worth anything.
        """
        low = value = high = 0.0
        direction = question.directions[0]
        for leaf in self._leaves(question.concept, direction):
            if rows := self.rows[leaf, direction]:
                mean, half = abs(_mean(rows)), reach / sqrt(len(rows))
                low, value, high = max(low, mean - half), max(value, mean), max(high, mean + half)
            elif self._turn(leaf, direction):
                high = inf
        return low, value, high

    def _spread(self) -> float:
        """Standard deviation of Δ within leaves, pooled over all leaves edited at least twice."""
        groups = [rows for rows in self.rows.values() if len(rows) > 1]
        freedom = sum(len(rows) - 1 for rows in groups)
        means = [_mean(rows) for rows in groups]
        squares = ((r.change - m) ** 2 for rows, m in zip(groups, means, strict=True) for r in rows)
        return sqrt(fsum(squares) / freedom) if freedom else inf

    # -- the joint path -----------------------------------------------------------------------------

    def _joint(self, beam: list[Question]) -> Generator[list[Ask], Sequence[Effect], tuple[Question, ...]]:
        """Greedy: keep a combination if it beats the path so far, as a paired difference (race images)."""
        means = {q: _mean(rows) for q in beam if (rows := self.rows[q.concept, q.direction])}
        if not means or self.options.joint_steps < 2:
            return ()
        best, *others = sorted(means, key=lambda q: -abs(means[q]))
        sign = 1.0 if means[best] > 0 else -1.0
        path = best
        steps: tuple[Question, ...] = (best,)
        rivals = [q for q in others if sign * means[q] > 0 and self._compatible(steps, q)]
        asks = list(self._turn(best.concept, best.directions[0])) if rivals else []
        while len(steps) < self.options.joint_steps:
            found = None
            for rival in [q for q in rivals if self._compatible(steps, q)][: self.options.joint_tries]:
                candidate = path.joined(rival)
                asks += self._asks(candidate, self.race, "joint race")
                yield from self._ask(self._affordable(asks))
                asks = []
                if self._gain(candidate, path, sign) > 0:
                    found = (candidate, rival)
                    break
            if found is None:
                break
            path, steps = found[0], (*steps, found[1])
        return steps

    def _gain(self, candidate: Question, path: Question, sign: float) -> float:
        """Lower bound of what a combination adds in the path's direction; -inf below three images."""
        old = {(r.image, r.seed): r.change for r in self.rows[path.concept, path.direction]}
        new = self.rows[candidate.concept, candidate.direction]
        pairs = [(sign * (r.change - old[key]), r.image) for r in new if (key := (r.image, r.seed)) in old]
        gains, images = [gain for gain, _ in pairs], [image for _, image in pairs]
        return mean_effect(gains, images).low if len(set(images)) > 2 else -inf

    def _compatible(self, steps: tuple[Question, ...], rival: Question) -> bool:
        """Whether it neither replaces nor hides anything on the path, nor the path it."""
        mine = self._node(rival)
        for theirs in map(self._node, steps):
            barred = (theirs.path, *theirs.hidden_by, *theirs.replaces)
            if _covers(barred, mine.path) or _covers((*mine.hidden_by, *mine.replaces), theirs.path):
                return False
        return True

    # -- the report -----------------------------------------------------------------------------------

    def _report(
        self, questions: Sequence[Question], steps: tuple[Question, ...] = ()
    ) -> Generator[list[Ask], Sequence[Effect], tuple[tuple[Question, ...], tuple[Question, ...]]]:
        """Measure on the images outside the race: leaves, the joint path, inner nodes, as the budget allows.

        Returns the single questions that were measured, and the joint path's steps if it was.
        """
        path = reduce(Question.joined, steps) if len(steps) > 1 else None
        order = [q for q in questions if self._node(q).is_leaf]
        order += [path] if path else []
        order += [q for q in questions if not self._node(q).is_leaf]
        asks: list[Ask] = []
        reported: list[Question] = []
        dropped: list[Question] = []
        for q in order:
            mine = self._on_report(q) if q != path else self._asks(q, self.report, "joint report")
            if self.options.budget is None or self.spent + len(asks) + len(mine) <= self.options.budget:
                asks += mine
                reported.append(q)
            else:
                dropped.append(q)
        if dropped:
            names = "; ".join(map(str, dropped[:3])) + (" …" if len(dropped) > 3 else "")
            self.notes.append(
                f"the budget of {self.options.budget} edits was too small to report "
                f"{len(dropped)} of {len(order)} questions: {names}"
            )
        yield from self._ask(asks)
        return tuple(q for q in reported if q != path), steps if path in reported else ()

    def _on_report(self, question: Question) -> list[Ask]:
        """A single question of every image outside the race; a node without words is shown by its leaves."""
        node, direction = self._node(question), question.directions[0]
        if node.prompt:
            return self._asks(question, self.report, "report")
        found: list[Ask] = []
        for turn, i in enumerate(self.report):
            for s in range(self.seeds):
                leaves = [x for x in self._leaves(node.path, direction) if self.eligible(i, s, x, direction)]
                if leaves:
                    leaf = leaves[(turn * self.seeds + s) % len(leaves)]
                    found.append(Ask(i, s, question, (leaf,), "report"))
        return found

    def _exhaustive(self) -> Rounds:
        """Every node with words of its own, in every direction, on every eligible image."""
        asked = [q for c in self.corpus for d in self.options.directions for q in self._candidates([c], d)]
        worded = [q for q in asked if self._node(q).prompt]
        reported, _ = yield from self._report(worded)
        missing = set(worded) - set(reported)

        def whole(q: Question) -> bool:
            """Nothing that the question is the mean of was left out."""
            parts = [q.concept] if self._node(q).prompt else self._leaves(q.concept, q.directions[0])
            return missing.isdisjoint(Question.single(part, q.directions[0]) for part in parts)

        done = tuple(q for q in asked if whole(q))
        return Outcome(tuple(asked), done, (), tuple(self.notes), self._ineligible(asked))

    # -- asking ---------------------------------------------------------------------------------------

    def _affordable(self, asks: list[Ask]) -> list[Ask]:
        """What the race's share of the budget still pays for: half, the other half reports."""
        if self.options.budget is None:
            return asks
        paid = asks[: max(0, self.options.budget // 2 - self.spent)]
        self.cut = self.cut or len(paid) < len(asks)
        return paid

    def _ask(self, asks: list[Ask]) -> Generator[list[Ask], Sequence[Effect], None]:
        if not asks:
            return
        rows = yield asks
        self.spent += len(asks)
        for row in rows:
            if row.eligible:
                self.rows[row.concept, row.direction].append(row)


def _mean(rows: Sequence[Effect]) -> float:
    """Mean Δ, the same to the last bit in whatever order the rows came."""
    return fsum(r.change for r in rows) / len(rows)


def _covers(paths: Iterable[str], concept: str) -> bool:
    return any(concept == p or concept.startswith(p + "/") for p in paths)
