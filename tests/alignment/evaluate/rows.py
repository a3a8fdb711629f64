"""Scored rows small enough to count."""

from alignment.records.evaluation import Generation, PairScore, TaskScore

PAIR = PairScore(
    id="a",
    task_type="city",
    source="practice",
    chosen=-4.0,
    rejected=-5.0,
    base_chosen=-6.0,
    base_rejected=-4.0,
    chosen_tokens=2,
    rejected_tokens=5,
)
THREE_PAIRS = (
    PAIR,
    PAIR.model_copy(update={"id": "b", "chosen": -6.0, "chosen_tokens": 4}),
    PAIR.model_copy(update={"id": "c", "chosen": -2.0, "task_type": "email", "source": "mail"}),
)
REPLY = Generation(
    id="a",
    task_type="city",
    source="practice",
    prompt="Name a city.",
    reply="Lima",
    tokens=2,
    stopped=True,
    passed=True,
    unseen=False,
)
TASK = TaskScore(
    id="t", task_type="knowledge", source="general", prompt="t", metric="passed", score=1.0
)
THREE_REPLIES = (
    REPLY,
    REPLY.model_copy(
        update={"id": "b", "reply": "so so so", "passed": False, "tokens": 9, "stopped": False}
    ),
    REPLY.model_copy(update={"id": "c", "passed": False, "unseen": True, "task_type": "email"}),
)
