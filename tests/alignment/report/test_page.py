import re
from html.parser import HTMLParser

import pytest

from alignment.evaluate.verdict import Check, Verdict
from alignment.records.text import Message
from alignment.report import tables
from alignment.report.markdown import to_markdown
from alignment.report.page import render
from alignment.report.run_report import RunReport, Sample
from tests.alignment.report.conftest import record
from tests.alignment.report.test_own_answers import own_round

PAYLOADS = (
    "<script>alert(1)</script>",
    "<ScRiPt src=//evil.test/x.js></sCrIpT>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "<base href=https://evil.test/>",
    "<meta http-equiv=refresh content='0;url=https://evil.test'>",
    "<link rel=stylesheet href=https://evil.test/x.css>",
    "<style>body{display:none}</style>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre><script>alert(1)</script>",
    "</text></svg><script>alert(1)</script>",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "` onmouseover=`alert(1)",
    "{{ 7 * 7 }}{% raw %}<b>",
    "${alert(1)}<b>",
    "<object data=data:text/html,x></object>",
    "<embed src=https://evil.test/x>",
    "<form action=https://evil.test><input name=q></form>",
    "<math><mtext><script>alert(1)</script></mtext></math>",
    "&lt;script&gt;<script\n>alert(1)</script\n>",
    "\x00<scr\x00ipt>alert(1)</script>\ud800",
)

KNOWN_TAGS = {
    "html head meta title style body main header h1 h2 h3 h4 p code dl div dt dd ul li span nav a",
    "section figure figcaption table thead tr th tbody td small article b details summary pre",
    "footer svg g path defs use clippath rect text",
}
KNOWN_TAGS = {tag for line in KNOWN_TAGS for tag in line.split()}


class Structure(HTMLParser):
    """Which tags and attributes a page really has."""

    def __init__(self):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


def structure(page):
    parser = Structure()
    parser.feed(page)
    return parser


def poisoned(run, payload):
    """The run with a payload in every text that comes from a model, a data set or a user."""
    return run.model_copy(
        update={
            "title": payload,
            "created": payload,
            "command": payload,
            "config": payload,
            "notes": (payload,),
            "final": "round 2",
            "evaluations": (),
            "generations": {
                **{
                    label: tuple(
                        row.model_copy(
                            update={"prompt": payload, "reply": payload, "task_type": payload}
                        )
                        for row in rows[:3]
                    )
                    for label, rows in run.generations.items()
                },
                payload: run.generations["base"][:3],
            },
            "pairs": {
                **run.pairs,
                "round 2": tuple(
                    pair.model_copy(update={"task_type": payload, "source": payload, "rejected": 0})
                    for pair in run.pairs["round 2"]
                ),
            },
            "pair_texts": tuple(
                pair.model_copy(
                    update={
                        "prompt": (Message(role="user", content=payload),) * 2,
                        "chosen": (Message(role="assistant", content=payload),),
                    }
                )
                for pair in run.pair_texts
            ),
            "own": (own_round(pairs=1, text=payload),),
            "histories": {},
            "samples": {payload: (Sample(step=1, prompt=payload, reply=payload),)},
            "records": tuple(
                record.model_copy(
                    update={"name": payload, "notes": (payload,), "metrics": {payload: 1.0}}
                )
                for record in run.records
            ),
            "verdicts": (
                Verdict(
                    candidate=payload,
                    champion=payload,
                    checks=(Check(name=payload, finding="failed", words=payload),),
                ),
            ),
            "data": {payload: run.data["pairs-1"].model_copy(update={"quarantined": {payload: 3}})},
        }
    )


@pytest.fixture(scope="module")
def page(run):
    return render(run)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_untrusted_text_stays_text(run, payload):
    found = structure(render(poisoned(run, payload)))
    assert found.tags <= KNOWN_TAGS
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    links = [value for _, name, value in found.attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith("#") for link in links)


def test_untrusted_text_stays_text_in_figures_and_their_tables(run):
    """Every payload as a task type and a source; three as steps, each of which is a figure."""
    report = run.evaluations[0]
    evaluation = report.model_copy(
        update={
            "by_task_type": dict.fromkeys(PAYLOADS, report.by_task_type["city"]),
            "by_source": dict.fromkeys(PAYLOADS, report.by_source["practice"]),
        }
    )
    histories = dict.fromkeys(PAYLOADS[:3], run.histories["sft"])
    found = structure(
        render(run.model_copy(update={"evaluations": (evaluation,), "histories": histories}))
    )
    assert found.tags <= KNOWN_TAGS
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_a_payload_is_shown_and_not_swallowed(run):
    page = render(poisoned(run, "<script>alert(1)</script>"))
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert "<script" not in page


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_untrusted_text_is_no_html_in_markdown(run, payload):
    markdown = to_markdown(poisoned(run, payload))
    assert not re.search(r"<[a-zA-Z/!]", markdown)
    assert "](" not in markdown
    markdown.encode()


def test_a_template_in_a_text_is_not_run(run):
    assert "{{ 7 * 7 }}" in render(poisoned(run, "{{ 7 * 7 }}"))


def test_the_pages_policy_forbids_loading_anything(page):
    policy = "default-src &#39;none&#39;; img-src data:; style-src &#39;unsafe-inline&#39;"
    head = page.split("<style>")[0].replace("'", "&#39;")
    assert f'http-equiv="Content-Security-Policy" content="{policy}"' in head


def test_the_page_is_self_contained(page):
    found = structure(page)
    assert found.tags <= KNOWN_TAGS
    assert "script" not in found.tags
    assert not re.search(r"@import|url\((?!#)", page)
    addresses = [
        value for _, name, value in found.attributes if "http" in value and "xmlns" not in name
    ]
    assert addresses == []


def test_the_page_starts_in_standards_mode(page):
    assert page.lower().startswith("<!doctype html>")


def test_every_link_in_the_page_leads_somewhere(page):
    found = structure(page)
    ids = {value for _, name, value in found.attributes if name == "id"}
    links = {value for tag, name, value in found.attributes if tag == "a" and name == "href"}
    assert links
    assert {link.removeprefix("#") for link in links} <= ids


def test_no_two_elements_share_an_id(page):
    ids = [value for _, name, value in structure(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_same_report_gives_the_same_bytes(run, page):
    assert render(RunReport.model_validate_json(run.model_dump_json())) == page


def test_the_verdict_comes_first(page):
    headline = (
        "In pass rate, round 2 is better than the base model and SFT, and not shown to differ "
        "from the control."
    )
    assert headline in page
    assert page.index(headline) < page.index("Evaluation on held-out rows")
    assert "No SFT adapter was found." in page


def test_the_final_model_is_the_one_the_gate_chose(run):
    page = render(run.model_copy(update={"final": "round 1"}))
    assert "In pass rate, round 1 is" in page
    assert "Pairs that round 1 still gets wrong" in page


def test_a_rejected_round_is_said_to_be_rejected_before_anything_else(run):
    """The run's last round is rejected: the report of that round, and of the run that goes on."""
    assert run.headline.startswith("Round 2 is rejected, round 1 stays. In pass rate, round 2 is")
    kept = run.model_copy(update={"final": "round 1"})
    assert kept.headline.startswith("In pass rate, round 1 is")


def test_pass_and_fail_are_written_out(page):
    assert "✓ pass" in page
    assert "✗ fail" in page


def test_the_headline_names_the_adapter_that_the_base_model_stands_in_for(run):
    note = "no SFT adapter in given/: the base model takes its place"
    report = run.model_copy(update={"records": (record("sft", "fallback", notes=(note,)),)})
    words = "No SFT adapter in given/: the base model takes its place. "
    assert report.headline == words + run.headline
    assert f'<p class="headline">{words}' in render(report)
    assert f"**{words}" in to_markdown(report)


def test_page_and_summary_say_once_what_the_models_ran_on(run):
    found = {"device": "NVIDIA A100", "driver": "580.65.06", "torch_build": "CUDA 13.0"}
    both = {"hardware": found, "libraries": {"torch": "2.13.0+cu130"}}
    records = [record("sft", "sft", **both), record("dpo-1", "dpo", **both), record("p", "pairs")]
    report = run.model_copy(update={"records": tuple(records)})
    words = "NVIDIA A100, driver 580.65.06, torch 2.13.0+cu130 (CUDA 13.0)"
    assert f"ran on {words}</p>" in render(report)
    assert f"Ran on {words}." in to_markdown(report)


def test_samples_show_the_first_and_the_last_step(page):
    """Nine steps, six shown: 0, 2, 3, 5, 6, 8 of 0 to 8."""
    section = page.split("Sample replies during sft")[1]
    assert re.findall(r"<span>step (\d)</span>", section) == ["0", "2", "3", "5", "6", "8"]


def test_a_page_with_one_model_says_that_there_is_nothing_to_compare(run):
    one = run.model_copy(
        update={
            "evaluations": run.evaluations[:1],
            "generations": {"base": run.generations["base"]},
            "pairs": {"base": run.pairs["base"]},
        }
    )
    page = render(one)
    assert "Nothing to compare" in page
    assert "against the other models" not in page


def test_the_page_says_under_which_settings_replies_were_generated(page):
    assert "Replies are greedy, under settings of the evaluation's own" in page


@pytest.mark.parametrize(
    ("missing", "section"),
    [
        ({"generations": {}}, "Replies side by side"),
        ({"pairs": {}, "pair_texts": ()}, "still gets wrong"),
        ({"histories": {}, "samples": {}}, "<h2>Training</h2>"),
        ({"data": {}}, "<h2>Data</h2>"),
        ({"records": ()}, "<h2>Cost and lineage</h2>"),
        ({"config": ""}, "<h2>Configuration</h2>"),
        ({"evaluations": ()}, "Evaluation on held-out rows"),
    ],
)
def test_a_section_without_rows_is_left_out(run, page, missing, section):
    assert section in page
    assert section not in render(run.model_copy(update=missing))


def test_a_metric_of_another_version_is_shown_under_its_name(run):
    later = run.evaluations[0].overall["nll"]
    report = run.evaluations[0].model_copy(
        update={
            "overall": {**run.evaluations[0].overall, "words_per_line": later},
            "by_task_type": {"city": {"words_per_line": later}},
        }
    )
    assert tables.evaluation_table([report]).columns[-1] == "Words per line"
    table = tables.task_table([report], "words_per_line")
    assert (table.title, table.rows[0][0].text) == ("Words per line by task type", "city")
    page = render(run.model_copy(update={"evaluations": (report,)}))
    assert "<dt>Words per line</dt>" in page


def test_an_empty_run_still_has_a_page():
    empty = RunReport(title="empty", created="today", command="sft-dpo run")
    assert "Nothing to compare" in render(empty)
    assert to_markdown(empty).startswith("# empty")


def test_pairs_without_their_text_are_named_by_id(run):
    assert "Pair q29" in render(run.model_copy(update={"pair_texts": (), "final": "sft"}))


def test_long_texts_and_long_runs_stay_below_five_megabytes(run):
    """Replies and a config of a hundred thousand characters, 20,000 steps in a history."""
    long = "word " * 20_000
    heavy = run.model_copy(
        update={
            "generations": {
                label: tuple(row.model_copy(update={"reply": long, "prompt": long}) for row in rows)
                for label, rows in run.generations.items()
            },
            "notes": (long,) * 3,
            "config": long,
            "histories": {
                f"dpo-{n}": tuple({"step": s, "loss": s % 7 / 7} for s in range(20_000))
                for n in range(5)
            },
        }
    )
    page = render(heavy)
    assert len(page.encode()) < 5_000_000
    assert "… (+98,500 characters)" in page


def test_the_markdown_has_the_verdict_and_the_table(run):
    lines = to_markdown(run).splitlines()
    assert lines[0] == "# practice, seed 7"
    assert lines[2].startswith(
        "**Round 2 is rejected, round 1 stays. In pass rate, round 2 is better"
    )
    assert any(line.startswith("| round 2 | .850 [") for line in lines)
    assert "- No SFT adapter was found." in lines


def test_the_markdown_is_at_most_sixty_lines(run):
    many = tuple(
        run.evaluations[0].model_copy(update={"model": f"round {n}"}) for n in range(1, 60)
    )
    notes = tuple(f"note {n}" for n in range(50))
    markdown = to_markdown(
        run.model_copy(update={"evaluations": run.evaluations[:2] + many, "notes": notes})
    )
    assert len(markdown.splitlines()) <= 60
    assert "round 59" in markdown
