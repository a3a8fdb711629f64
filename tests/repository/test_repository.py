"""What people and programs expect of a repository, beside its code.

`citation.schema.json` is version 1.2.0 of the Citation File Format's own (CC BY 4.0, by Druskat and
others,
https://github.com/citation-file-format/citation-file-format).
"""

import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCHEMA = json.loads((Path(__file__).parent / "citation.schema.json").read_text())
PUBLISHES = re.compile(
    r"\b(twine|docker push|gh release|hatch publish|uv publish|pypi-publish|deploy-pages|git push)"
)


def read(path):
    return YAML(typ="safe", pure=True).load(ROOT / path)


def commands(workflow):
    return [
        line
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for line in step.get("run", "").splitlines()
    ]


@pytest.fixture
def workflow():
    return read(".github/workflows/check.yml")


def test_the_citation_is_valid_and_of_this_version():
    citation = read("CITATION.cff")
    jsonschema.validate(citation, SCHEMA)
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_a_citation_that_is_not_valid_is_refused():
    with pytest.raises(jsonschema.ValidationError, match="'authors' is a required property"):
        jsonschema.validate(
            {k: v for k, v in read("CITATION.cff").items() if k != "authors"}, SCHEMA
        )


def test_the_workflow_runs_what_is_there(workflow):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = [shlex.split(line) for line in commands(workflow)]
    assert {w[1] for w in words if w[0] == "make"} <= set(targets)
    assert ["make", "docs"] in words
    assert [".ci/run"] in words
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (image,) = [w for w in words if w[:2] == ["docker", "build"]]
    assert (ROOT / image[image.index("--file") + 1]).is_file()


def test_the_workflow_publishes_nothing(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert not PUBLISHES.search((ROOT / ".github/workflows/check.yml").read_text())
    assert PUBLISHES.search("run: docker push sft-dpo")


def test_a_report_of_a_problem_asks_for_the_environment():
    fields = {field["id"]: field for field in read(".github/ISSUE_TEMPLATE/problem.yml")["body"]}
    assert "`sft-dpo env`" in fields["env"]["attributes"]["label"]
    assert fields["env"]["validations"] == {"required": True}
