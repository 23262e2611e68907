"""Which edit to ask next, and when to stop: a beam over the concept tree, found by a race of its leaves.

After DiffEx, Algorithm 1 (Kazimi et al., CVPR 2025), as a generator: it yields rounds of asks, receives
the measured rows, and never sees a model. Instead of scoring level after level it looks for the B strongest
leaves; they and the nodes above them are the beam of every level. First a spread of leaves is edited: all
in a small tree, √(first · leaves) of them in a large one. After each round `racing` says, from a leaf's own
rows and its relatives', how likely it is on the wrong side of the beam's edge, and the most doubtful get the
next edits: racing (Maron & Moore 1994), where edited and unedited leaves compete as the arms of a tree do in
hierarchical optimistic optimisation (Bubeck et al. 2011). The race ends when (1 − confidence) · B leaves at
most are expected to be on the wrong side. Its pictures are never those of the report.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from hashlib import blake2b
from itertools import accumulate, zip_longest
from math import inf, isqrt, sqrt
from typing import Literal

from scipy.special import ndtri

from diffexplain.corpus import Concept, Corpus
from diffexplain.racing import Belief, Seen, beliefs, doubts, in_turns, noise
from diffexplain.records import Ask, Direction, Effect, Question, Stage
from diffexplain.statistics import mean_effect

WAVES = 8  # a wave edits an eighth of what the race has spent at most, or `wave` leaves a place
#: a screened race begins with as many times the leaves, and ends at that share of the doubt; where the tree
#: is too large for each leaf to be edited at first, at that share of it again.
SCREEN_LEAVES, SCREEN_DOUBT, SCREEN_DEEPER = 4, 0.4, 0.6
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
    confidence: float = 0.95  # share of the beam that is to be right
    deeper: float = 1.0  # share of the doubt at which the race of a tree of more leaves than `first` ends
    wave: int = 8  # leaves raced at a time for each place in the beam
    leaf_wave: int = 2  # race edits a leaf gets at a time
    first: int = 256  # leaves of a tree up to which each is edited
    joint_steps: int = 3  # longest joint path
    joint_tries: int = 3  # candidates tried at each joint step
    directions: tuple[Direction, ...] = ("add", "remove")
    budget: int | None = None  # edits in all
    reserve: int = 0  # of the budget, for the controls that follow the search

    @property
    def spendable(self) -> int | None:
        """Edits that the search itself may make; None without a budget."""
        return None if self.budget is None else max(0, self.budget - self.reserve)

    def screened(self) -> SearchOptions:
        """The same for a race whose edits a screening editor makes: they cost little, so it goes deeper."""
        confidence = 1 - (1 - self.confidence) * SCREEN_DOUBT
        return replace(self, first=self.first * SCREEN_LEAVES, confidence=confidence, deeper=SCREEN_DEEPER)

    def doubt(self, leaves: int) -> float:
        """How many leaves may be expected on the wrong side of the beam's edge when the race ends."""
        return (1 - self.confidence) * self.beam * (self.deeper if leaves > self.first else 1.0)


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
        self.seen: dict[Question, Seen] = {}  # of leaves, in the race
        self.turns: dict[Question, deque[Ask]] = {}
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
        beam = yield from self._race()
        steps = yield from self._joint(beam)
        if self.cut:
            self.notes.append(
                f"the budget of {self.options.budget} edits ended the race early; half of it is the report's"
            )
        above = dict.fromkeys(a for q in beam for a in self._above(q))
        asked = self._asked(above)
        reported, joint = yield from self._report([*beam, *above], steps)
        return Outcome(asked, reported, joint, tuple(self.notes), self._ineligible(asked))

    def _above(self, question: Question) -> list[Question]:
        """The same of every node above, the nearest first."""
        found: list[Question] = []
        above = self._node(question).parent
        while above is not None and above in self.corpus:
            found.append(Question.single(above, question.directions[0]))
            above = self.corpus[above].parent
        return found

    def _asked(self, above: Iterable[Question]) -> tuple[Question, ...]:
        """The roots and the children of every node above the beam, level by level."""
        nodes = sorted(above, key=lambda q: self._node(q).depth)
        level = [q for d in self.options.directions for q in self._candidates(self.corpus.roots, d)]
        for q in nodes:
            level += self._candidates(self._node(q).children, q.directions[0])
        return tuple(dict.fromkeys(level))

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
                self.eligible(i, s, concept, q.directions[0])
                for concept in self._edited(q)
                for i in images
                for s in range(self.seeds)
            )
        )

    def _edited(self, question: Question) -> list[str]:
        """What is edited for a question: its leaves; without a race also the node itself, if it has words."""
        own = [question.concept] if not self.race and self._node(question).prompt else []
        return own + self._leaves(question.concept, question.directions[0])

    # -- the race ---------------------------------------------------------------------------------

    def _race(self) -> Generator[list[Ask], Sequence[Effect], list[Question]]:
        """Edit a spread of leaves, then the most doubtful ones, wave by wave; return the beam of leaves."""
        leaves = [q for q in self._spread() if self._turn(q)]
        first = min(len(leaves), isqrt(self.options.first * len(leaves)))
        asks = self._wave(leaves[:first], self.options.leaf_wave)
        while paid := self._affordable(asks):
            yield from self._ask(paid)
            asks = self._wave(self._doubtful(leaves), 1)
        return self._beam(leaves)

    def _spread(self) -> list[Question]:
        """Every leaf in every direction, from all over the tree in turns."""
        leaves = [self.corpus[x] for x in in_turns(self.corpus, self.corpus.roots)]
        return [
            Question.single(x.path, d) for x in leaves for d in self.options.directions if d in x.directions
        ]

    def _wave(self, leaves: Sequence[Question], fresh: int) -> list[Ask]:
        """The next few edits of each of these leaves, `fresh` of one that had none yet."""
        sizes = [self.options.leaf_wave if q in self.seen else fresh for q in leaves]
        taken = [
            [turn.popleft() for _ in range(min(size, len(turn)))]
            for size, turn in zip(sizes, map(self._turn, leaves), strict=True)
        ]
        return [ask for asks in zip_longest(*taken) for ask in asks if ask]

    def _doubtful(self, leaves: Sequence[Question]) -> list[Question]:
        """The leaves to edit next, the most doubtful first; none when little doubt is left."""
        doubt = doubts(self._beliefs(leaves), self.options.beam, self.options.delta)
        spare = self.options.doubt(len(leaves))
        some = [i for i, q in enumerate(leaves) if doubt[i] > spare / len(leaves) and self._turn(q)]
        some.sort(key=lambda i: -doubt[i])
        left = list(accumulate(doubt[i] for i in reversed(some)))[::-1]  # what it and those after it hold
        if not left or left[0] <= spare:
            return []
        least, most = self.options.wave * self.options.beam, self.spent // WAVES
        enough = sum(rest > spare for rest in left)
        return [leaves[i] for i in some[: max(least, min(most, enough))]]

    def _beliefs(self, leaves: Sequence[Question]) -> list[Belief]:
        """What each leaf may be worth; each direction has families of its own."""
        sigma = noise(self.seen.values())
        found: dict[Question, Belief] = {}
        for d in self.options.directions:
            mine = [q for q in leaves if q.direction == d]
            seen = {q.concept: self.seen[q] for q in mine if q in self.seen}
            paths = [q.concept for q in mine]
            belief = beliefs(self.corpus, paths, seen, sigma=sigma, scale=self.options.delta)
            found.update(zip(mine, belief, strict=True))
        return [found[q] for q in leaves]

    def _beam(self, leaves: Sequence[Question]) -> list[Question]:
        """The strongest edited leaves among those that may reach δ, by an interval of their own rows."""
        z, sigma = ndtri(0.5 + self.options.confidence / 2), noise(self.seen.values())
        value = {q: abs(b.mean) for q, b in zip(leaves, self._beliefs(leaves), strict=True)}
        high = {q: abs(seen.mean) + z * sigma / sqrt(seen.edits) for q, seen in self.seen.items()}
        reach = [q for q in leaves if q in high and high[q] >= self.options.delta]
        return sorted(reach, key=lambda q: -value[q])[: self.options.beam]

    def _turn(self, question: Question) -> deque[Ask]:
        """Race edits of a leaf still to ask, starting at an image of its own so that leaves spread."""
        if question not in self.turns:
            digest = blake2b(question.concept.encode(), digest_size=2).digest()
            start = int.from_bytes(digest, "little") % len(self.race)
            self.turns[question] = deque(self._asks(question, self.race[start:] + self.race[:start], "race"))
        return self.turns[question]

    def _asks(self, question: Question, images: Sequence[int], stage: Stage) -> list[Ask]:
        """A question, as itself, of every image where it is eligible in all its parts."""
        parts = list(zip(question.concepts, question.directions, strict=True))
        return [
            Ask(i, s, question, question.concepts, stage)
            for s in range(self.seeds)
            for i in images
            if all(self.eligible(i, s, c, d) for c, d in parts)
        ]

    # -- the joint path -----------------------------------------------------------------------------

    def _joint(self, beam: list[Question]) -> Generator[list[Ask], Sequence[Effect], tuple[Question, ...]]:
        """Greedy: keep a combination if it beats the path so far, as a paired difference (race images)."""
        means = {q: self.seen[q].mean for q in beam}
        if not means or self.options.joint_steps < 2:
            return ()
        best, *others = sorted(means, key=lambda q: -abs(means[q]))
        sign = 1.0 if means[best] > 0 else -1.0
        path = best
        steps: tuple[Question, ...] = (best,)
        rivals = [q for q in others if sign * means[q] > 0 and self._compatible(steps, q)]
        asks = list(self._turn(best)) if rivals else []
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
            if (most := self.options.spendable) is None or self.spent + len(asks) + len(mine) <= most:
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
        if (most := self.options.spendable) is None:
            return asks
        paid = asks[: max(0, most // 2 - self.spent)]
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
        for q in dict.fromkeys(ask.question for ask in asks if ask.stage == "race"):
            if mine := self.rows[q.concept, q.direction]:
                self.seen[q] = Seen.of([r.change for r in mine])


def _covers(paths: Iterable[str], concept: str) -> bool:
    return any(concept == p or concept.startswith(p + "/") for p in paths)
