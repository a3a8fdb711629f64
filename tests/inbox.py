"""Batches that a tiny model can learn in a few steps: one word is preferred to another."""

import json
import os
import time


def rows(first, count, *, chosen="yes", rejected="no"):
    """`count` pairs with distinct prompts, numbered from `first`."""
    return [
        {
            "prompt": f"Question {number}: is the licence granted, and is it perpetual?",
            "chosen": f"The answer is {chosen}.",
            "rejected": f"The answer is {rejected}.",
        }
        for number in range(first, first + count)
    ]


def drop(path, pairs, *, age=3600.0):
    """Write a batch whose last change was `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    os.utime(path, (time.time() - age,) * 2)
    return path


def line_settings(settings, folder):
    """The settings of a run with only a base model, evaluation rows and an inbox."""
    held_out = drop(folder / "held-out.jsonl", rows(9000, 32))
    settings |= {
        "sft": {"name": "none"},
        "rounds": [],
        "control": None,
        "inbox": {"path": str(folder / "inbox"), "min_new_pairs": 16},
    }
    source = {"name": "file", "path": str(held_out), "use": "held_out"}
    settings["evaluation"] |= {"data": {"sources": [source], "min_rows": 0}, "max_new_tokens": 4}
    settings["dpo"] |= {"epochs": 2, "learning_rate": 2e-2}
    return settings


def three_rounds(settings, folder):
    """The settings of a run with three rounds; the labels of the second are swapped."""
    settings = line_settings(settings, folder)
    batches = (rows(0, 32), rows(100, 32, chosen="no", rejected="yes"), rows(200, 32))
    sources = [
        {"name": "file", "path": str(drop(folder / f"round-{number}.jsonl", batch))}
        for number, batch in enumerate(batches, start=1)
    ]
    settings["rounds"] = [{"data": {"sources": [one], "held_out_share": 0.0}} for one in sources]
    return settings
