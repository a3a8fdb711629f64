import json
from pathlib import Path

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig, schema
from alignment.config.reference import Reference, with_reference

ROOT = Path(__file__).parents[3]


def test_the_committed_schema_matches_the_classes():
    committed = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    assert committed == json.loads(json.dumps(schema())), "run `make schema`"


def test_the_documented_reference_matches_the_classes():
    document = (ROOT / "docs" / "configuration.md").read_text()
    assert with_reference(document) == document, "run `make schema`"


def test_the_reference_has_a_line_for_every_key_of_a_whole_config(tiny_settings, write_config):
    """At a place where it is printed, or at one that the title of its group refers to."""
    lines = str(Reference(schema())).splitlines()
    keys = {line.split("`")[1].split(".")[-1] for line in lines if line.startswith("| `")}

    def named(value):
        if isinstance(value, dict):
            return {k for k in value if k != "name"}.union(*map(named, value.values()))
        return set().union(*map(named, value)) if isinstance(value, list) else set()

    written = load(write_config(tiny_settings)).model_dump(mode="json")
    assert named(written) - keys == {"kind"} & named(written)
    assert "| `dpo.learning_rate` | number > 0 | `5e-06` | Peak learning rate. |" in lines
    assert "| `sft.data.task_limits` | map of integer > 0 | `{}` |" in "\n".join(lines)


def test_every_field_of_the_schema_has_a_description():
    def undescribed(name, node):
        kinds = node.get("properties", {}) if isinstance(node, dict) else {}
        return [
            f"{name}.{key}"
            for key, field in kinds.items()
            if "description" not in field and "const" not in field
        ]

    definitions = schema()["$defs"]
    found = [entry for name, node in definitions.items() for entry in undescribed(name, node)]
    assert found + undescribed("PipelineConfig", schema()) == []


def test_a_config_survives_a_round_trip_through_json(tiny_settings, write_config):
    config = load(write_config(tiny_settings))
    assert PipelineConfig.model_validate_json(config.model_dump_json()) == config
