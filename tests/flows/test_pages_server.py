"""`sft-dpo server`: Prefect's pages, from which a browser asks nobody else."""

import asyncio
import socket
import subprocess
import sys

from flows.pages_server import policy, within_this_machine


async def page(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"<html>"})


def test_every_answer_says_whom_its_page_may_ask():
    sent = []

    async def keep(message):
        sent.append(message)

    async def nothing():
        return {}

    async def answer():
        await within_this_machine(page, 4200)({"type": "http"}, nothing, keep)

    asyncio.run(answer())
    assert sent[0]["headers"] == [(b"x", b"y"), (b"content-security-policy", policy(4200).encode())]
    assert sent[1]["body"] == b"<html>"
    allowed = policy(4200).removeprefix("default-src ").split()
    assert {one.split("://")[1] for one in allowed if "://" in one} == {
        "127.0.0.1:4200",
        "localhost:4200",
    }


def test_a_port_that_is_taken_is_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "sft_dpo", "server", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"port {port} is taken; name another one with --port\n"
