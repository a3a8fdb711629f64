"""What the rounds start from: SFT, a given adapter, or the base model in the place of one."""

from alignment.doctor.finding import Finding
from alignment.pipeline.chain import Chain
from alignment.pipeline.steps import MissingAdapter, UseAdapter


def check_start(chain: Chain) -> Finding:
    """Whether the SFT adapter that the config names is there."""
    sft = chain.sft
    missing = isinstance(sft, MissingAdapter)
    headline = "The rounds start from the base model, as configured."
    if isinstance(sft, UseAdapter):
        headline = f"The rounds start from the SFT adapter in {sft.path}."
    elif isinstance(sft, MissingAdapter):
        headline = f"There is {sft.foreseen[0]}."
    elif sft is not None:
        headline = "The rounds start from the model that SFT trains."
    return Finding(
        check="start",
        verdict="warn" if missing else "ok",
        headline=headline,
        figures={"missing_adapters": float(missing)},
        remedy="Correct sft.path, or set sft={name: none} if the base model is meant.",
    )
