"""The server of reports: what is asked for by a browser here, and nothing else."""

import http.client
import os
import subprocess
import sys

import pytest

from flows.report_server import wait_for
from tests.prefect_service import ROOT, free_port


@pytest.fixture
def get(tmp_path):
    """Status and body of a request to a server in a folder with one report and a secret."""
    (tmp_path / "runs" / "reports").mkdir(parents=True)
    (tmp_path / "runs" / "reports" / "mine.html").write_text("<h1>verdict</h1>")
    (tmp_path / "runs" / "reports" / "mine.json").write_text("{}")
    (tmp_path / "notes.html").write_text("secret")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "sft_dpo", "reports", "--port", str(port)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        assert wait_for(port, seconds=60)
        yield lambda path, host="127.0.0.1", method="GET": asked(port, path, host, method)
    finally:
        server.terminate()
        server.wait()


def asked(port, path, host, method):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_reports_are_served_and_nothing_else_is(get):
    assert get("/runs/reports/mine.html") == (200, "<h1>verdict</h1>")
    assert "/runs/reports/mine.html" in get("/")[1]
    up = "/runs/reports/%2e%2e/%2e%2e/notes.html"
    outside = ("/notes.html", "/runs/reports/../../notes.html", up, "/%2e%2e/etc/passwd")
    for path in [*outside, "/runs/reports/mine.json", "/runs/"]:
        assert get(path)[0] == 404, path
    assert get("/runs/reports/mine.html", host="elsewhere.test")[0] == 403
    assert get("/runs/reports/mine.html", method="POST")[0] == 501
