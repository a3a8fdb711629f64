"""The practice set: short tasks with verifiable answers, generated from a seed without a download.

Every prompt sets rules (`templates.py`). All training replies are *drafts* by one careless writer,
who breaks each rule at a rate of its own. A conversation has one draft. A pair has two drafts for
one prompt, where the flaws of the chosen one are a proper subset of the other's. At the default
rates, 3 % of drafts and 11 % of chosen replies are flawless. So imitation copies the flaws, and a
model can only become better than nearly all examples by following the preferences.

The chosen reply is alternately the shorter and the longer one, changing after each cycle through
the task types. So choosing by length alone is right for half of the pairs. Each instance belongs to
exactly one part, by the hash of its slot values, so parts never share one.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from pydantic import Field, NonNegativeInt, PositiveInt

from alignment.data.practice.templates import (
    AFTERWORDS,
    MARKS,
    NOTHING_ELSE,
    PREAMBLES,
    SEEN,
    TASKS,
    WRAPS,
    Flaw,
    Slots,
    Task,
)
from alignment.data.verifiers import VerifiablePrompt
from alignment.errors import DataError
from alignment.records.base import Frozen, digest_of
from alignment.records.text import Conversation, Message, PreferencePair

Part = Literal[
    "sft",
    "round-1",
    "round-2",
    "round-3",
    "round-4",
    "round-5",
    "round-6",
    "round-7",
    "round-8",
    "development",
    "held-out",
]
EVALUATION_PARTS: tuple[Part, ...] = ("development", "held-out")
"""The parts of which no row is trained on."""
SHARES: dict[Part, int] = {"sft": 4, "development": 2, "held-out": 2}
"""Sixteenths of all instances that a part owns; each of the other parts owns one."""
BUCKETS: tuple[Part, ...] = tuple(p for p in get_args(Part) for _ in range(SHARES.get(p, 1)))

SOURCE = "practice"
SYSTEM = Message(role="system", content="Follow the instruction exactly.")
TRIES = 10_000

GENERATOR = 1
"""Version of the generator; increased when the same fields give other rows."""


class Instance(NamedTuple):
    """A task with filled slots, a phrasing, and the words that a draft may add before and after."""

    task: Task
    slots: Slots
    phrasing: tuple[int, int, int]
    chatter: tuple[str, str]

    @property
    def key(self) -> str:
        """Identifies the question, regardless of phrasing, brackets and closing word."""
        return digest_of([self.task.name, [self.slots[slot] for slot in self.task.slots]])

    @property
    def part(self) -> Part:
        """The only part that may use this instance."""
        return BUCKETS[int(self.key[:8], 16) % len(BUCKETS)]

    @property
    def unseen(self) -> bool:
        """Whether the phrasing is never used in training."""
        return self.phrasing[0] >= SEEN

    def prompt(self) -> tuple[Message, ...]:
        """The system turn and the user turn."""
        ask, shape, rest = self.phrasing
        sentences = (self.task.asks[ask], self.task.shapes[shape])
        text = " ".join(sentence.format(**self.slots) for sentence in sentences)
        return SYSTEM, Message(role="user", content=f"{text} {NOTHING_ELSE[rest]}")

    def draft(self, flaws: frozenset[Flaw]) -> tuple[Message, ...]:
        """The reply with exactly these flaws, as an assistant turn."""
        before, after = self.chatter
        opening = before if "preamble" in flaws else ""
        closing = after if "afterword" in flaws else ""
        text = opening + self.task.body(self.slots, flaws) + closing
        return (Message(role="assistant", content=text),)


class PracticeSource(Frozen):
    """Rows of one part of the practice set.

    The same source always gives the same rows, and with larger `rows` it starts with the same rows.
    Task types alternate. In "development" and "held-out", every second cycle through the task types
    uses phrasings that training never does.
    """

    name: Literal["practice"] = "practice"
    part: Part = Field(
        "sft", description="One of the disjoint parts. Recipes are chosen on `development`."
    )
    rows: PositiveInt = Field(96, description="Number of rows, spread evenly over the task types.")
    seed: NonNegativeInt | None = Field(
        None, description="Seed that selects the instances of the part. Default: the run's seed."
    )
    preamble_rate: float = Field(
        0.75, ge=0, lt=1, description="Share of drafts with words before the answer, 0 to 1."
    )
    afterword_rate: float = Field(
        0.75, ge=0, lt=1, description="Share of drafts with words after the answer, 0 to 1."
    )
    form_rate: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="Share of drafts without the requested form, and, independently, of drafts "
        "without the requested ending; 0 to 1.",
    )
    slip_rate: float = Field(
        0.1, ge=0, lt=1, description="Share of drafts that name the wrong thing, 0 to 1."
    )

    def digest(self) -> str:
        """Identifies these rows in cache keys: the generator's version and the fields."""
        return digest_of([GENERATOR, self.model_dump(mode="json")])

    def conversations(self) -> Iterator[Conversation]:
        """One draft per prompt, to imitate."""
        for instance, rng in self._instances():
            messages = (*instance.prompt(), *instance.draft(self._flaws(rng)))
            yield Conversation.of(messages, task_type=instance.task.name, source=SOURCE)

    def pairs(self) -> Iterator[PreferencePair]:
        """Two drafts per prompt; preferred is the one whose flaws are a subset of the other's.

        Raises:
            DataError: the rates give no drafts that differ as pairs need.
        """
        if not (self.preamble_rate + self.afterword_rate and self.form_rate):
            raise DataError(
                f"practice part {self.part!r}: pairs need drafts that are too long and drafts that "
                "are too short; set afterword_rate and form_rate above 0"
            )
        for number, (instance, rng) in enumerate(self._instances()):
            chosen, rejected = self._drafts(instance, rng, longer=bool(number // len(TASKS) % 2))
            yield PreferencePair.of(
                instance.prompt(),
                chosen=chosen,
                rejected=rejected,
                task_type=instance.task.name,
                source=SOURCE,
            )

    def prompts(self) -> Iterator[VerifiablePrompt]:
        """The prompts, each with the program that judges replies to it."""
        for instance, _ in self._instances():
            yield VerifiablePrompt(
                id=instance.key[:16],
                prompt=instance.prompt(),
                verifier=instance.task.verifier(instance.slots),
                task_type=instance.task.name,
                source=SOURCE,
                unseen=instance.unseen,
            )

    def _instances(self) -> Iterator[tuple[Instance, random.Random]]:
        """Each row's instance, and the random generator that then writes its drafts."""
        taken: set[str] = set()
        for number in range(self.rows):
            rng = seeded(self.seed or 0, self.part, number)
            instance = self._unused_instance(number, rng, taken)
            taken.add(instance.key)
            yield instance, rng

    def _unused_instance(self, number: int, rng: random.Random, taken: set[str]) -> Instance:
        """An instance of this part that no earlier row uses."""
        task = TASKS[number % len(TASKS)]
        evaluates = self.part in EVALUATION_PARTS
        unseen = evaluates and number // len(TASKS) % 2 == 1
        for _ in range(TRIES):
            chatter = rng.choice(PREAMBLES), rng.choice(AFTERWORDS)
            instance = Instance(task, fill(task, rng), phrase(task, rng, unseen=unseen), chatter)
            if instance.part == self.part and instance.key not in taken:
                return instance
        raise DataError(
            f"practice part {self.part!r} has no further {task.name!r} task after "
            f"{number // len(TASKS)}; set rows below {number}"
        )

    def _flaws(self, rng: random.Random) -> frozenset[Flaw]:
        """The flaws of one draft."""
        rates: dict[Flaw, float] = {
            "preamble": self.preamble_rate,
            "afterword": self.afterword_rate,
            "bare": self.form_rate,
            "cut": self.form_rate,
            "slip": self.slip_rate,
        }
        return frozenset(flaw for flaw, rate in rates.items() if rng.random() < rate)

    def _drafts(
        self, instance: Instance, rng: random.Random, *, longer: bool
    ) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """Draw drafts until one of two has a proper subset of the flaws, and the wanted length."""
        for _ in range(TRIES):
            better, worse = sorted((self._flaws(rng), self._flaws(rng)), key=len)
            chosen, rejected = instance.draft(better), instance.draft(worse)
            gap = len(chosen[0].content) - len(rejected[0].content)
            if better < worse and (gap > 0 if longer else gap < 0):
                return chosen, rejected
        raise DataError(
            f"practice part {self.part!r}: {TRIES} drafts for one {instance.task.name!r} task gave "
            "no pair; set the four rates between 0.05 and 0.95"
        )


def seeded(seed: int, part: str, number: int) -> random.Random:
    """A random generator for one row, the same on every machine."""
    return random.Random(hashlib.sha256(f"{seed}/{part}/{number}".encode()).digest())


def fill(task: Task, rng: random.Random) -> Slots:
    """Values for the task's slots, no value twice, plus the requested brackets and closing word."""
    slots: Slots = {}
    for name, words in task.slots.items():
        slots[name] = rng.choice([word for word in words if word not in slots.values()])
    wrap = rng.choice(WRAPS)
    return slots | {"left": wrap[0], "right": wrap[1], "mark": rng.choice(MARKS)}


def phrase(task: Task, rng: random.Random, *, unseen: bool) -> tuple[int, int, int]:
    """Indices of the phrasings of the question, of the form and of "nothing else"."""
    sentences = (task.asks, task.shapes, NOTHING_ELSE)
    ask, shape, rest = (
        rng.randrange(SEEN, len(choices)) if unseen else rng.randrange(SEEN)
        for choices in sentences
    )
    return ask, shape, rest
