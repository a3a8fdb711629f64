"""What a real server accepts from the run form, and stores."""

from pathlib import Path
from typing import get_args

import pytest
from prefect.exceptions import PrefectHTTPStatusError

from flows.form import Preset, changes, chosen
from flows.presets import PRESETS, preset_names
from flows.sft_dpo import sft_dpo
from tests.security.test_secrets import SECRET, WITH_SECRET

FINE = (
    "seed=1",
    "inbox.path=s3://bucket/inbox",
    "inbox.path=inbox/part-?.jsonl",
    "inbox.path=https://example.test/pairs.jsonl?${PAIRS_QUERY}",
    "dpo.learning_rate=1e-5",
    'tags=["a@b.test", "c#d"]',
)


@pytest.fixture(scope="module")
def deployment(server):
    """A deployment of the flow that checks its parameters, as all of `prefect.yaml` do."""
    from prefect.utilities.callables import parameter_schema

    flow = server.ask("/flows/", name="sft-dpo-form")["id"]
    schema = parameter_schema(sft_dpo).model_dump_for_openapi()
    created = server.ask(
        "/deployments/",
        name="form",
        flow_id=flow,
        enforce_parameter_schema=True,
        parameter_openapi_schema=schema,
    )
    return f"/deployments/{created['id']}/create_flow_run"


@pytest.mark.parametrize("url", WITH_SECRET)
def test_a_secret_typed_into_the_form_is_refused_before_it_is_stored(server, deployment, url):
    with pytest.raises(PrefectHTTPStatusError, match=r"'overrides\[0\]'.* does not match"):
        server.ask(deployment, parameters={"overrides": [f"inbox.path={url}"]})
    stored = server.ask("/flow_runs/filter", limit=200)
    assert SECRET not in str(stored)


@pytest.mark.parametrize("change", FINE)
def test_other_changes_are_accepted(server, deployment, change):
    assert "id" in server.ask(deployment, parameters={"overrides": [change]})


def test_the_choices_are_the_presets_and_a_file_comes_first():
    assert sorted(get_args(Preset)) == preset_names()
    assert chosen("hh", "") == PRESETS / "hh.yaml"
    assert chosen("practice", "a100") == PRESETS / "a100.yaml"  # as a command may say
    assert chosen("practice", "mine/run.yaml") == Path("mine/run.yaml")


def test_a_field_of_the_form_is_a_change_of_the_config():
    fields = changes(learning_rate=5e-06, beta=None, epochs=2.0, prompts=40)
    assert list(fields) == ["dpo.learning_rate=5e-06", "dpo.epochs=2.0", "evaluation.prompts=40"]


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"preset": "practise"}, "'practise' is not one of"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"prompts": 0.5}, "prompts"),
    ],
)
def test_a_value_that_no_run_could_have_is_refused(server, deployment, parameters, complaint):
    with pytest.raises(PrefectHTTPStatusError, match=complaint):
        server.ask(deployment, parameters=parameters)
