"""Rounds in which only training and evaluation are left out, for the tests of a line."""

import json
import os
import time

from alignment.config.pipeline import PipelineConfig
from alignment.rounds.driver import Hooks, RoundDriver
from alignment.rounds.inbox import why_unreadable
from tests.faults.simulate import History, decided


class EveryRoundIsKept(History):
    def verdict(self, step):
        return decided(step, passed=True)


def changed(config, **settings):
    """The config with other settings; those of the inbox are merged."""
    dumped = config.model_dump(mode="json", exclude_unset=True)
    inbox = {**dumped["inbox"], **settings.pop("inbox", {})}
    return PipelineConfig.model_validate({**dumped, **settings, "inbox": inbox})


def drop(history, name, *, rows=20, text=None):
    row = {"chosen": "yes", "rejected": "no"}
    lines = [json.dumps({"prompt": f"{name} {number}", **row}) + "\n" for number in range(rows)]
    path = history.inbox / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines) if text is None else text)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def round_(history, config=None, *, line=None, build=None, **others):
    hooks = Hooks(
        run_chain=lambda: None,
        build=build or history.build,
        inspect=why_unreadable,
        **others,
    )
    return RoundDriver(config or history.config, line or history.line, hooks).run()


def failing(history, kind, error):
    """A build that fails for one kind of step."""

    def build(step):
        if isinstance(step, kind):
            raise error
        history.build(step)

    return build
