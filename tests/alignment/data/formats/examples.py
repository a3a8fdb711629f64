"""A row of each known format, and the reason for which it is recognised."""


def contents(messages):
    return [(message.role, message.content) for message in messages]


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def hh(*turns: str) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[at % 2]}: {text}" for at, text in enumerate(turns))


def graded(**solutions):
    columns = {
        name: {"is_correct": verdict, "solution": text}
        for name, (verdict, text) in solutions.items()
    }
    return {"question": "How many?", "ground_truth": "4", **columns}


TALK = chat(("user", "a"), ("assistant", "b"))


def ranked(text, rank):
    return {"role": "assistant", "text": text, "rank": rank, "replies": []}


EXAMPLES = {
    "messages": ({"messages": TALK}, "column messages holds lists"),
    "preference": (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        "columns prompt, chosen, rejected",
    ),
    "hh": (
        {"chosen": hh("a", "b"), "rejected": hh("a", "c")},
        "columns chosen, rejected open with 'Human:'",
    ),
    "instruction": ({"instruction": "a", "output": "b"}, "columns instruction, output"),
    "gsm8k": (
        {"question": "a", "answer": "b\n#### 4"},
        "columns question, answer, and answers end in '#### number'",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "column conversations holds chats",
    ),
    "instances": (
        {"instruction": "a", "instances": [{"input": "", "output": "b"}]},
        "columns instruction, instances",
    ),
    "compared": (
        {"input": "a", "output_1": "b", "output_2": "c", "label": 2},
        "columns output_1, output_2, label",
    ),
    "candidates": (
        {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]},
        "columns prompt, responses, scores",
    ),
    "open_assistant": (
        {"prompt": {"role": "prompter", "text": "a", "replies": [ranked("b", 0), ranked("c", 1)]}},
        "column prompt holds trees",
    ),
    "open_assistant_nodes": (
        {"message_id": "1", "parent_message_id": "", "text": "a", "role": "prompter"},
        "columns text, role, parent_message_id",
    ),
    "contents": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "a"}]},
                {"role": "model", "parts": [{"text": "b"}]},
            ]
        },
        "column contents holds lists",
    ),
    "preferred_output": (
        {
            "input": {"messages": chat(("user", "a"))},
            "preferred_output": chat(("assistant", "b")),
            "non_preferred_output": chat(("assistant", "c")),
        },
        "columns input, preferred_output, non_preferred_output",
    ),
    "rejected_response": (
        {"messages": TALK, "rejected_response": "c"},
        "columns messages, rejected_response",
    ),
    "open_assistant_ranked_nodes": (
        {"message_id": "1", "parent_id": "", "text": "a", "role": "prompter", "rank": 0},
        "columns text, role, rank, parent_id",
    ),
    "label_studio": (
        {
            "data": {"prompt": "a", "answer1": "b", "answer2": "c"},
            "annotations": [{"result": [{"value": {"selected": "right"}}]}],
        },
        "columns data, annotations",
    ),
    "rated": (
        {"prompt": "a", "response": "b", "score": 3},
        "column score scores one reply per row",
    ),
    "unpaired": (
        {"prompt": "a", "completion": "b", "label": True},
        "column label holds true and false beside one reply",
    ),
    "mt_bench": ({"question_id": 1, "turns": ["a", "b"]}, "columns question_id, turns"),
    "prompts": ({"prompt": "a", "category": "b"}, "column prompt and no reply"),
    "graded_solutions": (
        graded(m1=(True, "x"), m2=(False, "y")),
        "column question, and m1, m2 hold is_correct and solution",
    ),
}
