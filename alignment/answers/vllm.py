"""Engine `vllm`: another interpreter, with vLLM, writes the answers of a model folder.

vLLM needs other versions of the same libraries, so it is never imported here: `vllm_program.py`
runs in its environment, once for all answers. It draws with generators of its own, seeded for each
answer; so a draw depends on prompt and sample alone, as with our engines, but is another one.
"""

import json
import logging
import os
import re
import select
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from alignment.answers.answer import Answer, Asked
from alignment.answers.decode import read_answer
from alignment.answers.interpreter import check_vllm
from alignment.answers.request import Request, Written, each_once, requests_of
from alignment.answers.settings import Sampling, Vllm
from alignment.errors import AlignmentError, Interrupted, ModelError
from alignment.models.adapters import check_adapter
from alignment.models.stopping import named_stops, stop_ids

PROGRAM = Path(__file__).with_name("vllm_program.py")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for --max-lora-rank."""
GPU_SHARE = 0.9
"""Share of a GPU's memory that vLLM takes, unless the run's limit is lower."""
CPU_CACHE_BYTES = 2 * 2**30
"""Keys and values on a CPU take at most this, and half of the memory that is free."""
LAST_LINES = 200
_RANK = re.compile(r"^\[rank0\]:\s?")
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b")

_log = logging.getLogger(__name__)


class Served(NamedTuple):
    """What vLLM opens: a folder of full weights, its dtype in memory, and one adapter or none."""

    folder: Path
    dtype: str
    adapter: Path | None = None


def vllm_answers(
    engine: Vllm,
    served: Served,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterable[Asked],
    sampling: Sampling,
    *,
    rows: int = 256,
    done: Collection[tuple[str, int]] = (),
) -> Iterator[Answer]:
    """As `ask.answers`, of a model that vLLM opens itself, in its own order.

    Args:
        engine: where vLLM is.
        served: the model.
        tokenizer: the model's.
        prompts: as for `ask.answers`.
        sampling: likewise.
        rows: most answers at once.
        done: as for `ask.answers`.

    Raises:
        ConfigError: there is no such interpreter, or it has no vLLM.
        ModelError: vLLM cannot answer with this model; its last words.
        Interrupted: its process was killed; those that are missing can be asked for again.
        AlignmentError: the model computes no numbers, or an answer was left out.
    """
    if not (requests := requests_of(tokenizer, prompts, sampling, done)):
        return
    check_vllm(engine.python)
    settings = _settings(served, tokenizer, requests, sampling, rows)
    for found in each_once(requests, _written(engine, settings, requests)):
        yield read_answer(tokenizer, found)


def fitting_rank(rank: int) -> int | None:
    """The least rank that vLLM can be started with and that an adapter of this rank fits in."""
    return next((known for known in RANKS if known >= rank), None)


def _settings(
    served: Served,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    sampling: Sampling,
    rows: int,
) -> dict[str, Any]:
    rank = check_adapter(served.adapter)["r"] if served.adapter else 1
    free, cuda = psutil.virtual_memory().available, torch.cuda.is_available()
    limit = torch.cuda.get_per_process_memory_fraction() if cuda else 1.0
    return {
        "folder": str(served.folder.absolute()),
        "dtype": served.dtype,
        "adapter": served.adapter and str(served.adapter.absolute()),
        "rank": fitting_rank(rank),
        "stops": stop_ids(tokenizer, named_stops(served.folder)),
        "longest": max(len(request.ids) for request in requests) + sampling.max_new_tokens,
        "rows": min(rows, len(requests)),
        "gpu": torch.cuda.current_device() if cuda else None,
        "gpu_share": min(GPU_SHARE, limit),
        "cpu_cache_bytes": min(CPU_CACHE_BYTES, free // 2),
        "sampling": {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        },
    }


def _written(
    engine: Vllm, settings: dict[str, Any], requests: Sequence[Request]
) -> Iterator[Written]:
    asked = [settings, *({"ids": request.ids, "seed": request.seed} for request in requests)]
    with tempfile.TemporaryFile("w+") as stream, tempfile.TemporaryFile() as said:
        stream.writelines(json.dumps(line) + "\n" for line in asked)
        stream.seek(0)
        heard = _Heard(said)
        with _program(engine.python, stream, said) as (process, answers):
            for line in _lines(answers, heard):
                yield _written_as(json.loads(line), requests)
            code = process.wait()
        heard.listen()
        _check_ended(code, heard, settings["folder"])


def _written_as(row: dict[str, Any], requests: Sequence[Request]) -> Written:
    tokens, stopped = row["tokens"], row["stopped"]
    return Written(
        requests[row["request"]], tokens[:-1] if stopped else tokens, row["logprob"], stopped
    )


@contextmanager
def _program(
    python: Path, asked: IO[str], said: IO[bytes]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The running program, and the descriptor that its answers come from."""
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            # isolated: what is on our path must not be on its path
            [str(python), "-I", str(PROGRAM), f"{theirs}"],
            stdin=asked,
            stdout=said,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs,),
        )
    finally:
        os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _lines(descriptor: int, heard: "_Heard") -> Iterator[bytes]:
    """The lines from a descriptor until its other end is closed."""
    rest = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], 1.0)
        heard.listen()
        if not ready:
            continue
        if not (more := os.read(descriptor, 65536)):
            return
        *lines, rest = (rest + more).split(b"\n")
        yield from lines


class _Heard:
    """What the program says: passed on to our log, and its last lines.

    It is read at a place of our own; the file's own position is where the program writes.
    """

    def __init__(self, said: IO[bytes]) -> None:
        self._said, self._read, self._rest = said, 0, ""
        self._last = deque[str](maxlen=LAST_LINES)

    def listen(self) -> None:
        """Read what is new."""
        while more := os.pread(self._said.fileno(), 65536, self._read):
            self._read += len(more)
            *lines, self._rest = (self._rest + more.decode(errors="replace")).split("\n")
            for line in (_RANK.sub("", line) for line in lines if line.strip()):
                _log.info("vLLM: %s", line)
                self._last.append(line)

    def reason(self) -> str:
        """The error that ended it, as it was raised last, or else its last words."""
        lines = [*self._last, *filter(None, [self._rest])]
        raised = [n for n, line in enumerate(lines) if _RAISED.match(line)]
        words = " ".join(lines[raised[-1] :] if raised else lines[-3:]).split()
        return " ".join(words)[:600] or "nothing"


def _check_ended(code: int, heard: _Heard, folder: str) -> None:
    """Raise what ended the program, unless it came to its end."""
    if code < 0:
        name = signal.Signals(-code).name
        raise Interrupted(
            f"vLLM's process was ended by {name} (out of memory, or killed). The same command goes "
            "on after the last answer."
        )
    if not code:
        return
    reason = heard.reason()
    if "out of memory" in reason.lower():
        raise AlignmentError(
            f"vLLM ran out of memory: {reason}. Lower max_new_tokens, or set engine: "
            "{name: auto}."
        )
    raise ModelError(
        f"vLLM cannot answer with the model in {folder}; it says: {reason}. Set engine: "
        "{name: auto}, which answers without vLLM."
    )
