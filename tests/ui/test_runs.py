"""A person in the browser fills in the form, watches a run to its end, and cancels another.

Prefect's own pages, served by a real server, with a real worker behind it.
"""

import json
import time
from urllib.parse import urlsplit

import pytest

from tests import tiny
from tests.long_training import LongTraining
from tests.prefect_service import WORKER, bootstrap, running, serving

pytestmark = pytest.mark.ui
DIALOG = "//*[@role='alertdialog' or @role='dialog']"


@pytest.fixture(scope="module")
def service(browser, tmp_path_factory):
    """A server with all deployments and a worker; skipped if there is no browser."""
    assert browser
    with serving(tmp_path_factory.mktemp("ui")) as server:
        bootstrap(server)
        with running(server, *WORKER):
            yield server


@pytest.fixture(scope="module")
def config(service, tiny_model_folder):
    """The file to enter into the form: one round on the tiny model."""
    settings = tiny.settings(tiny_model_folder, service.store)
    settings |= {"rounds": settings["rounds"][:1], "control": None}
    path = service.folder / "tiny.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def form(service):
    """The address of the run form of sft-dpo/cpu."""
    (deployment,) = [
        found["id"]
        for found in service.ask("/deployments/filter", limit=50)
        if found["name"] == "cpu" and found["entrypoint"].endswith(".sft_dpo")
    ]
    return f"{pages(service)}/deployments/deployment/{deployment}/run"


def pages(service):
    """The address of Prefect's present pages."""
    return service.url.replace("/api", "/v2")


def fill_in(browser, title, text, *, kind="input"):
    box = browser.field(title, kind)
    browser.driver.execute_script("arguments[0].select()", box)
    box.send_keys(text)


def test_a_bad_value_is_refused_at_its_field_before_a_run_exists(service, browser, form):
    browser.open(form)
    browser.shows("Additional Options")
    fill_in(browser, "Maximum DPO rounds", "0")
    browser.click("Submit")
    field = browser.field("Maximum DPO rounds")
    assert "greater than or equal to 1" in field.get_property("validationMessage")
    fill_in(browser, "Maximum DPO rounds", "1")
    fill_in(browser, "Or a file", "practise", kind="textarea")
    browser.click("Submit")
    browser.shows("'practise' does not match '^(pract")
    browser.screenshot("refused")
    browser.field("Or a file", "*[contains(text(), 'does not match')]")
    assert browser.driver.current_url == form
    assert runs(service) == []


def test_a_run_is_started_from_the_form_and_watched_to_its_report(service, browser, form, config):
    browser.requests()
    browser.open(form)
    browser.shows("Learning rate of DPO")
    browser.screenshot("form", height=1500)
    fill_in(browser, "Or a file", str(config), kind="textarea")
    browser.choose("Beta", "Value")
    fill_in(browser, "Beta", "0.3")
    browser.click("Add item")
    fill_in(browser, "Other changes to the config", "seed=1", kind="textarea")
    run = submitted(service, browser)
    browser.open(f"{pages(service)}/runs/flow-run/{run['id']}")
    browser.shows("Running", seconds=300)
    browser.open("about:blank")  # the animated timeline of the page uses half a core
    assert service.finish(run["id"], seconds=300)["type"] == "COMPLETED"
    browser.open(f"{pages(service)}/runs/flow-run/{run['id']}")
    browser.shows("Completed")
    assert run["parameters"]["overrides"] == ["seed=1"]
    assert run["parameters"]["beta"] == 0.3
    browser.screenshot("run", height=1000)

    shown = service.artifacts(run["id"])
    browser.click("Artifacts")
    for key in ("tiny-report", "tiny-models", "tiny-page"):
        browser.shows(key)
    for key, text in (("tiny-report", "Pass rate"), ("tiny-models", "round 1"),
                       ("tiny-dpo-1", "loss")):  # fmt: skip
        browser.open(f"{pages(service)}/artifacts/artifact/{shown[key]['id']}")
        browser.shows(text)
        browser.screenshot(key.removeprefix("tiny-"), height=900)
    assert {urlsplit(url).hostname for url in browser.requests()} == {"127.0.0.1"}
    assert "sr-client-cfg.amplitude.com" in browser.refused()  # what is asked for in vain

    browser.open((service.store / "reports" / "tiny.html").as_uri())
    browser.shows("In pass rate, round 1 is")
    assert browser.requests() == []


def test_a_training_is_cancelled_on_the_page_of_its_run_and_resumes_when_retried_there(
    service, browser, config, record_property
):
    training = LongTraining(service, config)
    run = training.start()
    training.check_progress(beyond=3, seconds=300)
    assert not training.checkpoints()
    training.check_exit(cancelled(service, browser, run), record_property)
    assert service.finish(run, seconds=300)["type"] == "CANCELLED"

    browser.open(f"{pages(service)}/runs/flow-run/{run}")
    browser.shows("Cancelled")
    stopped_at = training.steps()[-1]
    browser.choose_from_menu("Retry")
    browser.find(f"{DIALOG}//button[starts-with(normalize-space(), 'Retry')]").click()
    close_page_after(service, browser, run, "CANCELLED")
    training.check_progress(beyond=stopped_at, seconds=300)
    cancelled(service, browser, run)
    assert service.finish(run, seconds=300)["type"] == "CANCELLED"
    assert not training.processes()
    # After the button, Prefect frees the slot and forgets its lease, which expires in five minutes.
    held = service.held()
    assert (held.slots, held.runs) == (0, 0)


def cancelled(service, browser, run):
    """Cancel the run; returns when the confirmation was clicked."""
    browser.open(f"{pages(service)}/runs/flow-run/{run}")
    browser.choose_from_menu("Cancel")
    confirm = browser.find(f"{DIALOG}//button[normalize-space()='Cancel Flow Run']")
    browser.screenshot("cancel")
    asked = time.time()
    confirm.click()
    close_page_after(service, browser, run, "RUNNING")
    return asked


def close_page_after(service, browser, run, state):
    """Close the page once the run has left a state, because its timeline uses half a core."""
    browser.wait_for(
        f"another state than {state}",
        lambda: True if service.state(run)["type"] != state else None,
        seconds=300,
    )
    browser.open("about:blank")


def submitted(service, browser):
    """Submit the form and return its run; click again if a busy server did not answer."""
    until = time.monotonic() + 300
    while not (found := runs(service)):
        assert time.monotonic() < until, browser.text
        browser.click("Submit")
        time.sleep(5)
    assert len(found) == 1
    return found[0]


def runs(service):
    """The runs that were started manually, not by a schedule."""
    found = service.ask("/flow_runs/filter", sort="START_TIME_DESC", limit=200)
    return [run for run in found if not run["auto_scheduled"]]
