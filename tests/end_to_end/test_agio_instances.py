"""Agio's API over several processes with one database: one after the other, and at the same time."""

from pathlib import Path

from tests.end_to_end.agio import SETTINGS, chat, control, killed_in, numbers, status_of, view, with_agents
from tests.end_to_end.processes import WAIT, Sandbox, gateway
from tests.end_to_end.sdk import prompts, run_of, status_at


def test_a_gateway_that_is_killed_during_a_chat_finds_the_run_again(swift: Sandbox, tmp_path: Path) -> None:
    """In the middle of a run, of one that is paused, and when it has just been resumed."""
    text = "Carry the piano upstairs"
    settings = {**SETTINGS, "data_dir": str(tmp_path)}
    before = numbers(swift)
    with gateway(swift, **settings) as server, killed_in(server):
        with_agents(server)
        viewer = chat(server, text)
        run_id, number = viewer.run_id, run_of(swift, text)
        viewer.grow(5)
    viewer.thread.join(WAIT)
    assert viewer.broke
    events = viewer.events
    with gateway(swift, **settings) as server, killed_in(server):
        assert [run["id"] for run in server.get("/api/runs").json()["items"]] == [run_id]
        assert status_of(server, run_id) == "running"
        viewer = view(server, run_id, events[-1][2])
        viewer.until(3)
        control(server, run_id, "pause")
        assert status_at(swift, number) == "CANCELLED"
    viewer.thread.join(WAIT)
    assert viewer.broke
    events += viewer.events
    with gateway(swift, **settings) as server, killed_in(server):
        assert status_of(server, run_id) == "paused"
        viewer = view(server, run_id, events[-1][2])
        control(server, run_id, "resume")
    viewer.thread.join(WAIT)
    events += viewer.events
    with gateway(swift, **settings) as server:
        viewer = view(server, run_id, events[-1][2])
        viewer.until(3)
        control(server, run_id, "cancel")
        events += viewer.end
        assert events == view(server, run_id).end
        assert prompts(swift, number) == [text, "Go on."]
        assert [run["id"] for run in server.get("/api/runs").json()["items"]] == [run_id]
        assert numbers(swift) - before == {number}


def test_a_viewer_of_one_instance_sees_what_is_done_through_another(swift: Sandbox, tmp_path: Path) -> None:
    text = "Row across the lake"
    settings = {**SETTINGS, "data_dir": str(tmp_path)}
    with gateway(swift, **settings) as one, gateway(swift, **settings) as other:
        with_agents(one)
        viewer = chat(one, text)
        run_id, number = viewer.run_id, run_of(swift, text)
        for words in ("Faster.", "Slower."):
            viewer.grow()
            control(other, run_id, "pause")
            control(other, run_id, "resume", {"message": words})
        viewer.grow()
        control(other, run_id, "cancel")
        assert viewer.name == "run_cancelled"
        assert viewer.events == view(other, run_id).end
        assert prompts(swift, number) == [text, "Faster.", "Slower."]
