"""Reads a hub data set with the real libraries from a local server that imitates the hub.

Not shown: that the hub itself responds like this. Each reading runs in its own process, since the
libraries read the hub's address and cache folder from the environment when they are imported.
"""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

COMMIT, OTHER = "0123456789" * 4, "9876543210" * 4
ROWS = b"".join(
    json.dumps({"prompt": f"q{n}", "chosen": f"yes {n}", "rejected": f"no {n}"}).encode() + b"\n"
    for n in range(3)
)
SHA = hashlib.sha1(ROWS, usedforsecurity=False).hexdigest()
INFO = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}]}
TREE = [{"type": "file", "path": "train.jsonl", "size": len(ROWS), "oid": SHA}]


class Hub(BaseHTTPRequestHandler):
    """One public data set with one file at one commit, to which its branch main points."""

    protocol_version = "HTTP/1.1"
    requests: list[str]

    def log_message(self, *_):
        """Log nothing; the tests read `requests`."""

    def do_GET(self):
        self.answer(self.path.partition("?")[0])

    do_HEAD = do_GET

    def answer(self, path):
        self.requests.append(path)
        api = "/api/datasets/owner/name"
        if path in (f"{api}/revision/{COMMIT}", f"{api}/revision/main"):
            self.send(json.dumps(INFO | {"_id": "1", "tags": [], "private": False}).encode())
        elif path == f"{api}/tree/{COMMIT}":
            self.send(json.dumps(TREE).encode())
        elif path == f"/datasets/owner/name/resolve/{COMMIT}/train.jsonl":
            self.send(ROWS)
        else:
            code = "RevisionNotFound" if "/revision/" in path else "EntryNotFound"
            self.send(b"{}", status=404, error=code)

    def send(self, content, *, status=200, error=""):
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, "ETag": f'"{SHA}"'}
        for name, value in (headers | {"X-Error-Code": error}).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub():
    """The server; its handler class records `requests`."""
    handler = type("OneHub", (Hub,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(hub, folder, revision, *, offline=False):
    """Run `sft-dpo data hub:owner/name@revision`: exit code, stderr and the kept prompts."""
    command = "import sys; from flows.cli import main; main()"
    arguments = ["data", f"hub:owner/name@{revision}", "--out", str(folder / "out")]
    env = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": str(int(offline)),
    }
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    kept = folder / "out" / "kept.jsonl"
    rows = kept.read_text().splitlines() if done.returncode == 0 else []
    return done.returncode, done.stderr, [json.loads(row)["prompt"][0]["content"] for row in rows]


@pytest.mark.slow
def test_a_pinned_hub_data_set_is_read_at_its_commit_and_again_without_a_network(hub, tmp_path):
    assert read(hub, tmp_path, COMMIT)[::2] == (0, ["q0", "q1", "q2"])
    requests = hub.RequestHandlerClass.requests
    assert f"/datasets/owner/name/resolve/{COMMIT}/train.jsonl" in requests
    assert not [path for path in requests if "/main" in path]
    requests.clear()
    code, _, prompts = read(hub, tmp_path, COMMIT, offline=True)
    assert (code, prompts, requests) == (0, ["q0", "q1", "q2"], [])


@pytest.mark.slow
def test_a_branch_is_read_at_its_commit_and_an_unknown_revision_is_one_error(hub, tmp_path):
    assert read(hub, tmp_path, "main")[::2] == (0, ["q0", "q1", "q2"])
    assert not [path for path in hub.RequestHandlerClass.requests if "/resolve/main/" in path]
    code, stderr, _ = read(hub, tmp_path, OTHER)
    assert code == 2
    assert "hub data set 'owner/name'" in stderr
    assert "cannot be loaded" in stderr
