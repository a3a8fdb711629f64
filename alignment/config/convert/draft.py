"""A configuration of ours in the making, from parts that every trainer has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignment.config.convert.theirs import Values
from alignment.errors import UsageError

Stage = Literal["sft", "dpo"]


@dataclass(frozen=True)
class Draft:
    """What a converted file says.

    Attributes:
        stage: what it trains.
        shared: values outside the training: model, quantisation, seed.
        training: values of the training, by dotted key below it.
        data: values of the data set: `sources`, `held_out_share`.
        start: folder of an adapter that DPO starts from; empty for none.
        notes: what has no equal, each with the reason.
    """

    stage: Stage
    shared: Values
    training: Values
    data: Values
    start: str
    notes: tuple[str, ...]

    def config(self, *, on_cpu: bool) -> Values:
        """The configuration as a tree."""
        training = tree(self.training | ({"bf16": False} if on_cpu else {}))
        length = training["max_length"]
        config = dict(self.shared) | ({"device": "cpu"} if on_cpu else {})
        if self.stage == "sft":
            config["sft"] = {"name": "train", "data": self.data, "training": training}
        else:
            path = self.start
            config["sft"] = {"name": "adapter", "path": path} if path else {"name": "none"}
            config |= {"dpo": training, "rounds": [{"data": self.data}]}
        dtype = "float32" if on_cpu else "bfloat16"
        return config | {"evaluation": {"dtype": dtype, "max_length": length}}


def tree(values: Values) -> dict[str, Any]:
    """Values by dotted key as nested sections."""
    root: dict[str, Any] = {}
    for dotted, value in values.items():
        *sections, last = dotted.split(".")
        place = root
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return root


def file_source(path: Path, *, tool: str, **more: Any) -> Values:
    """A local file or folder as a source.

    Raises:
        UsageError: it is not there.
    """
    if not path.exists():
        raise UsageError(
            f"{path} is not there. Its path counts from the folder in which {tool} was started: "
            "run this command there"
        )
    return {"name": "file", "path": str(path.resolve())} | {k: v for k, v in more.items() if v}


def hub_source(dataset: str, *, tool: str, **more: Any) -> Values:
    """A data set of the hub as a source.

    Raises:
        UsageError: it is neither there nor named as the hub names its sets.
    """
    if dataset.count("/") != 1:
        raise UsageError(
            f"{tool}'s data set {dataset} is neither a file nor owner/name of the hub. A path "
            "counts from the folder in which the tool was started: run this command there"
        )
    return {"name": "hub", "dataset": dataset} | {k: v for k, v in more.items() if v}
