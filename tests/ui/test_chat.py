"""A person in the browser compares two models, blind; and what others may not do meanwhile."""

import json
import threading
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

import pytest

from alignment.errors import ModelError
from flows.chat_page import ChatServer
from flows.commands.compare_chat import Comparison, Contender

HOSTILE = "<script>document.title = 'ours'</script> & <img src=http://127.0.0.1:9/x>"


def first(turns):
    if turns[-1][1] == "too long":
        raise ModelError("the message has 9,999 tokens")
    return "Same." if turns[-1][1] == "same" else f"Alpha {len(turns)} {HOSTILE}"


def second(turns):
    return "Same." if turns[-1][1] == "same" else f"Beta {len(turns)}\nin two lines"


@pytest.fixture
def server(tmp_path):
    session = Comparison(Contender("one", first), Contender("two", second), tmp_path / "inbox")
    with ChatServer(session, 0) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def pairs(folder):
    (file,) = (folder / "inbox").iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def ask(server, method, *, path=None, form=None, **headers):
    """The status of a request that no browser sends from the page itself."""
    host = server.names[0]
    connection = HTTPConnection(host, timeout=10)
    given = {"Host": host, "Origin": f"http://{host}"} | {
        name.capitalize(): value for name, value in headers.items()
    }
    body = urlencode(form) if form else None
    connection.request(method, path or server.path, body, {k: v for k, v in given.items() if v})
    return connection.getresponse().status


def test_only_this_page_on_this_machine_may_vote(server, tmp_path):
    form = {"step": "0", "text": "Hello"}
    assert ask(server, "GET", host="evil.example") == 403
    assert ask(server, "GET", host="evil.example:80") == 403
    assert ask(server, "GET", path="/") == 404
    assert ask(server, "POST", path="/", form=form) == 404
    for origin in ("http://evil.example", "null", f"https://{server.names[0]}", None):
        assert ask(server, "POST", form=form, origin=origin) == 403
    assert ask(server, "POST", form=form, host="evil.example") == 403
    assert ask(server, "PUT", form=form) == 501
    assert server.session.turns == []
    assert ask(server, "POST", form=form) == 303
    assert ask(server, "POST", form=form) == 303, "the same form again"
    assert len(server.session.turns) == 1
    assert ask(server, "POST", form={"step": "0", "vote": "1"}) == 303
    assert not (tmp_path / "inbox").exists()
    assert ask(server, "POST", form={"step": "1", "vote": "1"}) == 303
    assert len(pairs(tmp_path)) == 1


@pytest.mark.ui
def test_a_vote_in_the_browser_is_a_pair(server, browser, tmp_path):
    browser.requests()
    browser.open(f"http://{server.names[0]}{server.path}")
    for number, text in enumerate(["Hello?", "And <b>now</b>?"]):
        browser.find("//textarea").send_keys(text)
        browser.click("Send")
        browser.shows("Alpha")
        assert "one" not in browser.text.split()
        assert "two" not in browser.text.replace("two lines", "").split()
        browser.screenshot(f"chat-vote-{number}")
        with browser.resized(500):
            width = "return document.documentElement.scrollWidth - window.innerWidth"
            assert browser.driver.execute_script(width) <= 0
        browser.click(f"Reply {number + 1} is better")
        browser.find("//textarea")
    browser.find("//textarea").send_keys("same")
    browser.click("Send")
    browser.shows("Same.")
    browser.find("//textarea").send_keys("too long")
    browser.click("Send")
    browser.shows("the message has 9,999 tokens")
    assert browser.find("//textarea").get_attribute("value") == "too long"
    browser.click("New chat")
    browser.wait_for("an empty chat", lambda: "Same." not in browser.text or None, seconds=60)
    browser.click("End and show who won")
    browser.shows("Thank you")
    browser.shows("neither: 1")
    browser.screenshot("chat-end")
    assert browser.driver.title == "Which reply is better?"
    assert {urlsplit(url).netloc for url in browser.requests()} == {server.names[0]}
    one, two = pairs(tmp_path)
    assert one["prompt"][0]["content"] == "Hello?"
    assert [turn["content"] for turn in two["prompt"]] == [
        "Hello?", one["chosen"][0]["content"], "And <b>now</b>?",
    ]  # fmt: skip
    assert {one["chosen"][0]["content"][:4], one["rejected"][0]["content"][:4]} == {"Alph", "Beta"}
    assert one["chosen"][0]["content"] in (f"Alpha 1 {HOSTILE}", "Beta 1\nin two lines")
