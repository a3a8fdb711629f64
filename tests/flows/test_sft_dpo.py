import re

import pytest
from prefect.utilities.callables import parameter_schema

from alignment.store.store import Store
from flows.dpo_round import dpo_round
from flows.presets import PRESETS, find_config
from flows.promote import promote
from flows.sft_dpo import sft_dpo
from tests.inbox import three_rounds


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_preset_is_found_by_its_name(preset):
    assert find_config(preset) == PRESETS / f"{preset}.yaml"


@pytest.mark.parametrize("path", ["mine.yaml", "configs/mine", "./practice", "/data/mine.yml"])
def test_anything_with_a_slash_or_an_extension_is_a_path(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(path).absolute() == (tmp_path / path).absolute()


FLOWS = pytest.mark.parametrize("flow", [sft_dpo, dpo_round, promote], ids=lambda flow: flow.name)


@FLOWS
def test_form_in_the_browser_explains_every_parameter(flow):
    properties = parameter_schema(flow).properties
    assert list(properties)[:2] == ["preset", "config"]
    assert "overrides" in properties
    assert all(len(field["description"]) > 40 for field in properties.values())


@FLOWS
def test_form_has_readable_titles_and_at_most_eight_fields(flow):
    properties = parameter_schema(flow).properties
    assert len(properties) <= 8
    assert not {field["title"] for field in properties.values()} & set(properties)


@FLOWS
def test_form_offers_every_preset_as_a_choice(flow):
    shipped = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    assert sorted(parameter_schema(flow).properties["preset"]["enum"]) == shipped


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_command_may_name_a_preset_where_the_form_has_a_file(preset):
    assert re.search(parameter_schema(sft_dpo).properties["config"]["pattern"], preset)


@pytest.mark.parametrize("typed", ["practise", "a100x", "practice hh"])
def test_an_unknown_preset_is_refused_before_a_run_is_created(typed):
    assert not re.search(parameter_schema(sft_dpo).properties["config"]["pattern"], typed)


@FLOWS
def test_flow_has_a_default_for_every_parameter(flow):
    assert not parameter_schema(flow).required


@pytest.mark.slow
def test_a_run_continues_from_the_champion_after_a_rejected_round(
    server, tiny_settings, write_config, tmp_path
):
    """From the command line: a run, its plan before and after, and the same run again."""
    config = str(write_config(three_rounds(tiny_settings, tmp_path)))

    def command_line(command):
        done = server.run("-c", "from flows.cli import main; main()", command, config, seconds=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    before = command_line("plan")
    assert "not judged yet: gate-1, gate-2." in before.stderr
    output = command_line("run").stderr
    assert "round 2 is rejected, round 1 stays: preference accuracy fell by" in output
    store = Store(root=tmp_path / "store")
    records = {record.name: record for key in store.list_keys() if (record := store.find(key))}
    assert records["dpo-3"].parents["policy"] == records["merge-dpo-1"].key
    page = (tmp_path / "store" / "reports" / "tiny.html").read_text()
    assert "The gate kept round 1, round 3." in page
    assert "The gate: round 2 is rejected, round 1 stays: preference accuracy fell by" in page
    after = command_line("plan")
    assert "not judged yet" not in after.stderr
    assert {line.split()[0] for line in after.stdout.splitlines()} == {"SKIP"}
    assert "reused" in command_line("run").stderr
    assert len(store.list_keys()) == len(after.stdout.splitlines())
