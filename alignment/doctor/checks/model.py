"""The run's model, tried without its weights: engines, adapters, merge."""

from collections.abc import Iterator
from pathlib import Path

from alignment.doctor.finding import Finding, percent
from alignment.models.sources import FolderModel
from alignment.models.targets import WHOLE
from alignment.pipeline.chain import Chain
from alignment.pipeline.trial import Trial, try_model
from alignment.report.table import Table


def check_model(chain: Chain, folder: Path) -> Finding:
    """Whether the model can be trained, merged and scored as configured, and what is trained."""
    trial = try_model(chain.steps(), folder)
    least = min((each.covered.share for each in trial.adapted), default=1.0)
    source = chain.base.source
    lacking = isinstance(source, FolderModel) and source.lacks_weights()
    return Finding(
        check="model",
        verdict="fail" if trial.obstacles else "warn" if lacking or least < WHOLE else "ok",
        headline=_headline(trial) + (f" {folder} has no weights yet." if lacking else ""),
        figures={"refused_steps": len(trial.obstacles), "covered_share": round(least, 4)},
        tables=(
            Table.of(
                "Layers with an adapter",
                ("Training", "Layers", "Names", "Share of the blocks' weights"),
                list(_rows(trial)),
            ),
        ),
        remedy="Change what the message names."
        if trial.obstacles
        else "Put its *.safetensors into the folder before the run."
        if lacking
        else "Nothing, if you chose this. lora.target_modules=all-linear trains every linear layer "
        "and, with lora.dropout=0, every expert.",
    )


def _headline(trial: Trial) -> str:
    if trial.obstacles:
        step, reason = next(iter(trial.obstacles.items()))
        return f"{step} cannot run: {reason}."
    if trial.notes:
        return f"{'; '.join(trial.notes)}."
    return "Every step can run this model, and adapters cover all weights in its blocks."


def _rows(trial: Trial) -> Iterator[tuple[str, ...]]:
    for each in trial.adapted:
        names = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in each.modules})
        yield each.step, f"{len(each.modules):,}", ", ".join(names), percent(each.covered.share)
