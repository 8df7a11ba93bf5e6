"""What adapters over HTTP share, as far as it can be tried without a host."""

import pytest

from codegen_api.errors import NotOffered, Rejected
from codegen_api.runs import LogEntry, Run, RunRef, RunStatus, to_json
from codegen_api.upstreams import InvalidOption, NewRun, RunFilter
from codegen_api.upstreams.host_json import ONLY, page_of, refuse
from codegen_api.upstreams.over_http import HttpUpstream, OneOrganization, sentence

RUN = Run(RunRef(ONLY, "1"), RunStatus.RUNNING, "busy", {"result": "done"})


class Toy(OneOrganization):
    known_options = ("directory",)


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 5, 9])
@pytest.mark.parametrize("total", [0, 1, 5])
def test_pages_of_a_whole_log_have_every_entry_once_and_then_an_end(total: int, limit: int, newest_first: bool) -> None:
    log = [LogEntry(to_json(number), None, open=False, amendable=False) for number in range(1, total + 1)]
    found: list[LogEntry] = []
    for _ in range(total + 1):
        page = page_of(
            RUN, total, len(found), limit, lambda start, stop: log[start:stop], newest_first=newest_first, revision="r"
        )
        assert [page.position(index) for index in range(page.length)] == [int(each.json) for each in page.entries]
        assert (page.paging.total, page.revision, page.length <= limit) == (total, "r", True)
        found += page.entries
        if page.at_end:
            break
    assert found == (log[::-1] if newest_first else log)
    beyond = page_of(RUN, total, total + 3, limit, lambda start, stop: log[start:stop], newest_first=newest_first)
    assert (beyond.entries, beyond.at_end) == ((), True)


def test_a_token_is_taken_out_of_what_the_host_says_and_a_short_one_leaves_words_whole() -> None:
    assert sentence("is sk-of-alicegood?", "sk-of-alice") == "is ...good?"
    assert sentence("x: an expired token (x)", "x") == "...: an expired token (...)"


def test_an_option_that_an_adapter_does_not_know_is_refused_by_its_name() -> None:
    assert Toy("https://host.example", options={"directory": "/srv"}).options == {"directory": "/srv"}
    with pytest.raises(InvalidOption, match="there are directory, and no others") as caught:
        Toy("https://host.example", options={"folder": "secret"})
    assert caught.value.name == "folder"
    with pytest.raises(InvalidOption, match="there are none"):
        HttpUpstream("https://host.example", options={"folder": "x"})


@pytest.mark.parametrize(
    ("asked", "place"),
    [(NewRun("hello", model="large"), ("body", "model")), (RunFilter(user_id="7"), ("user_id",))],
)
def test_what_the_host_has_no_word_for_is_refused_where_it_stands(
    asked: NewRun | RunFilter, place: tuple[str, ...]
) -> None:
    with pytest.raises(NotOffered) as caught:
        refuse(asked, place[-1])
    assert [getattr(detail, "loc", None) for detail in caught.value.details] == [place]
    refuse(NewRun("hello"), "model", "images")


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a:b", "a b", "ü", "-a", "a" * 201])
def test_an_id_that_would_change_a_path_is_none(text: str) -> None:
    with pytest.raises(Rejected):
        Toy("https://host.example").run_id(text)


def test_a_run_s_answer_is_its_result() -> None:
    assert Toy("https://host.example").answer(RUN) == "done"
    assert Toy("https://host.example").placeholder(RUN.ref).absent
