"""The twelve task types of the practice set, as a table of templates.

A task defines how the question is phrased, what the answer looks like, and what a careless writer
makes of it. A `Flaw` is one broken rule of a prompt:

    preamble    words before the answer             (the reply gets longer)
    afterword   words after the answer              (longer)
    bare        the requested form is missing       (mostly shorter)
    cut         the requested ending is missing     (shorter)
    slip        the wrong thing is named            (either)
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from alignment.data.verifiers import (
    AllOf,
    AtMostWords,
    EndsWith,
    ExactText,
    JsonFields,
    Mentions,
    StartsWith,
    TextLines,
    Verifier,
)

Flaw = Literal["preamble", "afterword", "bare", "cut", "slip"]
Slots = dict[str, str]

SEEN = 4
"""Number of phrasings of a sentence that are used for training; the others are held out."""

NOTHING_ELSE = (
    "Nothing else.",
    "No other words.",
    "Only that.",
    "Add nothing.",
    "Leave out everything else.",
    "Not a word more.",
)
PREAMBLES = ("Sure! Here it is: ", "Sure, here you go: ", "Sure! The answer is: ")
AFTERWORDS = (" Let me know if that helps!", " Let me know if you need more.")


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


NAMES = words(
    "Ana Ben Carla David Emma Frank Grace Henry Ivan Julia Kevin Laura Maria Nina Oscar Paul Rosa "
    "Sam Tina Victor Alice Bruno Clara Diana Felix Helen Jonas Lisa Martin Sara"
)
CITIES = words(
    "Paris London Rome Madrid Berlin Vienna Lisbon Dublin Oslo Prague Athens Moscow Tokyo Delhi "
    "Cairo Boston Chicago Dallas Denver Miami Seattle Toronto Sydney Milan"
)
THINGS = words(
    "lamp book chair table clock mirror guitar piano bottle basket blanket candle camera hammer "
    "ladder pillow ribbon wallet window carpet kettle bucket button jacket"
)
FOODS = words(
    "milk rice bread butter cheese honey sugar salt pepper pasta tomato onion carrot potato apple "
    "banana lemon peach grape melon coffee tea juice soup"
)
COLORS = words("red blue green yellow black white brown pink orange purple gray silver")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
PLACES = words("hotel cafe cinema museum garden bakery library market station school")
PRAISE = words("wonderful excellent lovely great fantastic amazing perfect superb")
BLAME = words("terrible awful horrible bad disgusting boring dirty broken")
NUMBERS = tuple(str(number) for number in range(11, 100))
DOMAINS = words("mail post home work shop team club news")
WRAPS = ("[]", "()", "<>", "**")
MARKS = ("END", "DONE", "STOP")


class Task(NamedTuple):
    """One task type: templates over its slots.

    Attributes:
        slots: the values of each slot; slots with the same vocabulary get different values.
        asks, shapes: phrasings of the question and of the requested form; the first `SEEN` of each
            are for training.
        bodies: the answer complete; bare; cut; bare and cut.
        slip: in a slip, the first of these slots takes the value of the second.
        judge: gives the verifier for some slots; None if only the exact complete body passes.
    """

    name: str
    slots: dict[str, tuple[str, ...]]
    asks: tuple[str, ...]
    shapes: tuple[str, ...]
    bodies: tuple[str, str, str, str]
    slip: tuple[str, str]
    judge: Callable[[Slots], Verifier] | None = None

    def body(self, slots: Slots, flaws: frozenset[Flaw]) -> str:
        """The answer itself, with those of the flaws that affect it."""
        wrong, other = self.slip
        values = slots | {wrong: slots[other]} if "slip" in flaws else slots
        return self.bodies[("bare" in flaws) + 2 * ("cut" in flaws)].format(**values)

    def verifier(self, slots: Slots) -> Verifier:
        """The verifier of replies to a prompt with these slots."""
        if self.judge is not None:
            return self.judge(slots)
        return ExactText(text=self.body(slots, frozenset()))


MARK_SHAPES = (
    "Put it in {left}{right} and end with {mark}.",
    "Write it inside {left}{right}, then {mark}.",
    "Use {left}{right} around it and finish with {mark}.",
    "Answer in {left}{right}, closing with {mark}.",
    "Enclose it in {left}{right}; the last word is {mark}.",
    "It goes between {left} and {right}, followed by {mark}.",
)


def marked(
    name: str,
    slots: dict[str, tuple[str, ...]],
    asks: tuple[str, ...],
    core: str,
    slip: tuple[str, str],
) -> Task:
    """A task whose answer `core` must be in brackets and followed by a closing word."""
    wrapped = "{left}" + core + "{right}"
    bodies = (wrapped + " {mark}", core + " {mark}", wrapped, core)
    return Task(name, slots, asks, MARK_SHAPES, bodies, slip)


TASKS = (
    marked(
        "city",
        {"who": NAMES, "city": CITIES, "day": DAYS},
        (
            'Which city is in "{who} flew to {city} on {day}"?',
            'Name the city: "{who} flew to {city} on {day}".',
            'Where did they fly? "{who} flew to {city} on {day}".',
            'Find the city in "{who} flew to {city} on {day}".',
            'Pick out the city from "{who} flew to {city} on {day}".',
            'What place is mentioned? "{who} flew to {city} on {day}".',
        ),
        "{city}",
        ("city", "who"),
    ),
    marked(
        "number",
        {"who": NAMES, "count": NUMBERS, "days": NUMBERS, "thing": THINGS},
        (
            'How many {thing}s? "{who} sold {count} {thing}s in {days} days".',
            'Count of {thing}s in "{who} sold {count} {thing}s in {days} days"?',
            'Find how many {thing}s were sold: "{who} sold {count} {thing}s in {days} days".',
            'Which number of {thing}s? "{who} sold {count} {thing}s in {days} days".',
            'Tell the amount of {thing}s: "{who} sold {count} {thing}s in {days} days".',
            'What number of {thing}s did {who} sell? "{who} sold {count} {thing}s in {days} days".',
        ),
        "{count}",
        ("count", "days"),
    ),
    marked(
        "email",
        {"who": NAMES, "thing": THINGS, "domain": DOMAINS, "day": DAYS},
        (
            'Which address? "{who} wrote to {thing}@{domain}.com on {day}".',
            'Find the email in "{who} wrote to {thing}@{domain}.com on {day}".',
            'Extract the email: "{who} wrote to {thing}@{domain}.com on {day}".',
            'Give the address in "{who} wrote to {thing}@{domain}.com on {day}".',
            'Copy the email from "{who} wrote to {thing}@{domain}.com on {day}".',
            'Where was it sent? "{who} wrote to {thing}@{domain}.com on {day}".',
        ),
        "{thing}@{domain}.com",
        ("thing", "who"),
    ),
    marked(
        "last_word",
        {"a": THINGS, "b": FOODS, "c": COLORS, "d": PLACES},
        (
            'Last word of "{a} {b} {c} {d}"?',
            'Which word comes last in "{a} {b} {c} {d}"?',
            'Give the last word: "{a} {b} {c} {d}".',
            'What is the last of these words? "{a} {b} {c} {d}".',
            'Find the word at the end of "{a} {b} {c} {d}".',
            'Name the final word in "{a} {b} {c} {d}".',
        ),
        "{d}",
        ("d", "a"),
    ),
    marked(
        "order",
        {"first": FOODS + COLORS, "second": THINGS + PLACES},
        (
            "Reverse: {first}, {second}.",
            "Swap: {first}, {second}.",
            "Turn the order around: {first}, {second}.",
            "Write in reverse order: {first}, {second}.",
            "Give these two backwards: {first}, {second}.",
            "Name the second first: {first}, {second}.",
        ),
        "{second}, {first}",
        ("second", "first"),
    ),
    marked(
        "praise",
        {"place": PLACES, "food": FOODS, "city": CITIES, "good": PRAISE, "bad": BLAME},
        (
            'What was praised? "The {food} was {good}, the {place} in {city} {bad}".',
            'Which one is liked? "The {food} was {good}, the {place} in {city} {bad}".',
            'Find the good thing: "The {food} was {good}, the {place} in {city} {bad}".',
            'What did they like? "The {food} was {good}, the {place} in {city} {bad}".',
            'Which thing pleased them? "The {food} was {good}, the {place} in {city} {bad}".',
            'Name what they enjoyed: "The {food} was {good}, the {place} in {city} {bad}".',
        ),
        "{food}",
        ("food", "place"),
    ),
    Task(
        "json",
        {"who": NAMES, "age": NUMBERS, "cats": NUMBERS, "city": CITIES},
        (
            '"{who} is {age}, has {cats} cats".',
            'Read "{who} is {age}, has {cats} cats".',
            'Take "{who} is {age}, has {cats} cats".',
            'From "{who} is {age}, has {cats} cats".',
            'Here: "{who} is {age}, has {cats} cats".',
            'Use the line "{who} is {age}, has {cats} cats".',
        ),
        (
            "JSON with name and age.",
            "Give name and age as JSON.",
            "Write a JSON object: name, age.",
            "Return JSON, keys name and age.",
            "Turn name and age into JSON.",
            "As a JSON object with name, age.",
        ),
        (
            '{{"name": "{who}", "age": {age}}}',
            "name: {who}, age: {age}",
            '{{"name": "{who}"}}',
            "name: {who}",
        ),
        ("age", "cats"),
        lambda slots: JsonFields(fields={"name": slots["who"], "age": int(slots["age"])}),
    ),
    Task(
        "bullets",
        {"a": FOODS, "b": FOODS, "c": FOODS},
        (
            "List {a}, {b}, {c}.",
            "Make a list of {a}, {b}, {c}.",
            "Write down {a}, {b}, {c}.",
            "Shopping list: {a}, {b}, {c}.",
            "Note these: {a}, {b}, {c}.",
            "Put {a}, {b}, {c} in a list.",
        ),
        (
            "One line each, starting with a dash.",
            "Use lines with a dash in front.",
            'Each line begins with "- ".',
            "A dash before each, one per line.",
            "Every item on its own line after a dash.",
            "Bullet points with dashes.",
        ),
        ("- {a}\n- {b}\n- {c}", "{a}\n{b}\n{c}", "- {a}\n- {b}", "{a}\n{b}"),
        ("b", "c"),
        lambda slots: TextLines(lines=tuple(f"- {slots[key]}" for key in "abc")),
    ),
    Task(
        "steps",
        {"a": THINGS, "b": THINGS, "c": THINGS},
        (
            "Number {a}, {b}, {c}.",
            "Write {a}, {b}, {c} with numbers.",
            "Count off {a}, {b}, {c}.",
            "Make {a}, {b}, {c} a numbered list.",
            "Give numbers to {a}, {b}, {c}.",
            "Enumerate {a}, {b}, {c}.",
        ),
        (
            'Lines like "1. x".',
            'One line each: "1. x".',
            'Each line as in "1. x".',
            'Write each as "1. x", one per line.',
            'Format every line like "1. x".',
            'Follow the form "1. x" on each line.',
        ),
        ("1. {a}\n2. {b}\n3. {c}", "{a}\n{b}\n{c}", "1. {a}\n2. {b}", "{a}\n{b}"),
        ("b", "c"),
        lambda slots: TextLines(
            lines=tuple(f"{i}. {slots[key]}" for i, key in enumerate("abc", 1))
        ),
    ),
    Task(
        "letter",
        {"you": NAMES, "me": NAMES, "thing": THINGS, "other": FOODS},
        (
            "{me} thanks {you} for the {thing}, not the {other}.",
            "A thank-you from {me} to {you} for the {thing}, not the {other}.",
            "{me} writes to thank {you} for the {thing}, not the {other}.",
            "Thank {you} in {me}'s name for the {thing}, not the {other}.",
            "{you} gets thanks from {me} for the {thing}, not the {other}.",
            "Let {me} thank {you} for the {thing}, not the {other}.",
        ),
        (
            'Begin "Dear {you}," and end "Yours, {me}". At most 12 words.',
            'Start with "Dear {you}," and close with "Yours, {me}". Up to 12 words.',
            'From "Dear {you}," to "Yours, {me}" in 12 words or fewer.',
            'First "Dear {you},", last "Yours, {me}". No more than 12 words.',
            'Open with "Dear {you},", sign with "Yours, {me}". 12 words at most.',
            'In 12 words or less, "Dear {you}," first and "Yours, {me}" last.',
        ),
        (
            "Dear {you}, thank you for the {thing}. Yours, {me}",
            "Thank you for the {thing}. Yours, {me}",
            "Dear {you}, thank you for the {thing}.",
            "Thank you for the {thing}.",
        ),
        ("thing", "other"),
        lambda slots: AllOf(
            parts=(
                StartsWith(text=f"Dear {slots['you']},"),
                Mentions(text=slots["thing"]),
                EndsWith(text=f"Yours, {slots['me']}"),
                AtMostWords(words=12),
            )
        ),
    ),
    Task(
        "fields",
        {"color": COLORS, "thing": THINGS, "place": PLACES},
        (
            'Color and item in "the {color} {thing} from the {place}"?',
            'Find color and item: "the {color} {thing} from the {place}".',
            'Read color and item from "the {color} {thing} from the {place}".',
            'Give color and item of "the {color} {thing} from the {place}".',
            'Which color, which item? "the {color} {thing} from the {place}".',
            'Note color and item: "the {color} {thing} from the {place}".',
        ),
        (
            "Write color=x; item=y.",
            'Use the form "color=x; item=y".',
            'Answer as "color=x; item=y".',
            "Format: color=x; item=y.",
            'It should look like "color=x; item=y".',
            "Follow color=x; item=y.",
        ),
        ("color={color}; item={thing}", "{color}; {thing}", "color={color}", "{color}"),
        ("thing", "place"),
    ),
    Task(
        "html",
        {"color": COLORS, "thing": THINGS, "food": FOODS},
        (
            'Make only "{color} {thing}" bold, not {food}.',
            'Bold "{color} {thing}", not {food}.',
            'Show "{color} {thing}" in bold, not {food}.',
            'Set "{color} {thing}" in bold and drop {food}.',
            'Print "{color} {thing}" in bold without {food}.',
            'I want "{color} {thing}" bold, no {food}.',
        ),
        (
            "HTML with <b> and </b>.",
            "Use <b> and </b>.",
            "Put <b> before and </b> after.",
            "As HTML: <b>...</b>.",
            "Tags: <b> to open, </b> to close.",
            "Between <b> and </b>.",
        ),
        ("<b>{color} {thing}</b>", "**{color} {thing}**", "<b>{color} {thing}", "{color} {thing}"),
        ("thing", "food"),
    ),
)
