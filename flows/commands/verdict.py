"""`sft-dpo verdict`: repeat a gate's verdict from its evidence, and exit with it."""

import json
from pathlib import Path

from alignment.config.file import load
from alignment.errors import UsageError
from alignment.evaluate.evidence import Evidence, read_evidence
from alignment.evaluate.verdict import Finding
from alignment.pipeline.evidence import check_config, check_unchanged, evidence_file
from alignment.records.manifest import StageRecord
from alignment.rounds.references import CHAMPION_WORDS, find_one, line_in
from alignment.store.store import Store
from flows.printing import say
from flows.stores import existing_store

EXIT_CODES: dict[Finding, int] = {
    "passed": 0,
    "failed": 1,
    "inconclusive": 3,  # like the next: more rows would decide it
    "cannot be judged": 3,
}


def show_verdict(
    reference: str, root: Path, *, config: Path | None, overrides: list[str], as_json: bool
) -> None:
    """Print the verdict and exit with 0 if the round is kept, 1 if it is rejected, else 3.

    Raises:
        EvidenceError: the file, or what it is about, has changed.
    """
    path = _path(reference, root)
    content = path.read_bytes()
    evidence = read_evidence(content, str(path))
    store = _store_of(path, root)
    if store.find(evidence.gate) is not None:
        check_unchanged(store, evidence, content)
    else:
        say(f"not compared with a store: {store.root} does not have {evidence.gate}", error=True)
    if config is not None:
        check_config(load(config, overrides), evidence)
    _print(evidence, path, as_json=as_json)
    if not evidence.verdict.kept:
        raise SystemExit(EXIT_CODES[evidence.verdict.finding])


def _path(reference: str, root: Path) -> Path:
    if Path(reference).is_file():
        return Path(reference)
    if Path(reference).suffix == ".json":
        raise UsageError(f"no file {reference}. Name a file verdict.json, or a gate: sft-dpo show")
    store = existing_store(root)
    return evidence_file(store, _on_its_line(store, reference) or find_one(store, reference))


def _on_its_line(store: Store, reference: str) -> StageRecord | None:
    """The gate by which a line judged its champion; None if its ledger does not say.

    The same model may have been judged on other lines, by other rules.

    Raises:
        UsageError: a person promoted the champion, and the line never judged it.
    """
    word, _, name = reference.partition(":")
    if word not in CHAMPION_WORDS:
        return None
    line = line_in(store, name or None)
    state = line.state()
    if state.champion is None:
        return None
    closed = state.verdict_on(state.champion.model)
    if closed is None and state.champion.model in state.approved:
        raise UsageError(
            f"line {line.name} has not judged its champion, {state.champion.label}: a person "
            f"promoted it. For a verdict of another line, name its gate: sft-dpo show"
        )
    return store.find(closed.gate) if closed is not None and closed.gate else None


def _store_of(path: Path, root: Path) -> Store:
    """The store that a file lies in; else the one that was named."""
    around = path.absolute().parents
    inside = len(around) > 2 and around[1].name == "objects"
    return Store(root=around[2] if inside else root)


def _print(evidence: Evidence, path: Path, *, as_json: bool) -> None:
    verdict = evidence.verdict
    if as_json:
        found = {
            "verdict": verdict.word,
            "kept": verdict.kept,
            "sentence": verdict.sentence,
            "checks": [check.model_dump(mode="json") for check in verdict.checks],
            "rule": evidence.rule.model_dump(mode="json"),
            "gate": evidence.gate,
            "evidence": str(path),
        }
        print(json.dumps(found, indent=2))
        return
    say(verdict.sentence)
    say(f"{evidence.rule.name} gate, repeated from {path}")
