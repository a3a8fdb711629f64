"""How records, lines of rounds and counts of rows are printed by the command line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignment.data.build.ingest import FileReport, IntakeReport
    from alignment.records import StageRecord
    from alignment.store.store import Store


def print_list(records: "list[StageRecord]") -> None:
    """A line for each record: when, name, key, figures."""
    for record in records:
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in record.metrics.items())
        print(f"{record.started}  {record.name:<20} {record.key:<40} {numbers[:80]}")


def print_lines(store: "Store") -> None:
    """Every line of rounds in a store: its champion, and what became of its rounds."""
    from alignment.rounds.line import RoundLine

    for folder in sorted(store.root.glob("lines/*")):
        state = RoundLine(store=store, name=folder.name).state()
        if state.champion is not None:
            ends = [closed.fate for _, closed in state.history]
            counts = ", ".join(f"{ends.count(fate)} {fate}" for fate in dict.fromkeys(ends))
            print(f"line {folder.name}: champion {state.champion.label} {state.champion.model}")
            print(f"  {len(ends)} rounds from the inbox{f': {counts}' if counts else ''}")


def print_ancestry(store: "Store", records: "list[StageRecord]") -> None:
    """The models that the last record comes from, with metrics and verdicts, then all records."""
    from alignment.report.ancestry import ancestry_table

    print(ancestry_table(store, records[-1].key).to_text(width=160))
    print()
    print_list(records)


def print_record(record: "StageRecord") -> None:
    """One record: parents, notes, metrics, files."""
    print(f"{record.name}  {record.key}")
    print(f"built {record.started} in {record.seconds:.1f} s from {record.code.revision[:12]}")
    for role, key in record.parents.items():
        print(f"  {role:<12} {key}")
    for note in record.notes:
        print(f"  note: {note}")
    for name, value in record.metrics.items():
        print(f"  {name:<36} {value:.6g}")
    for file in record.files:
        print(f"  {file.size:>12,}  {file.path}  {file.sha256[:12]}")


def counts_of(report: "FileReport | IntakeReport") -> str:
    """Rows read, kept with their flags, and quarantined with their reasons, in words."""
    aside = sum(report.quarantined.values())
    kept = f"{report.kept} kept{_named('of these ', report.flagged)}"
    return f"{report.read} read, {kept}, {aside} quarantined{_named('', report.quarantined)}"


def _named(words: str, counts: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f" ({words}{listed})" if listed else ""
