import json
from pathlib import Path

from alignment.config.file import load
from alignment.config.pipeline import PipelineConfig, schema

ROOT = Path(__file__).parents[3]


def test_the_committed_schema_matches_the_classes():
    committed = json.loads((ROOT / "docs" / "config.schema.json").read_text())
    assert committed == json.loads(json.dumps(schema())), "run `make schema`"


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
