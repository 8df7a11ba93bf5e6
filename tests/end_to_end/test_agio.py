"""Agio's API in front of a gateway that serves: what a client asks for is what the host does, by its own word."""

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.agio import (
    QUICK,
    SETTINGS,
    chat,
    control,
    done,
    go_on,
    length_when_still,
    numbers,
    over,
    status_of,
    view,
    with_agents,
)
from tests.end_to_end.processes import ALICE, WAIT, Sandbox, Server, eventually, gateway
from tests.end_to_end.sdk import prompts, run_of, status_at
from tests.leaks import WATCH


@pytest.fixture(scope="module")
def site(swift: Sandbox) -> Iterator[Server]:
    with gateway(swift, **SETTINGS) as server:
        with_agents(server)
        yield server


# -- pause, resume, cancel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [None, "Oil the chain, too."])
def test_a_pause_stops_the_run_at_the_host_and_a_resume_goes_on_with_the_same_one(
    site: Server, swift: Sandbox, words: str | None
) -> None:
    text = f"Mend the blue bicycle: {words}"
    before, viewer = numbers(swift), chat(site, text)
    run_id = viewer.run_id
    viewer.grow()
    number = run_of(swift, text)
    bans, resumes = swift.requests("ban"), swift.requests("resume")

    assert control(site, run_id, "pause")["status"] == "paused"
    assert (status_at(swift, number), swift.requests("ban")) == ("CANCELLED", bans + 1)
    assert control(site, run_id, "pause")["status"] == "paused"
    assert swift.requests("ban") == bans + 1
    paused_at = length_when_still(swift, number)
    assert viewer.thread.is_alive()
    told = len(viewer.events)

    body = None if words is None else {"message": words}
    assert control(site, run_id, "resume", body)["status"] == "running"
    viewer.until(told + 3)
    assert swift.requests("resume") == resumes + 1
    assert prompts(swift, number) == [text, words or "Go on."]
    log = swift.log(number)
    assert log[paused_at]["message_type"] == "USER_MESSAGE"
    assert len(numbers(swift) - before) == 2  # this one, and the one by which time was told

    control(site, run_id, "cancel")
    assert viewer.name == "run_cancelled"
    assert viewer.events[-1][1]["metrics"]["total_steps"] == len(swift.log(number))
    again = view(site, run_id).end
    assert again == viewer.events


def test_a_cancel_stops_the_run_at_the_host_for_good(site: Server, swift: Sandbox) -> None:
    text = "Paint the fence green"
    viewer = chat(site, text)
    viewer.grow()
    run_id, number = viewer.run_id, run_of(swift, text)
    assert control(site, run_id, "cancel")["status"] == "cancelled"
    assert viewer.name == "run_cancelled"
    assert (status_at(swift, number), status_of(site, run_id)) == ("CANCELLED", "cancelled")
    length_when_still(swift, number)
    resumes = swift.requests("resume")
    for what in ("pause", "resume"):
        answer = site.request("POST", f"/api/runs/{run_id}/{what}")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert control(site, run_id, "cancel")["status"] == "cancelled"
    assert (swift.requests("resume"), prompts(swift, number)) == (resumes, [text])


def test_a_paused_run_is_cancelled_without_another_word_to_the_host(site: Server, swift: Sandbox) -> None:
    text = "Sweep the yard"
    viewer = chat(site, text)
    viewer.grow()
    run_id, number = viewer.run_id, run_of(swift, text)
    control(site, run_id, "pause")
    bans = swift.requests("ban")
    assert control(site, run_id, "cancel")["status"] == "cancelled"
    assert viewer.name == "run_cancelled"
    assert (swift.requests("ban"), prompts(swift, number)) == (bans, [text])
    assert site.request("POST", f"/api/runs/{run_id}/resume").status_code == 409


def test_of_two_who_resume_at_once_one_does(site: Server, swift: Sandbox) -> None:
    text = "Count the spokes"
    viewer = chat(site, text)
    viewer.grow()
    run_id, number = viewer.run_id, run_of(swift, text)
    control(site, run_id, "pause")
    statuses: list[int] = []

    def resume() -> None:
        statuses.append(site.request("POST", f"/api/runs/{run_id}/resume").status_code)

    threads = [threading.Thread(target=resume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(statuses) == [200, 409, 409, 409]
    eventually(lambda: prompts(swift, number), lambda said: said == [text, "Go on."])
    viewer.grow()
    control(site, run_id, "cancel")
    assert viewer.name == "run_cancelled"


def test_a_host_that_waits_for_its_user_is_answered_by_a_resume(site: Server, swift: Sandbox) -> None:
    text = "Deploy the shed"
    viewer = chat(site, text, metadata={"scenario": "pauses"})
    assert (viewer.name, viewer.events[-1][1]["status"]) == ("run_completed", "paused")
    run_id, number = viewer.run_id, run_of(swift, text)
    assert (status_at(swift, number), status_of(site, run_id)) == ("PAUSED", "paused")
    behind = view(site, run_id, viewer.events[-2][2])
    assert [name for name, _, _ in behind.end] == ["run_completed"]
    control(site, run_id, "resume", {"message": "Staging, please."})
    run = done(site, run_id)
    assert (run["status"], prompts(swift, number)) == ("completed", [text, "Staging, please."])
    assert run["response_content"].endswith("With your answer I finished: Staging, please.")


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_restore_begins_a_new_run_with_what_is_said_instead(site: Server, swift: Sandbox) -> None:
    text = "Plant seven apple trees"
    old = over(site, text, session_id="orchard")
    number, before = run_of(swift, text), numbers(swift)
    body = {"create_new_run": True, "modifications": {"modified_query": "Plant two pear trees"}}
    restored = go_on(site, f"{old}.0", "restore", body)
    assert restored["new_run_id"] == restored["run_id"] != old
    assert restored["session_id"] == "orchard"
    run = done(site, restored["run_id"])
    assert (run["status"], run["input_query"]) == ("completed", "Plant two pear trees")
    (new,) = numbers(swift) - before
    assert prompts(swift, new) == ["Plant two pear trees"]
    assert prompts(swift, number) == [text]


def test_a_restore_in_the_middle_tells_the_host_what_had_come_by_then(site: Server, swift: Sandbox) -> None:
    text = "Look for the lost key"
    old = over(site, text)
    before = numbers(swift)
    restored = go_on(site, f"{old}.2", "restore", {"modifications": {"modified_query": "Look under the mat"}})
    done(site, restored["run_id"])
    (new,) = numbers(swift) - before
    (prompt,) = prompts(swift, new)
    assert f"User: {text}" in prompt
    assert "Tool list_files: A look is enough." in prompt
    assert "Assistant: Done" not in prompt
    assert prompt.endswith("Look under the mat")


def test_a_restore_without_a_new_run_goes_on_with_the_same_one_at_the_host(site: Server, swift: Sandbox) -> None:
    text = "Wash the windows"
    old = over(site, text)
    number, before = run_of(swift, text), numbers(swift)
    items = site.get(f"/api/checkpoints/runs/{old}/checkpoints").json()["items"]
    body = {"create_new_run": False, "modifications": {"modified_query": "And the door"}}
    restored = go_on(site, items[-1]["id"], "restore", body)
    assert (restored["run_id"], restored["new_run_id"]) == (old, None)
    run = done(site, old)
    assert run["response_content"].endswith("Done: And the door")
    assert numbers(swift) == before
    assert prompts(swift, number) == [text, "And the door"]
    assert [run["id"] for run in site.get("/api/runs").json()["items"]].count(old) == 1


def test_a_restore_without_a_new_run_takes_the_same_one_back_to_its_middle(site: Server, swift: Sandbox) -> None:
    text = "Sort the screws"
    old = over(site, text)
    number, before = run_of(swift, text), numbers(swift)
    restored = go_on(site, f"{old}.2", "restore", {"create_new_run": False})
    assert (restored["run_id"], restored["new_run_id"]) == (old, None)
    run = done(site, old)
    (new,) = numbers(swift) - before  # the host cannot go back in a log, so there it is another run
    (prompt,) = prompts(swift, new)
    assert prompt.endswith("Go on.")
    assert f"User: {text}" in prompt
    assert run["response_content"].startswith("A look is enough.\n\nThe task: ")
    assert prompts(swift, number) == [text]


def test_a_fork_has_a_session_of_its_own_and_the_words_it_is_given(site: Server, swift: Sandbox) -> None:
    text = "Mend the brake"
    old = over(site, text, agent_id="helper", session_id="workshop")
    number = run_of(swift, text)
    assert "\nYou mend bicycles.\n" in prompts(swift, number)[0]
    before = numbers(swift)
    changes = {"system_prompt": "You answer in one word.", "modified_query": "Is it done?"}
    forked = go_on(site, f"{old}.3", "fork", {"modifications": changes})
    assert forked["new_run_id"] == forked["run_id"] != old
    assert forked["session_id"] != "workshop"
    done(site, forked["run_id"])
    (new,) = numbers(swift) - before
    (prompt,) = prompts(swift, new)
    assert "You answer in one word." in prompt
    assert "\nYou mend bicycles.\n" not in prompt
    assert f"User: {text}" in prompt
    assert prompt.endswith("Is it done?")
    only_prompt = go_on(site, f"{old}.1", "fork", {"modifications": {"system_prompt": "You answer in rhymes."}})
    done(site, only_prompt["run_id"])
    (newest,) = numbers(swift) - before - {new}
    (prompt,) = prompts(swift, newest)
    assert "You answer in rhymes." in prompt
    assert prompt.endswith(text)

    over(site, "And the other one?", session_id="workshop", agent_id="helper")
    assert len(prompts(swift, number)) == 2
    assert len(prompts(swift, new)) == 1


def test_a_run_that_goes_on_can_be_forked_and_not_taken_back(site: Server, swift: Sandbox) -> None:
    text = "Dig a pond"
    viewer = chat(site, text)
    viewer.grow(6)
    run_id, number = viewer.run_id, run_of(swift, text)
    answer = site.request("POST", f"/api/checkpoints/{run_id}.1/restore", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "conversation_busy")
    before = numbers(swift)
    forked = go_on(site, f"{run_id}.1", "fork", {"modifications": {"modified_query": "Dig a well"}})
    (new,) = numbers(swift) - before
    eventually(lambda: prompts(swift, new), lambda said: said == ["Dig a well"])
    viewer.grow()
    assert (status_at(swift, number), prompts(swift, number)) == ("ACTIVE", [text])
    control(site, run_id, "cancel")
    done(site, forked["run_id"])


# -- who looks, and who goes away ----------------------------------------------------------------------------------


def test_a_run_outlives_the_client_that_asked_for_it(site: Server, swift: Sandbox) -> None:
    text = "Wind the clock"
    body = {"agent_id": "assistant", "message": text, "metadata": QUICK}
    WATCH.sent(ALICE, body)
    with (
        httpx.Client(timeout=WAIT, trust_env=False) as client,
        client.stream("POST", f"{site.url}/api/chat", json=body, headers=ALICE) as answer,
    ):
        first = next(line for line in answer.iter_lines() if line.startswith("data: "))
        run_id, path = json.loads(first.removeprefix("data: "))["run_id"], answer.headers["location"]
        assert path == f"/api/runs/{run_id}"
    run = done(site, run_id)
    assert run["status"] == "completed"
    number = run_of(swift, text)
    assert (status_at(swift, number), prompts(swift, number)) == ("COMPLETE", [text])
    assert run["response_content"].endswith(f"Done: {text}")


def test_two_viewers_of_a_run_see_the_same_and_the_host_is_not_asked_twice(site: Server, swift: Sandbox) -> None:
    text = "Watch the kettle"
    first = chat(site, text)
    run_id, number = first.run_id, run_of(swift, text)
    first.grow()
    second = view(site, run_id)
    first.grow()
    third = view(site, run_id, first.events[1][2])
    control(site, run_id, "pause")
    control(site, run_id, "resume")
    first.grow(6)
    reads = swift.requests("logs")
    first.grow(16)
    alone = swift.requests("logs") - reads
    assert alone < 60  # eight entries a second, and a reader for all
    control(site, run_id, "cancel")
    assert first.end == second.end
    assert third.end == first.events[2:]
    assert prompts(swift, number) == [text, "Go on."]


def test_looking_at_the_chat_starts_nothing_at_the_host(site: Server, swift: Sandbox) -> None:
    before = swift.admin("GET", "requests")["total"]
    for headers in (ALICE, {}, {"Accept": "text/event-stream"}):
        answer = site.get("/api/chat?agent_id=assistant&message=Hello", headers=headers)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert "EventSource" in answer.json()["detail"]
    assert swift.admin("GET", "requests")["total"] == before
