"""The commands that a reader of a report is likely to want next, with this run's own key."""

import shlex


def next_commands(model: str, store: str) -> tuple[str, ...]:
    """Commands on a model, given by key, in a store, given by its path."""
    where = f"--store {shlex.quote(store)}"
    return (
        f"sft-dpo show {model} --lineage {where}",
        f"sft-dpo chat {model} {where}",
        f"sft-dpo export {model} --to exported {where}",
    )
