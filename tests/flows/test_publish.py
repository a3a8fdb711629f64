"""`sft-dpo publish` through the hub's real client, to a server here that imitates the hub.

Not shown: that the hub itself responds like this.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.execution.run_step import build
from alignment.models.sources import FolderModel
from alignment.pipeline.steps import OpenBase
from alignment.store.progress import Progress
from alignment.store.store import Store
from tests.alignment.artifacts import put_evaluation
from tests.prefect_service import ROOT

TOKEN = "hf_planted0123456789"
REPOSITORY = "my-org/tiny"


class Hub(BaseHTTPRequestHandler):
    """One organisation without repositories; keeps what is committed in a folder."""

    protocol_version = "HTTP/1.1"
    folder: Path
    requests: list[str]
    created: list[dict[str, object]]
    tokens: set[str]
    private = True
    exists = False

    def log_message(self, *_):
        """Log nothing; the tests read `requests`."""

    def do_GET(self):
        self.note()
        if self.path.startswith(f"/api/models/{REPOSITORY}") and type(self).exists:
            return self.send({"id": REPOSITORY, "private": type(self).private, "siblings": []})
        self.send({"error": "not found"}, status=404, error="RepoNotFound")

    def do_PUT(self):
        content = self.content()
        self.requests.append(f"PUT {self.path}")
        stored = self.folder.with_name("lfs") / hashlib.sha256(content).hexdigest()
        stored.parent.mkdir(exist_ok=True)
        stored.write_bytes(content)
        self.send({})

    def do_POST(self):
        self.note()
        content, place = self.content(), self.path.partition("?")[0]
        if place == "/api/repos/create":
            self.created.append(json.loads(content))
            type(self).exists = True
            return self.send({"url": f"{self.address}/{REPOSITORY}"})
        if place == "/api/validate-yaml":
            return self.send({"errors": [], "warnings": []})
        if place.endswith("/preupload/main"):
            return self.send({"files": [_mode(one) for one in json.loads(content)["files"]]})
        if place.endswith("/info/lfs/objects/batch"):
            return self.send({"transfer": "basic", "objects": self.actions(json.loads(content))})
        if place == f"/api/models/{REPOSITORY}/commit/main":
            self.commit(content)
            url = f"{self.address}/{REPOSITORY}/commit/{'0' * 40}"
            return self.send({"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})
        return self.send({"error": place}, status=404)

    def commit(self, content):
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.write(value["path"], base64.b64decode(value["content"]))
            if line["key"] == "lfsFile":
                stored = self.folder.with_name("lfs") / value["oid"]
                self.write(value["path"], stored.read_bytes())

    def write(self, path, content):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(content)

    def actions(self, batch):
        for one in batch["objects"]:
            one["actions"] = {"upload": {"href": f"{self.address}/lfs/{one['oid']}"}}
        return batch["objects"]

    @property
    def address(self):
        return f"http://{self.headers['Host']}"

    def note(self):
        self.requests.append(f"{self.command} {self.path}")
        self.tokens.add(self.headers.get("Authorization", ""))

    def content(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, content, *, status=200, error=""):
        body = json.dumps(content).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _mode(file):
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


@pytest.fixture
def hub(tmp_path):
    own = {"folder": tmp_path / "hub", "requests": [], "created": [], "tokens": set()}
    handler = type("OneHub", (Hub,), own)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def publish(hub, tiny_model_folder, tmp_path):
    """Run the command on a store with a base model that was evaluated."""
    _, address = hub
    store, source = Store(root=tmp_path / "store"), FolderModel(path=tiny_model_folder)
    step = OpenBase(name="base", source=source, quantisation=None, digest=source.digest())
    base = build(store, step, Progress())
    put_evaluation(store, "evaluate-1", "base", right=30, parents={"model": base.key})

    def run(*words, token=TOKEN):
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": token,
        }
        command = [sys.executable, "-m", "sft_dpo", "publish", "base", "--store", "store"]
        return subprocess.run(
            [*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


@pytest.mark.slow
def test_a_dry_run_shows_card_and_files_and_asks_nobody(publish, hub, tmp_path):
    before = {path.name for path in (tmp_path / "store").iterdir()}
    done = publish("--to", REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "# my-org/tiny" in done.stdout
    assert "model.safetensors" in done.stdout
    assert "nothing was uploaded" in done.stdout
    assert hub[0].requests == []
    assert {path.name for path in (tmp_path / "store").iterdir()} == before


def test_upload_makes_a_private_repository_that_others_can_load(publish, hub):
    done = publish("--to", REPOSITORY, "--upload")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("uploaded: http://127.0.0.1")
    handler = hub[0]
    (created,) = handler.created
    assert (created["name"], created["organization"]) == ("tiny", "my-org")
    assert created["visibility"] == "private"
    assert handler.tokens - {""} == {f"Bearer {TOKEN}"}, "metadata is checked without one"
    assert TOKEN not in done.stdout + done.stderr
    files = {path.name for path in handler.folder.rglob("*") if path.is_file()}
    assert {"README.md", "config.json", "model.safetensors", "export.json"} <= files
    assert "lineage.json" not in files
    card = ModelCard.load(handler.folder / "README.md")
    (accuracy,) = (
        one for one in card.data.eval_results if one.metric_type == "preference_accuracy"
    )
    low, high = accuracy.metric_args["interval_95"]
    assert low <= accuracy.metric_value <= high
    assert "## Not measured" in card.text
    assert str(handler.folder.parent.parent) not in card.content, "no folder of this machine"
    AutoTokenizer.from_pretrained(handler.folder)
    assert AutoModelForCausalLM.from_pretrained(handler.folder).num_parameters() > 0


def test_what_the_hub_would_refuse_is_refused_in_one_line(publish, hub):
    assert "expected ORGANISATION/NAME" in publish("--to", "tiny").stderr
    missing = publish("--to", REPOSITORY, "--upload", token="")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "HF_TOKEN is not set" in missing.stderr
    hub[0].exists, hub[0].private = True, False
    public = publish("--to", REPOSITORY, "--upload")
    assert public.returncode == 2
    assert public.stderr == (
        "my-org/tiny is there and public. Add --public, or name another one.\n"
    )
    assert hub[0].created == []
