"""What the Codegen adapter makes of what the host says."""

import json
from typing import Any

import httpx
import pytest

from codegen_api import errors
from codegen_api.identity import Credential
from codegen_api.runs import LogEntry, LogPage, Paging, Run, RunRef, RunStatus
from codegen_api.upstreams import RunFilter
from codegen_api.upstreams.codegen import CodegenUpstream

from .asking import CREDENTIAL, REF, TOKEN, Ask, T, ask_upstream, get_run

WHEN = "2025-06-21 11:20:04.338398"


def hearing(content: bytes, status: int = 200, token: Credential = CREDENTIAL) -> CodegenUpstream:
    """An upstream whose host says this, whatever it is asked."""
    return CodegenUpstream(
        "https://host.example",
        transport=httpx.MockTransport(lambda request: httpx.Response(status, content=content)),
    )


def read(answer: object, ask: Ask[T], status: int = 200) -> T:
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return ask_upstream(hearing(content, status), ask)


def run_of(answer: object) -> Run:
    return read(answer, lambda upstream: upstream.get_run(CREDENTIAL, REF))


def page_of(answer: object, after: int = 0, limit: int = 100, newest_first: bool = False) -> LogPage:
    return read(answer, lambda upstream: upstream.read_log(CREDENTIAL, REF, after, limit, newest_first=newest_first))


def log(*entries: object, **more: object) -> dict[str, object]:
    return {"id": 41894, "organization_id": 323, "status": "ACTIVE", "logs": list(entries), **more}


def entry_of(entry: object) -> LogEntry:
    (read_back,) = page_of(log(entry)).entries
    return read_back


# Runs.


def test_a_run_keeps_the_names_and_values_of_the_host() -> None:
    given: dict[str, Any] = {
        "id": 41894,
        "organization_id": 323,
        "status": "COMPLETE",
        "created_at": WHEN,
        "web_url": "https://codegen.sh/agent/trace/41894",
        "result": "The answer is **4**.\n",
        "source_type": "API",
        "metadata": {"made_at": WHEN, "nested": [1, 2.5, None]},
        "github_pull_requests": [{"id": 1, "created_at": WHEN, "title": WHEN}, "odd", None],
        "x_unknown": {"seen_at": WHEN},
    }
    assert run_of(given) == Run(
        ref=RunRef("323", "41894"),
        status=RunStatus.COMPLETED,
        raw_status="COMPLETE",
        fields={
            **given,
            "created_at": "2025-06-21T11:20:04.338398Z",
            "github_pull_requests": [
                {"id": 1, "created_at": "2025-06-21T11:20:04.338398Z", "title": WHEN},
                "odd",
                None,
            ],
        },
        marks={},
    )


@pytest.mark.wire("metadata-reserved")
@pytest.mark.parametrize(
    ("given", "shown", "marks"),
    [
        ({"a": 1, "codegen_gateway": {"owner": "x", "n": 1}}, {"a": 1}, {"owner": "x"}),
        ({"codegen_gateway": {"owner": "x"}}, None, {"owner": "x"}),
        ({"a": 1, "codegen_gateway": "x"}, {"a": 1}, {}),
        ({"a": {"codegen_gateway": 1}}, {"a": {"codegen_gateway": 1}}, {}),
        ({}, {}, {}),
        (None, None, {}),
        ("odd", "odd", {}),
    ],
)
def test_the_gateways_marks_are_taken_out_of_the_metadata(given: object, shown: object, marks: object) -> None:
    found = run_of({"id": 7, "organization_id": 8, "metadata": given})
    assert (found.fields["metadata"], found.marks) == (shown, marks)


def test_a_description_without_metadata_says_nothing_of_marks() -> None:
    assert run_of({"id": 7, "organization_id": 8}).marks is None


def test_a_run_is_named_by_the_answer_and_not_by_the_question() -> None:
    assert run_of({"id": 7, "organization_id": 8}).ref == RunRef("8", "7")


@pytest.mark.parametrize("pulls", [None, "none", {}, 1])
def test_pull_requests_that_are_no_list_stay_as_they_are(pulls: object) -> None:
    assert (
        run_of({"id": 7, "organization_id": 8, "github_pull_requests": pulls}).fields["github_pull_requests"] == pulls
    )


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ("PENDING", RunStatus.PENDING),
        ("queued", RunStatus.PENDING),
        ("ACTIVE", RunStatus.RUNNING),
        (" active\n", RunStatus.RUNNING),
        ("running", RunStatus.RUNNING),
        ("EVALUATION", RunStatus.RUNNING),
        ("in_progress", RunStatus.RUNNING),
        ("PAUSED", RunStatus.PAUSED),
        ("WAITING", RunStatus.WAITING),
        ("WAITING_FOR_USER_INPUT", RunStatus.WAITING),
        ("COMPLETE", RunStatus.COMPLETED),
        ("Completed", RunStatus.COMPLETED),
        ("ERROR", RunStatus.FAILED),
        ("FAILED", RunStatus.FAILED),
        ("TIMEOUT", RunStatus.FAILED),
        ("MAX_ITERATIONS_REACHED", RunStatus.FAILED),
        ("OUT_OF_TOKENS", RunStatus.FAILED),
        ("CANCELLED", RunStatus.CANCELLED),
        ("CANCELED", RunStatus.CANCELLED),
        ("STOPPED", RunStatus.CANCELLED),
        ("HIBERNATING", RunStatus.UNKNOWN),
        ("", RunStatus.UNKNOWN),
    ],
)
def test_each_word_of_the_host_has_a_status_and_is_kept(raw: str, status: RunStatus) -> None:
    run = run_of({"id": 7, "organization_id": 8, "status": raw})
    assert (run.status, run.raw_status) == (status, raw)


@pytest.mark.parametrize("raw", [None, 1, True, ["ACTIVE"], {"is": "ACTIVE"}])
def test_a_status_that_is_no_word_is_unknown(raw: object) -> None:
    run = run_of({"id": 7, "organization_id": 8, "status": raw})
    assert (run.status, run.raw_status) == (RunStatus.UNKNOWN, None)
    assert run.fields["status"] == raw


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2025-06-21 11:20:04.338398", "2025-06-21T11:20:04.338398Z"),
        ("2025-06-21 11:20:04", "2025-06-21T11:20:04Z"),
        ("2025-06-21T11:20:04.5", "2025-06-21T11:20:04.5Z"),
        ("2025-06-21t11:20:04z", "2025-06-21T11:20:04Z"),
        ("2025-06-21T11:20:04.338398Z", "2025-06-21T11:20:04.338398Z"),
        ("2025-06-21 11:20:04.000001+00:00", "2025-06-21T11:20:04.000001Z"),
        ("2025-06-21T01:20:04.123456789+02:00", "2025-06-20T23:20:04.123456789Z"),
        ("2025-12-31 23:30:00-0100", "2026-01-01T00:30:00Z"),
        ("0001-01-01 00:00:00", "0001-01-01T00:00:00Z"),
        ("0001-01-01 00:00:00+01:00", None),
        ("2025-02-30 11:20:04", None),
        ("2025-06-21 11:60:04", None),
        ("2025-06-21 11:20:04+99:99", None),
        ("2025-06-21", None),
        ("2025-06-21 11:20", None),
        ("2025-06-21 11:20:04 ", None),
        ("٢٠٢٥-06-21 11:20:04", None),
        ("yesterday", None),
        ("", None),
        (1750504804, None),
        (None, None),
        ({"seconds": 1}, None),
    ],
)
def test_times_become_utc_with_a_z_and_anything_else_stays(given: object, shown: str | None) -> None:
    fields = run_of({"id": 7, "organization_id": 8, "finished_at": given, "at": WHEN}).fields
    assert fields["finished_at"] == (given if shown is None else shown)
    assert fields["at"] == WHEN


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "run",
        1,
        {},
        {"id": 7},
        {"organization_id": 8},
        {"id": "7", "organization_id": 8},
        {"id": 7, "organization_id": None},
        {"id": 7.0, "organization_id": 8},
        {"id": True, "organization_id": 8},
        b'{"id":NaN,"organization_id":8}',
    ],
)
def test_a_run_of_another_shape_is_an_error_of_the_host(answer: object) -> None:
    upstream = hearing(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    with pytest.raises(errors.UpstreamError):
        ask_upstream(upstream, get_run)
    assert upstream.observation is not None
    assert upstream.observation.reachable is True


# Lists and people.


def test_runs_are_listed_with_the_host_s_own_account() -> None:
    answer = {"items": [{"id": 2, "organization_id": 8}, {"id": 1, "organization_id": 8}], "total": 9, "page": 2}
    listing = read(answer, lambda upstream: upstream.list_runs(CREDENTIAL, "8", 2, 2, RunFilter()))
    assert [run.ref.id for run in listing.items] == ["2", "1"]
    assert listing.paging == Paging(total=9, page=2, size=None, pages=None)
    assert listing.at_end is False


@pytest.mark.parametrize(
    ("skip", "given", "total", "at_end"),
    [
        (0, 1, 2, False),  # fewer than were asked for, and there are more
        (1, 1, 2, True),
        (0, 1, None, False),  # nobody knows
        (3, 0, None, True),
        (3, 0, 900, True),  # a count that is too high
        (1, 1, 1, False),  # one that is too low
        (0, 2, 2, False),  # there is no room to see whether more follow
    ],
)
def test_an_end_is_an_empty_page_or_the_host_s_own_count_and_never_a_short_page(
    skip: int, given: int, total: int | None, at_end: bool
) -> None:
    runs = [{"id": number + 1, "organization_id": 8} for number in range(given)]
    listing = read(
        {"items": runs, "total": total}, lambda upstream: upstream.list_runs(CREDENTIAL, "8", skip, 2, RunFilter())
    )
    assert listing.at_end is at_end
    for newest_first in (False, True):
        entries = log(*({"n": number} for number in range(given)), total_logs=total)
        assert page_of(entries, skip, 2, newest_first).at_end is at_end


def test_what_cannot_be_read_in_a_list_is_passed_over_and_keeps_its_place() -> None:
    runs = [None, {"id": 2, "organization_id": 8}, {"id": "x"}, {"id": 4, "organization_id": 8}]
    listing = read({"items": runs, "total": 9}, lambda upstream: upstream.list_runs(CREDENTIAL, "8", 0, 9, RunFilter()))
    assert [run.ref.id for run in listing.items] == ["2", "4"]
    assert (listing.length, listing.gaps, listing.place(0), listing.place(1)) == (4, (0, 2), 1, 3)


def test_a_short_list_says_what_the_host_says_of_it() -> None:
    answer = {"items": [{"id": 2, "organization_id": 8}], "total": 900, "page": True, "size": "2", "pages": 1.5}
    listing = read(answer, lambda upstream: upstream.list_runs(CREDENTIAL, "8", 0, 2, RunFilter()))
    assert listing.paging == Paging(total=900, page=None, size=None, pages=None)
    assert listing.at_end is False


def test_a_list_longer_than_asked_for_is_cut() -> None:
    answer = {"items": [{"id": number} for number in range(5)]}
    listing = read(answer, lambda upstream: upstream.organizations(CREDENTIAL, 0, 2))
    assert [each.id for each in listing.items] == ["0", "1"]
    assert listing.at_end is False


@pytest.mark.parametrize("answer", [[], {}, {"items": None}, {"items": {}}, {"items": [1]}, {"items": [{}]}])
def test_a_list_of_another_shape_is_an_error_of_the_host(answer: object) -> None:
    with pytest.raises(errors.UpstreamError):
        read(answer, lambda upstream: upstream.list_runs(CREDENTIAL, "8", 0, 2, RunFilter()))
    with pytest.raises(errors.UpstreamError):
        read(answer, lambda upstream: upstream.organizations(CREDENTIAL, 0, 2))


def test_a_user_and_an_organization_keep_their_fields() -> None:
    given = {"id": 1001, "github_user_id": "583231", "email": None}
    user = read(given, lambda upstream: upstream.identify(CREDENTIAL))
    assert (user.id, user.fields) == ("1001", given)
    listing = read({"items": [given]}, lambda upstream: upstream.organizations(CREDENTIAL, 0, 100))
    assert (listing.items[0].id, listing.items[0].fields) == ("1001", given)


@pytest.mark.parametrize("answer", [[], {}, {"id": "1001"}])
def test_a_user_of_another_shape_is_an_error_of_the_host(answer: object) -> None:
    with pytest.raises(errors.UpstreamError):
        read(answer, lambda upstream: upstream.identify(CREDENTIAL))


# Logs.


def test_a_log_page_is_the_run_and_its_entries() -> None:
    given = log({"thought": "a"}, {"thought": "b"}, total_logs=27, page=1, size=100, pages=1, result=None)
    page = page_of(given, after=25)
    assert page.run.fields == {"id": 41894, "organization_id": 323, "status": "ACTIVE", "result": None}
    assert page.paging == Paging(total=27, page=1, size=100, pages=1)
    assert [json.loads(entry.json) for entry in page.entries] == [{"thought": "a"}, {"thought": "b"}]
    assert (page.after, page.last, page.at_end, page.newest_first) == (25, 27, True, False)


@pytest.mark.parametrize(("given", "at_end"), [(0, True), (1, False), (2, False), (3, False)])
def test_a_page_longer_than_asked_for_is_cut(given: int, at_end: bool) -> None:
    page = page_of(log(*({"n": number} for number in range(given)), total_logs=None), limit=2)
    assert len(page.entries) == min(given, 2)
    assert page.at_end is at_end
    assert page.paging.total is None


def test_a_page_counted_from_the_other_end_says_so() -> None:
    page = page_of(log({"n": 9}, total_logs=10), limit=1, newest_first=True)
    assert page.newest_first is True
    assert page.position(0) == 10


@pytest.mark.parametrize(
    "answer", [[], {"logs": []}, log() | {"logs": None}, log() | {"logs": {}}, {"id": 1, "organization_id": 2}]
)
def test_a_log_of_another_shape_is_an_error_of_the_host(answer: object) -> None:
    with pytest.raises(errors.UpstreamError):
        page_of(answer)


def test_an_entry_is_passed_on_as_it_is_but_for_its_times() -> None:
    given = {
        "agent_run_id": 41894,
        "created_at": WHEN,
        "message_type": "ACTION",
        "tool_name": "ripgrep_search",
        "tool_input": {"started_at": WHEN},
        "tool_output": {"finished_at": WHEN},
        "observation": ["a", {"seen_at": WHEN}],
        "id": "log-1",
    }
    entry = entry_of(given)
    assert json.loads(entry.json) == {**given, "created_at": "2025-06-21T11:20:04.338398Z"}
    assert entry.created_at == "2025-06-21T11:20:04.338398Z"


@pytest.mark.parametrize("created_at", [None, 5, {}])
def test_an_entry_without_a_time_has_none(created_at: object) -> None:
    assert entry_of({"created_at": created_at}).created_at is None


@pytest.mark.parametrize(
    ("entry", "is_open", "amendable"),
    [
        ({"message_type": "ACTION", "tool_output": {"a": 1}}, False, True),
        ({"message_type": "ACTION", "tool_output": "text"}, False, True),
        ({"message_type": "ACTION", "tool_output": {}}, False, True),
        ({"message_type": "ACTION", "tool_output": None}, True, True),
        ({"message_type": "action"}, True, True),
        ({"message_type": "ACTION", "tool_name": None}, True, True),
        ({"message_type": "USER_MESSAGE", "tool_name": "user_input"}, False, False),
        ({"message_type": "USER_MESSAGE", "tool_name": "something"}, False, False),
        ({"message_type": "ERROR", "tool_name": "edit_file"}, False, False),
        ({"message_type": "plan_evaluation", "tool_name": "think"}, False, False),
        ({"message_type": "FINAL_ANSWER"}, False, False),
        ({"message_type": "AGENT_RUN_LINK", "tool_name": "x"}, False, False),
        ({"message_type": None, "tool_name": "Bash"}, True, True),
        ({"message_type": None, "tool_name": "Bash", "tool_output": {}}, False, True),
        ({"message_type": None, "tool_name": "user_input"}, False, False),
        ({"message_type": None, "tool_name": ""}, False, False),
        ({"message_type": None, "tool_name": None}, False, False),
        ({"message_type": 5, "tool_name": "Bash"}, True, True),
        ({"message_type": "HOLOGRAM_RENDERED", "tool_name": "Bash"}, True, True),
        ({"message_type": "HOLOGRAM_RENDERED", "tool_name": 5}, False, False),
        ({"message_type": "HOLOGRAM_RENDERED"}, False, False),
        ({}, False, False),
    ],
)
def test_only_tool_calls_are_filled_in_later(entry: object, is_open: bool, amendable: bool) -> None:
    read_back = entry_of(entry)
    assert (read_back.open, read_back.amendable) == (is_open, amendable)


@pytest.mark.parametrize("item", [None, 1, "text", [], True])
def test_what_is_no_entry_keeps_its_position(item: object) -> None:
    page = page_of(log({"n": 1}, item, {"n": 3}))
    assert [json.loads(entry.json).get("n") for entry in page.entries] == [1, None, 3]
    placeholder = json.loads(page.entries[1].json)
    assert placeholder["agent_run_id"] == 41894
    assert placeholder["message_type"] == "UNREADABLE"
    assert placeholder["created_at"] is None
    assert (page.entries[1].open, page.entries[1].amendable, page.entries[1].created_at) == (False, False, None)


def test_an_entry_that_cannot_be_written_again_keeps_its_position_and_time() -> None:
    depth = 900
    deep = f'{{"message_type":"ACTION","created_at":"{WHEN}","tool_output":{"[" * depth}{"]" * depth}}}'
    content = f'{{"id":41894,"organization_id":323,"logs":[{{"n":1}},{deep},{{"n":3}}]}}'.encode()
    entries = page_of(content).entries
    assert [json.loads(entry.json).get("n") for entry in entries] == [1, None, 3]
    assert json.loads(entries[1].json)["message_type"] == "UNREADABLE"
    assert json.loads(entries[1].json)["created_at"] == entries[1].created_at == "2025-06-21T11:20:04.338398Z"
    assert (entries[1].open, entries[1].amendable) == (False, True)


@pytest.mark.wire("host-fields-kept")
def test_numbers_beyond_64_bits_keep_all_their_digits_wherever_the_host_says_them() -> None:
    wei, below = 25000000000000000001, -9223372036854775809
    run = run_of({"id": 7, "organization_id": 8, "metadata": {"wei": wei, "below": [below]}, "nonce": 2**64})
    assert run.fields == {"id": 7, "organization_id": 8, "metadata": {"wei": wei, "below": [below]}, "nonce": 2**64}
    page = page_of(log({"n": 1}, {"tool_input": {"wei": wei}, "tool_output": [below]}, total_logs=2**70))
    assert json.loads(page.entries[1].json) == {"tool_input": {"wei": wei}, "tool_output": [below]}
    assert page.paging.total == 2**70
    listing = read({"items": [{"id": 2**65, "name": wei}]}, lambda upstream: upstream.organizations(CREDENTIAL, 0, 100))
    assert (listing.items[0].id, listing.items[0].fields["name"]) == (str(2**65), wei)


@pytest.mark.wire("host-fields-kept")
def test_what_a_tool_was_given_and_gave_is_told_with_all_its_digits() -> None:
    entry = entry_of({"message_type": "ACTION", "tool_name": "pay", "tool_input": 2**65, "tool_output": {"wei": 2**66}})
    step = CodegenUpstream("https://host.example").step(entry)
    assert (step.input, step.output) == (2**65, {"wei": 2**66})


def test_what_is_json_to_some_readers_only_is_read_too() -> None:
    content = (
        rb'{"id":41894,"organization_id":323,"status":"ACTIVE","logs":[{"tool_output":NaN},{"tool_output":1e400},'
        rb'{"thought":"half a pair: \ud800"},{"tool_output":{"n":-Infinity}},{"tool_output":123456789012345678901234}]}'
    )
    entries = [json.loads(entry.json) for entry in page_of(content).entries]
    assert entries[:4] == [
        {"tool_output": None},
        {"tool_output": None},
        {"thought": "half a pair: \ud800"},
        {"tool_output": {"n": None}},
    ]
    assert entries[4] == {"tool_output": 123456789012345678901234}


# Errors.


@pytest.mark.parametrize(
    ("status", "answer", "kind", "message"),
    [
        (401, {"detail": "Invalid or expired API token"}, errors.InvalidToken, "Invalid or expired API token"),
        (402, {"message": "Alloted runs.", "status_code": 402}, errors.QuotaExhausted, "Alloted runs."),
        (403, {"message": "No access.", "status_code": 403}, errors.Forbidden, "No access."),
        (404, {"message": "Agent run not found.", "status_code": 404}, errors.NotFound, "Agent run not found."),
        (404, {"detail": "Not Found"}, errors.NotFound, "Not Found"),
        (404, {"message": "", "detail": "both"}, errors.NotFound, "both"),
        (403, {"message": "first", "detail": "second"}, errors.Forbidden, "first"),
        (401, {}, errors.InvalidToken, errors.InvalidToken.default_message),
        (403, {"message": {"odd": 1}, "detail": [1]}, errors.Forbidden, errors.Forbidden.default_message),
        (422, {"message": "Too short."}, errors.Rejected, "Too short."),
        (422, {"detail": "Too short."}, errors.Rejected, "Too short."),
        (422, {"detail": {"odd": 1}}, errors.Rejected, errors.Rejected.default_message),
        (429, {"message": "Slow down."}, errors.UpstreamRateLimited, "Slow down."),
        (429, None, errors.UpstreamRateLimited, errors.UpstreamRateLimited.default_message),
    ],
)
def test_each_refusal_has_a_name_and_the_host_s_own_sentence(
    status: int, answer: object, kind: type[errors.GatewayError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        read(answer, get_run, status)
    assert type(caught.value) is kind
    assert caught.value.message == message
    assert caught.value.details == ()


def test_a_rejection_says_where_and_never_quotes_the_request() -> None:
    answer = {
        "detail": [
            {"loc": ["body", "images", 0], "msg": "Input should be a string", "type": "string_type", "input": "secret"},
            {"loc": [True, None, 1.5, "query"], "msg": None, "type": 7, "ctx": {"error": "secret"}},
            {"loc": "body", "msg": "no list", "type": "odd"},
            "secret",
        ]
    }
    with pytest.raises(errors.Rejected) as caught:
        read(answer, get_run, 422)
    assert caught.value.details == (
        errors.Detail(("body", "images", 0), "Input should be a string", "string_type"),
        errors.Detail(("query",), "Not valid.", "value_error"),
        errors.Detail((), "no list", "odd"),
    )
    assert "secret" not in str(caught.value)


def test_a_rejection_has_a_bounded_number_of_details() -> None:
    answer = {"detail": [{"loc": [number], "msg": "no", "type": "no"} for number in range(5000)]}
    with pytest.raises(errors.Rejected) as caught:
        read(answer, get_run, 422)
    assert len(caught.value.details) == 50


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("x" * 10_000, "x" * 500),
        (" two\r\nlines\x00\x1b[31m\u2028\ud800 ", "two lines [31m"),
        (f"The token {TOKEN} is not good.", "The token ... is not good."),
        (" \n ", errors.Forbidden.default_message),
    ],
)
def test_a_sentence_of_the_host_is_bounded_printable_and_without_the_token(said: str, shown: str) -> None:
    with pytest.raises(errors.Forbidden) as caught:
        read({"message": said}, get_run, 403)
    assert caught.value.message == shown
