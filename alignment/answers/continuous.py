"""Engine `continuous`: all rows decode together; a row that ends makes room for the next at once.

Prompts are read end to end, without padding, each once for all its answers. Then every row takes
one token a step. On a GPU a step is a CUDA graph, captured for a few numbers of rows: a 7B model
launches 2,000 kernels a step, which a host does not start as fast as the GPU runs them.
Not here: attention (`attention.py`), how a token is chosen (`choose.py`).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignment.answers.attention import (
    NotingAttention,
    PromptAttention,
    StepAttention,
    cached_attention,
    hidden_states,
    segments,
)
from alignment.answers.cache import Cache
from alignment.answers.choose import Chosen, choose
from alignment.answers.request import Request, Written
from alignment.answers.settings import Sampling
from alignment.models.rope import rope_limit
from alignment.scoring.gpu_memory import free_bytes
from alignment.scoring.head import Head, head_of, plain
from alignment.scoring.packable import packing_obstacle

_log = logging.getLogger(__name__)

READ_TOKENS = 16_384
"""Most prompt tokens in one forward pass; a longer prompt has its own."""
MEMORY_SHARE = 0.6
"""Share of the free GPU memory that keys and values may take; logits and activations need the
rest."""
REFILL = 8
"""Rows are admitted once a share of 1/REFILL is free: each reading of prompts holds up all rows."""
WORTH_CAPTURING = 32
"""Steps from which on a graph for fewer rows is captured. Capturing takes about ten steps."""


def continuous_obstacle(model: Any, longest: int) -> str | None:
    """Why this engine cannot write answers with a model; None if it can.

    Args:
        model: the model, on its device.
        longest: tokens of the longest prompt with its answer.
    """
    inner = plain(model)
    limit = rope_limit(inner.config)
    cuda = inner.device.type == "cuda"
    if limit is not None and (cuda or longest > limit):
        return "the frequencies of its rotary embeddings depend on the longest row of a batch"
    if obstacle := packing_obstacle(inner.config):
        return obstacle
    if not cuda:
        return None
    if torch.cuda.get_device_capability(inner.device) < (8, 0):
        return "torch's kernel needs a GPU of compute capability 8.0 or later"
    return _tried(model).obstacle


def write_continuous(
    model: Any,
    requests: Sequence[Request],
    *,
    stops: Sequence[int],
    sampling: Sampling,
    rows: int,
) -> Iterator[Written]:
    """Write every answer; if memory runs out, half as many rows go on with those that are missing.

    Raises:
        torch.OutOfMemoryError: a single row does not fit.
    """
    missing = {(request.prompt_id, request.sample): request for request in requests}
    with cached_attention(model):
        while missing:
            rows = min(rows, len(missing))
            batch = _Batch(model, list(missing.values()), frozenset(stops), sampling, rows)
            try:
                for written in batch.write():
                    del missing[written.request.prompt_id, written.request.sample]
                    yield written
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows //= 2
            del batch
            if missing:  # outside of `except`, where the failed batch is no longer referenced
                torch.cuda.empty_cache()
                _log.warning("Out of memory: writing %d answers at a time from here on.", rows)


@dataclass
class _Row:
    """An answer being written: its region of the cache, and what is written so far."""

    request: Request
    start: int
    length: int
    uniforms: list[float]
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0

    @property
    def position(self) -> int:
        """Position of the newest token, whose successor is to be chosen."""
        return len(self.request.ids) + len(self.tokens) - 1

    @property
    def left(self) -> int:
        """Tokens that may still be chosen."""
        return len(self.uniforms) - len(self.tokens)


class _Batch:
    """Rows that decode together."""

    def __init__(
        self,
        model: Any,
        requests: Sequence[Request],
        stops: frozenset[int],
        sampling: Sampling,
        rows: int,
    ) -> None:
        self._model, self._stops, self._sampling, self._rows = model, stops, sampling, rows
        self._device = next(model.parameters()).device
        self._waiting = list(reversed(requests))
        self._active: list[_Row] = []
        sizes = sorted((len(r.ids) + sampling.max_new_tokens for r in requests), reverse=True)
        self._cache = Cache(_cache_tokens(model, sizes, rows))
        self._head = head_of(model)
        self._steps = _Steps(model, self._head, self._cache, sampling, longest=sizes[0])

    def write(self) -> Iterator[Written]:
        """Every answer, as it ends."""
        while self._waiting or self._active:
            while admitted := self._admit():
                yield from self._read(admitted)
            if self._active:
                yield from self._step()

    def _admit(self) -> list[_Row]:
        """The next rows to start, as many as there is room for; none until it is worth it."""
        free, admitted, tokens = self._rows - len(self._active), list[_Row](), 0
        if self._active and free < min(len(self._waiting), max(1, self._rows // REFILL)):
            return []
        before: tuple[int, ...] = ()
        while self._waiting and len(admitted) < free:
            ids = self._waiting[-1].ids
            tokens += 0 if ids == before else len(ids)
            length = len(ids) + self._sampling.max_new_tokens
            if admitted and tokens > READ_TOKENS:
                break
            start = self._cache.reserve(length)
            if start is None:
                break
            request, before = self._waiting.pop(), ids
            uniforms = request.uniforms(self._sampling).tolist()
            admitted.append(_Row(request, start, length, uniforms))
        return admitted

    def _read(self, rows: Sequence[_Row]) -> Iterator[Written]:
        """Read the prompts of new rows and choose the first token of each."""
        prompts = list(dict.fromkeys(row.request.ids for row in rows))
        begins, at = {}, 0
        for ids in prompts:
            begins[ids] = at
            at += len(ids)
        lengths = [len(row.request.ids) for row in rows]
        sources = [
            torch.arange(n) + begins[row.request.ids] for row, n in zip(rows, lengths, strict=True)
        ]
        targets = [torch.arange(n) + row.start for row, n in zip(rows, lengths, strict=True)]
        reading = PromptAttention(
            self._cache,
            segments([len(ids) for ids in prompts], self._device),
            torch.cat(sources).to(self._device),
            torch.cat(targets).to(self._device),
        )
        states = hidden_states(
            self._model,
            torch.tensor([index for ids in prompts for index in ids], device=self._device),
            torch.cat([torch.arange(len(ids)) for ids in prompts]).to(self._device),
            reading,
        )
        last = torch.stack([source[-1] for source in sources]).to(self._device)
        uniforms = torch.tensor([row.uniforms[0] for row in rows], device=self._device)
        logits = self._head(states[last]).float()
        yield from self._take(rows, choose(logits, uniforms, self._sampling))

    def _step(self) -> Iterator[Written]:
        """Choose the next token of every row."""
        rows, self._active = self._active, []
        plan = [
            [row.tokens[-1], row.position, row.start + row.position, row.start, row.position + 1]
            for row in rows
        ]
        uniforms = [row.uniforms[len(row.tokens)] for row in rows]
        left = max(row.left for row in rows)
        yield from self._take(rows, self._steps(plan, uniforms, left))

    def _take(self, rows: Sequence[_Row], chosen: Chosen) -> Iterator[Written]:
        """Add the chosen tokens; rows that end are given back, the others stay active."""
        ended = []
        both = torch.stack([chosen.tokens.double(), chosen.logprobs.double()]).tolist()
        for row, token, logprob in zip(rows, *both, strict=False):
            row.logprob += logprob
            stopped = int(token) in self._stops
            if not stopped:
                row.tokens.append(int(token))
            if stopped or not row.left:
                self._cache.release(row.start, row.length)
                ended.append(Written(row.request, row.tokens, row.logprob, stopped))
            else:
                self._active.append(row)
        yield from ended


class _Steps:
    """Decoding steps; on a GPU, as graphs for numbers of rows that are powers of two."""

    def __init__(
        self, model: Any, head: Head, cache: Cache, sampling: Sampling, *, longest: int
    ) -> None:
        self._model, self._head, self._cache, self._sampling = model, head, cache, sampling
        self._device = next(model.parameters()).device
        cuda = self._device.type == "cuda"
        self._longest = longest if cuda else None
        self._graphs: dict[int, _Graph] = {}
        self._capture: bool = cuda

    def __call__(
        self, plan: Sequence[Sequence[int]], uniforms: Sequence[float], left: int
    ) -> Chosen:
        """The next tokens of rows.

        Args:
            plan: per row its newest token, that token's position, where in the cache it belongs,
                where the row's region begins, and tokens of the row.
            uniforms: a random number per row.
            left: steps after which all of these rows have ended.
        """
        if not self._capture:
            return self._run(torch.tensor(plan), torch.tensor(uniforms))
        size = self._size(len(plan), left)
        spare = size - len(plan)
        whole = torch.tensor([*plan, *[[0, 0, 0, 0, 1]] * spare])
        numbers = torch.tensor([*uniforms, *[0.0] * spare])
        if size not in self._graphs and not self._captured(size, whole, numbers):
            return self._run(whole, numbers)
        return self._graphs[size](whole, numbers)

    def _size(self, rows: int, left: int) -> int:
        """Number of rows to compute: a graph's, the smallest that is worth having."""
        smallest = 1 << (rows - 1).bit_length()
        known = [size for size in self._graphs if size >= rows]
        return min(known) if known and left < WORTH_CAPTURING else smallest

    def _captured(self, size: int, plan: Tensor, uniforms: Tensor) -> bool:
        try:
            self._graphs[size] = _Graph(self._run, plan, uniforms)
        except RuntimeError as error:  # a layer that asks the host (experts), or no memory for it
            self._capture = False
            _log.warning("Decoding without CUDA graphs, which is slower: %s", error)
        return self._capture

    def _run(self, plan: Tensor, uniforms: Tensor) -> Chosen:
        """One step. `plan` is [rows, 5], as above."""
        ids, positions, targets, starts, lengths = plan.to(self._device).unbind(1)
        decoding = StepAttention(self._cache, targets, starts, lengths, self._longest)
        states = hidden_states(self._model, ids, positions, decoding)
        logits = self._head(states).float()
        return choose(logits, uniforms.to(self._device), self._sampling)


class _Graph:
    """One decoding step as a CUDA graph."""

    def __init__(self, run: Any, plan: Tensor, uniforms: Tensor) -> None:
        self._plan, self._uniforms = plan.cuda(), uniforms.cuda()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate their workspaces at the first call
            run(self._plan, self._uniforms)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # "thread_local": a thread of NCCL may ask for its events meanwhile
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._chosen = run(self._plan, self._uniforms)

    def __call__(self, plan: Tensor, uniforms: Tensor) -> Chosen:
        self._plan.copy_(plan)
        self._uniforms.copy_(uniforms)
        self._graph.replay()
        return Chosen(*self._chosen)


def _tried(model: Any) -> NotingAttention:
    """What the layers of a model need, found by running it on two tokens."""
    trial = NotingAttention()
    ids = torch.zeros(2, dtype=torch.long, device=next(model.parameters()).device)
    with torch.no_grad(), cached_attention(model):
        hidden_states(model, ids, torch.arange(2, device=ids.device), trial)
    return trial


def _cache_tokens(model: Any, sizes: Sequence[int], rows: int) -> int:
    """Tokens to reserve for rows of these sizes, largest first: as many as are ever in use at once.

    On a GPU at most as many as fit; then fewer rows run together.
    """
    needed = sum(sizes[:rows])
    if next(model.parameters()).device.type != "cuda":
        return needed
    room = int(free_bytes() * MEMORY_SHARE) // _tried(model).token_bytes
    return max(sizes[0], min(needed, room))
