"""The model card of an exported model: what it is made of, what was measured, and what was not.

Everything in it is read from manifests. Licences are stated as far as the store knows them: the
base model's own card, never a guess. Not here: writing or uploading it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from alignment.errors import ModelError
from alignment.evaluate.evaluators import evaluator_of
from alignment.models.hub import base_folder
from alignment.pipeline.steps import HandOver, TrainDpo, TrainSft, headline_of, made_by
from alignment.records.base import Frozen, Json
from alignment.records.evaluation import EvalReport, Generation, PairScore
from alignment.records.manifest import StageRecord
from alignment.records.refs import BaseRef, DataRef, ModelRef
from alignment.report import compare
from alignment.report.gates import rows_of
from alignment.report.table import Table, escape_markdown
from alignment.report.tables import evaluation_table
from alignment.store.lineage import ancestors
from alignment.store.store import Store

UNKNOWN = "not known"
_LICENCE = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


class Card(Frozen):
    """What a card says, before it is written as Markdown.

    Attributes:
        name: name of the model on a hub, or of its folder.
        form: merged weights, an adapter or a GGUF file.
        lineage: the records it was made of, oldest first.
        evaluations: reports of the model and of those it descends from, its own last.
        evaluation: the settings of its own.
        claims: how it differs from them, as sentences with intervals.
        notes: the export's own figures.
    """

    name: str
    form: str
    key: str
    base: BaseRef
    licence: str | None
    lineage: tuple[StageRecord, ...]
    evaluations: tuple[EvalReport, ...]
    evaluation: Json
    claims: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def own(self) -> EvalReport | None:
        """The evaluation of the model itself."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def text(self) -> str:
        """The whole card: metadata as the hub reads it, then Markdown."""
        parts = (_metadata(self), _opening(self), _measured(self), _unmeasured(self))
        return "\n".join([*parts, _training(self), _data(self), _use(self), _lineage(self)])


def card_of(
    store: Store, record: StageRecord, *, name: str, form: str, notes: Sequence[str] = ()
) -> Card:
    """The card of a model, or of the adapter of a training, from its manifests."""
    lineage = tuple(ancestors(store, record.key))
    base = next(ref for one in lineage if (ref := one.output_as(ModelRef))).base
    model = _handed_over(store, record)
    evaluated = _evaluated(store, [*(one.key for one in lineage), model.key])
    reports = tuple(EvalReport.model_validate(one.output) for one in evaluated)
    own = evaluated[-1].parents["model"] if evaluated else None
    return Card(
        name=name,
        form=form,
        key=record.key,
        base=base,
        licence=_licence(store, base),
        lineage=lineage,
        evaluations=reports if own == model.key else (),
        evaluation=_settings_of(evaluated[-1]) if own == model.key else {},
        claims=tuple(_claims(store, reports)) if own == model.key else (),
        notes=tuple(notes),
    )


def _handed_over(store: Store, record: StageRecord) -> StageRecord:
    """The model that was evaluated: the record itself, or what was made of its adapter."""
    if record.output_as(ModelRef):
        return record
    made = (one for one in store.records() if one.parents.get("adapter") == record.key)
    return next((one for one in made if made_by(one, HandOver)), record)


def _evaluated(store: Store, models: Sequence[str]) -> list[StageRecord]:
    """The newest evaluation of each model on the rows of the last one's, in the models' order."""
    found: dict[str, list[StageRecord]] = {}
    for record in store.records():
        if record.output_as(EvalReport):
            found.setdefault(record.parents["model"], []).append(record)
    last = next((found[key][-1] for key in reversed(models) if key in found), None)
    if last is None:
        return []
    rows = last.parents_as("data")
    same = {key: [e for e in found.get(key, ()) if e.parents_as("data") == rows] for key in models}
    return [each[-1] for each in same.values() if each]


def _settings_of(record: StageRecord) -> Json:
    config = record.config.get("config")
    return config if isinstance(config, dict) else {}


def _claims(store: Store, reports: Sequence[EvalReport]) -> Iterator[str]:
    rows = {report.model: rows_of(store, report) for report in reports}
    pairs: dict[str, Iterable[PairScore]] = {label: one.pairs for label, one in rows.items()}
    replies: dict[str, Iterable[Generation]] = {
        label: one.generations for label, one in rows.items()
    }
    found = compare.compare(reports[-1].model, generations=replies, pairs=pairs)
    yield from (each.claim for each in compare.claims(found) if each.other == reports[0].model)


def _licence(store: Store, base: BaseRef) -> str | None:
    """What the base model's own card states, if its folder has one."""
    try:
        text = (base_folder(base, store) / "README.md").read_text(encoding="utf-8")
    except (OSError, ModelError, UnicodeDecodeError):
        return None
    found = _LICENCE.match(text)
    try:
        stated = YAML(typ="safe").load(found[1]) if found else None
    except YAMLError:
        return None
    licence = stated.get("license") if isinstance(stated, dict) else None
    return licence if isinstance(licence, str) else None


# --- the card, part by part -----------------------------------------------------------------------


def _metadata(card: Card) -> str:
    own, hub = card.own, _hub_id(card.base)
    trained = [record for record in card.lineage if made_by(record, TrainSft, TrainDpo)]
    data = ModelCardData(
        base_model=hub,
        datasets=list(dict.fromkeys(_hub_sets(card.lineage))) or None,
        library_name="peft" if card.form == "adapter" else "transformers",
        license=card.licence,
        model_name=card.name.rpartition("/")[2],
        pipeline_tag="text-generation",
        tags=["sft-dpo", *dict.fromkeys(record.stage for record in trained)],
        eval_results=[_entry(name, own) for name in _finite(own)] if own else None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _finite(report: EvalReport) -> list[str]:
    """The metrics that have a number: the hub takes no others."""
    return [name for name, found in report.overall.items() if math.isfinite(found.value)]


def _entry(metric: str, report: EvalReport) -> EvalResult:
    estimate = report.overall[metric]
    return EvalResult(
        task_type="text-generation",
        dataset_type="held-out",
        dataset_name="held-out rows of the run",
        metric_type=metric,
        metric_name=evaluator_of(metric).label,
        metric_value=estimate.value,
        metric_args={"interval_95": [estimate.low, estimate.high], "rows": estimate.n},
    )


def _opening(card: Card) -> str:
    hub = _hub_id(card.base)
    place = f"[{hub}](https://huggingface.co/{hub})" if hub else _name_of(card.base)
    revision = f" at revision `{card.base.revision}`" if card.base.revision else ""
    licence = card.licence or f"{UNKNOWN} here; see the base model's page"
    return "\n".join(
        [
            f"# {escape_markdown(card.name)}\n",
            f"{_article(card.form)} made from {place}{revision} by "
            f"{_listed([_kind(record) for record in _trainings(card)])}.\n",
            f"- Licence of the base model: {escape_markdown(licence)}. Licences of the training "
            "data: below, as far as known. The licence of this model follows from both.",
            f"- Key of the artifact: `{card.key}`. Equal keys mean equal inputs: settings, seed, "
            "parents, data.",
            *(f"- {escape_markdown(note)}" for note in card.notes),
            "",
        ]
    )


def _measured(card: Card) -> str:
    if card.own is None:
        return "## Evaluation\n\nThis model was not evaluated.\n"
    claims = [f"- {escape_markdown(claim)}" for claim in card.claims]
    return "\n".join(
        [
            "## Evaluation\n",
            evaluation_table(card.evaluations).to_markdown(),
            "",
            *claims,
            *([""] if claims else []),
            "Rows of one prompt never lie on both sides of the split. Each value above is in this "
            "card's metadata, with its interval and number of rows.\n",
        ]
    )


def _unmeasured(card: Card) -> str:
    names = set(card.own.overall) if card.own else set()
    lines = [
        "Safety, bias, factuality, and languages other than those of the held-out rows.",
        "People's opinion: every number is computed from stored pairs, or by a program.",
    ]
    if not card.evaluation.get("suites"):
        lines.append("What the model has unlearned: no suite of general prompts was run.")
    if not card.evaluation.get("harness"):
        lines.append("Public benchmarks: no task of lm-eval was run.")
    if "pass_rate" not in names:
        lines.append("Whether replies are correct: the held-out prompts have no verifier.")
    if card.form == "gguf":
        lines.append("The file after a further quantisation.")
    return "\n".join(["## Not measured\n", *(f"- {line}" for line in lines), ""])


def _training(card: Card) -> str:
    rows = [
        [record.name, _settings(record), _figures(record), f"{record.seconds / 60:.1f} min"]
        for record in _trainings(card)
    ]
    table = Table.of("", ("Step", "Settings", "Result", "Time"), rows, align="lllr")
    grid = table.to_markdown().partition("\n\n")[2]
    return "\n".join(["## Training\n", grid if rows else "None.", ""])


def _settings(record: StageRecord) -> str:
    config: Any = record.config["config"]
    loss = config.get("loss")
    parts = [f"learning rate {config['learning_rate']:g}", f"{config['epochs']:g} epochs"]
    parts += [f"LoRA rank {config['lora']['r']}, alpha {config['lora']['alpha']:g}"]
    parts += [f"loss {loss['name']}, beta {loss['beta']:g}"] if loss and "beta" in loss else []
    parts += ["reference anchor"] if config.get("reference") == "anchor" else []
    return ", ".join([*parts, f"seed {record.seed}"])


def _figures(record: StageRecord) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in headline_of(record).items())


def _data(card: Card) -> str:
    rows = [
        [
            record.name,
            source,
            f"{data.kept:,}",
            f"{data.held:,}",
            f"{sum(data.quarantined.values()):,}",
            licence,
        ]
        for record in card.lineage
        if (data := record.output_as(DataRef))
        for source, licence in [_sources(record)]
    ]
    columns_ = ("Set", "Sources", "Trained on", "Held out", "Dropped", "Licence")
    grid = Table.of("", columns_, rows, align="llrrrl").to_markdown().partition("\n\n")[2]
    return "\n".join(["## Data\n", grid if rows else "None.", ""])


def _sources(record: StageRecord) -> tuple[str, str]:
    """The names of a set's sources, without folders, and their licences as far as known."""
    config: Any = record.config.get("config")
    found = config.get("sources", ()) if isinstance(config, dict) else ()
    names = [_source(source) for source in found] or ["batches from an inbox"]
    own = bool(found) and all(source["name"] == "practice" for source in found)
    return ", ".join(names), "generated by sft-dpo, Apache-2.0" if own else UNKNOWN


def _source(source: Json) -> str:
    if source["name"] == "practice":
        return f"practice ({source['part']})"
    if source["name"] == "hub":
        return str(source["id"])
    return PurePath(str(source["path"])).name


def _use(card: Card) -> str:
    if card.form == "gguf":
        return ""
    kind = "AutoPeftModelForCausalLM" if card.form == "adapter" else "AutoModelForCausalLM"
    package = "peft" if card.form == "adapter" else "transformers"
    lines = [
        f"from {package} import {kind}",
        "from transformers import AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained("{card.name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{card.name}")',
    ]
    code = "\n".join(lines)
    return f"## Use\n\n```python\n{code}\n```\n"


def _lineage(card: Card) -> str:
    rows = [
        [record.name, record.key, record.started, record.code.revision[:12]]
        for record in card.lineage
    ]
    grid = Table.of("", ("Step", "Key", "Built", "Code"), rows, align="llll").to_markdown()
    last = card.lineage[-1]
    versions = ", ".join(f"{name} {number}" for name, number in last.libraries.items())
    return "\n".join(
        [
            "## Lineage\n",
            grid.partition("\n\n")[2],
            "",
            f"Libraries of the last step: {escape_markdown(versions) or UNKNOWN}.\n",
        ]
    )


# --- words ----------------------------------------------------------------------------------------


def _trainings(card: Card) -> list[StageRecord]:
    return [record for record in card.lineage if made_by(record, TrainSft, TrainDpo)]


def _kind(record: StageRecord) -> str:
    return f"SFT ({record.name})" if record.stage == "sft" else f"DPO ({record.name})"


def _article(form: str) -> str:
    names = {"merged": "Full weights", "adapter": "A LoRA adapter", "gguf": "A GGUF file"}
    return names[form]


def _hub_id(base: BaseRef) -> str | None:
    return base.uri.removeprefix("hub:") if base.uri.startswith("hub:") else None


def _name_of(base: BaseRef) -> str:
    """What a base model that is on no hub is called, without the folders of a machine."""
    return f"a model of its own (`{PurePath(base.uri).name}`, sha256 `{base.sha256[:12]}`)"


def _hub_sets(lineage: Iterable[StageRecord]) -> Iterator[str]:
    for record in lineage:
        config: Any = record.config.get("config")
        for source in config.get("sources", ()) if isinstance(config, dict) else ():
            if source["name"] == "hub":
                yield str(source["id"])


def _listed(words: Sequence[str]) -> str:
    if not words:
        return "no training"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
