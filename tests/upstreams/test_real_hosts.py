"""What holds for every adapter, in front of the real server of its host, through a real gateway with two users.

In what the hosts differ is said in ``site.HOSTS``; what only one of them has is tested in ``test_<host>_real.py``.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.end_to_end.processes import Server, held_port
from tests.end_to_end.viewing import Broken, Viewer
from tests.upstreams.hosts.running import RealHost, is_here, serving
from tests.upstreams.site import HOSTS, Choice, Facts, Site, eventually

HERE = [facts for facts in HOSTS if is_here(facts.host)]

BACK = 30.0
"""Seconds within which a viewer hears that the host is back, and how a log is that was changed behind an end."""


def where(can: Callable[[Facts], object]) -> pytest.MarkDecorator:
    """With the hosts that can do it."""
    return pytest.mark.parametrize("facts", [facts for facts in HERE if can(facts)], ids=str, indirect=True)


@pytest.fixture(scope="module", params=HERE, ids=str)
def facts(request: pytest.FixtureRequest) -> Facts:
    found: Facts = request.param
    return found


@pytest.fixture(scope="module")
def host(facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    yield from serving(facts.host, tmp_path_factory)


@pytest.fixture(scope="module")
def site(facts: Facts, host: RealHost) -> Iterator[Site]:
    with ExitStack() as held:
        yield Site(facts, host, held)


def end_of(viewer: Viewer) -> Any:
    """What the only end says."""
    (found,) = viewer.of("end")
    return found.data


def in_order(entries: list[dict[str, Any]], *texts: str) -> bool:
    """Whether each text is first said in an entry behind the one that first says the text before it."""
    first = [next((at for at, entry in enumerate(entries) if text in json.dumps(entry)), -1) for text in texts]
    return first == sorted(set(first)) and -1 not in first


# -- what a run does --------------------------------------------------------------------------------------------------


async def test_all_viewers_see_each_entry_once_in_order_and_one_end(site: Site) -> None:
    run = await site.alice.create("steps 3 hold")
    early, late = site.alice.viewer(run), site.alice.viewer(run)
    watching = [asyncio.ensure_future(early.watch())]
    await site.alice.has_said(run, "step 2")
    watching.append(asyncio.ensure_future(late.watch()))
    await asyncio.gather(early.until("log"), late.until("log"))
    shown = await site.alice.released(run, "completed")
    await asyncio.gather(*watching)
    afterwards = await site.alice.viewer(run).watch()
    answer = "The answer after 3 calls"
    assert in_order(early.entries, "steps 3", "step 0", "step 1", "step 2", answer)
    assert early.entries == late.entries == afterwards.entries == await site.alice.log(run)
    for viewer in (early, late, afterwards):
        assert not viewer.of("log.amended") + viewer.of("resync") + viewer.of("failure")
        assert end_of(viewer)["run_status"] == "completed"
        assert end_of(viewer)["total_logs"] == len(viewer.entries)
    assert shown["result"].endswith(answer)
    assert shown["metadata"]["team"] == "a"
    assert "codegen_gateway" not in json.dumps([shown, early.entries])


async def goes_on(site: Site, run: str, *viewers: Viewer, **headers: str) -> None:
    """Resume it: these viewers see it at work, and then its end."""
    resumed = await site.alice.resume(run, "hold say two", **headers)
    assert resumed.status_code == 200, resumed.text
    assert resumed.json()["id"] == run
    watching = [asyncio.ensure_future(viewer.watch()) for viewer in viewers]
    await asyncio.gather(*(viewer.until("log") for viewer in viewers))
    await site.alice.released(run, "completed")
    await asyncio.gather(*watching)


async def test_a_run_goes_on_under_its_id_and_its_numbers(site: Site) -> None:
    prompt, status = site.facts.rests
    run = await site.alice.create(prompt)
    await site.alice.until(run, status)
    before = await site.alice.log(run)
    viewer, whole = site.alice.viewer(run), site.alice.viewer(run)
    viewer.last_id, viewer.entries = str(len(before)), list(before)
    await goes_on(site, run, viewer, whole)
    assert whole.entries == viewer.entries == await site.alice.log(run)
    assert whole.entries[: len(before)] == before
    assert "two" in json.dumps(whole.entries[len(before) :])
    assert end_of(viewer)["run_status"] == end_of(whole)["run_status"] == "completed"


async def test_a_run_that_has_ended_can_be_resumed_unless_it_is_final(site: Site) -> None:
    run = await site.alice.create("say one")
    await site.alice.until(run, "completed")
    resumed = await site.alice.resume(run, "say two")
    code = resumed.json().get("code")
    assert (resumed.status_code, code) == ((409, "run_final") if site.facts.final else (200, None)), resumed.text


async def test_what_a_run_waits_for_is_told_and_can_be_decided(site: Site) -> None:
    await asyncio.gather(*(decided(site, choice) for choice in site.facts.choices))


async def decided(site: Site, choice: Choice) -> None:
    run = await site.alice.create(f"steps 1 {choice.prompt}")
    viewer = site.alice.viewer(run)
    watching = asyncio.ensure_future(viewer.watch())
    notice = await viewer.until("notice")
    assert notice.data == {"code": "waiting", "retry_in": None, "reason": choice.reason}
    assert (await site.alice.told("GET", f"/agent-runs/{run}"))["run_status"] == "waiting"
    (request,) = (await site.alice.told("GET", f"/agent-runs/{run}/pending"))["items"]
    assert request["reason"] == choice.reason
    assert request["text"]
    path, decision = f"/agent-runs/{run}/pending/{request['id']}", {"decision": choice.decision, "text": choice.text}
    assert (await site.bob.ask("POST", path, decision)).status_code == 404
    assert (await site.alice.ask("POST", f"{path}0", decision)).status_code == 404
    unsuitable = {"decision": "answer" if choice.reason == "approval" else "approve", "text": "That"}
    assert (await site.alice.ask("POST", path, unsuitable)).status_code == 422
    await site.alice.told("POST", path, decision)
    await watching
    assert end_of(viewer)["run_status"] == choice.end
    assert viewer.notices() == ["waiting"]
    assert viewer.entries == await site.alice.log(run)
    assert (await site.alice.told("GET", f"/agent-runs/{run}/pending"))["items"] == []
    assert (await site.alice.ask("POST", path, decision)).status_code == 404


async def test_a_failure_is_an_end(site: Site) -> None:
    run = await site.alice.create("steps 1 boom")
    viewer = await site.alice.viewer(run).watch()
    assert in_order(viewer.entries, "steps 1 boom", "step 0")
    assert viewer.entries == await site.alice.log(run)
    assert end_of(viewer)["run_status"] == "failed"


async def stopped(site: Site) -> str:
    """A run that was cancelled at its last answer, as its viewer has seen."""
    run = await site.alice.create("steps 1 slow 20")
    viewer = site.alice.viewer(run)
    watching = asyncio.ensure_future(viewer.watch())
    await site.alice.has_said(run, site.facts.at_work, last=True)
    answer = await site.alice.cancel(run)
    assert (answer.status_code, answer.json().get("run_status")) == (200, "cancelled"), answer.text
    await watching
    assert end_of(viewer)["run_status"] == "cancelled"
    assert viewer.entries == await site.alice.log(run)
    return run


async def test_a_run_that_is_stopped_is_cancelled(site: Site) -> None:
    run = await stopped(site)
    assert (await site.alice.cancel(run)).status_code == 200
    resumed = await site.alice.resume(run, "say two")
    assert resumed.status_code == (409 if site.facts.final else 200), resumed.text


@where(lambda facts: not facts.final)
async def test_a_run_that_was_stopped_goes_on(site: Site) -> None:
    run = await stopped(site)
    before = await site.alice.log(run)
    viewer = site.alice.viewer(run)
    await goes_on(site, run, viewer)
    assert viewer.entries == await site.alice.log(run)
    assert viewer.entries[: len(before)] == before
    assert end_of(viewer)["run_status"] == "completed"


async def test_a_run_that_waits_can_be_stopped_where_the_host_can_do_that(site: Site) -> None:
    run = await site.alice.create("ask")
    await site.alice.until(run, "waiting")
    answer = await site.alice.cancel(run)
    assert answer.status_code == (200 if site.facts.stops_waiting else 409), answer.text
    await site.alice.until(run, "cancelled" if site.facts.stops_waiting else "waiting")


# -- whose it is ------------------------------------------------------------------------------------------------------


async def test_a_run_is_its_owner_s_alone(site: Site) -> None:
    mine, theirs = await asyncio.gather(site.alice.create("say Secret"), site.bob.create("say Other"))
    paths = ("", "/logs", "/logs/stream", "/pending")
    strangers = [site.bob.ask("GET", f"/agent-runs/{mine}{path}") for path in paths]
    unknown = [site.alice.ask("GET", f"/agent-runs/{site.facts.unknown}{path}") for path in paths]
    orders = [who.cancel(run) for who, run in ((site.bob, mine), (site.alice, site.facts.unknown))]
    orders += [who.resume(run, "Mine") for who, run in ((site.bob, mine), (site.alice, site.facts.unknown))]
    for answer in await asyncio.gather(*strangers, *unknown, *orders):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), answer.text
    wrong = await asyncio.to_thread(site.server.get, f"/agent-runs/{mine}", {"Authorization": "Bearer of-nobody"})
    assert wrong.status_code == 401
    lists = await asyncio.gather(*(who.told("GET", "/agent-runs") for who in (site.alice, site.bob)))
    shown = [[run["id"] for run in each["items"]] for each in lists]
    assert [(mine in ids, theirs in ids) for ids in shown] == [(True, False), (False, True)]


# -- what happens to it behind the gateway ----------------------------------------------------------------------------


@where(lambda facts: facts.deletes)
async def test_viewers_of_a_run_that_is_deleted_at_the_host_are_told(site: Site) -> None:
    run = await site.alice.create("steps 1 hold")
    viewer = site.alice.viewer(run)
    watching = asyncio.ensure_future(viewer.watch())
    await site.alice.has_said(run, "step 0")
    with site.host.client() as client:
        deleted = await asyncio.to_thread(client.delete, f"{site.facts.deletes}{run}")
    assert deleted.is_success, deleted.text
    await watching
    site.host.model.release()
    assert [event.data["code"] for event in viewer.of("failure")] == ["not_found"]
    for path in ("", "/logs", "/logs/stream"):
        assert (await site.alice.ask("GET", f"/agent-runs/{run}{path}")).status_code == 404


@where(lambda facts: facts.edits)
async def test_a_log_that_was_changed_is_seen_as_it_is_now(site: Site) -> None:
    run = await site.alice.create("steps 2")
    back = await site.alice.viewer(run).watch()
    first = list(back.entries)

    async def come(viewer: Viewer) -> Viewer:
        """Watch; who has been here comes back as if it had lost the end."""
        ids = [event.id for event in viewer.events if event.id and not event.id.endswith(".end")]
        viewer.last_id = ids[-1] if ids else None
        return await viewer.watch()

    async def agree() -> bool:
        seen = await asyncio.gather(come(back), come(site.alice.viewer(run)))
        log = await site.alice.log(run)
        return all(viewer.entries == log for viewer in seen)

    for change in (
        [{**first[2], "content": "changed"}],
        [{"type": "remove", "content": "", "id": entry["id"]} for entry in first[1:3]],
    ):
        state = {"values": {"messages": change}}
        with site.host.client() as client:
            changed = await asyncio.to_thread(client.post, f"/threads/{run}/state", json=state)
        assert changed.is_success, changed.text
        await eventually(agree, bool, BACK)
    assert [entry["id"] for entry in back.entries] == [first[place]["id"] for place in (0, 3, 4, 5)]


async def test_viewers_outlive_the_death_of_the_gateway(site: Site) -> None:
    run = await site.alice.create("steps 2 hold")
    viewer = site.alice.viewer(run)
    watching = asyncio.ensure_future(viewer.watch())
    await viewer.until("log", 2)
    await asyncio.to_thread(site.kill)
    with pytest.raises(Broken):
        await watching
    await asyncio.to_thread(site.start)
    viewer.url = site.server.url
    watching = asyncio.ensure_future(viewer.watch())
    await viewer.until("status", 2)
    await site.alice.released(run, "completed")
    await watching
    assert in_order(viewer.entries, "steps 2", "step 0", "step 1", "The answer after 2 calls")
    assert viewer.entries == await site.alice.log(run)
    assert end_of(viewer)["run_status"] == "completed"


@where(lambda facts: "create" in facts.keyed)
async def test_a_create_that_another_gateway_sends_again_has_no_effect(site: Site) -> None:
    run = await site.alice.create("say one", Idempotency_Key="create")
    assert await site.alice.create("say one", Idempotency_Key="create") == run
    await site.alice.until(run, "completed")
    before = await site.alice.log(run)
    await asyncio.to_thread(site.start)
    assert await site.alice.create("say one", Idempotency_Key="create") == run
    await site.alice.until(run, "completed")
    assert await site.alice.log(run) == before


@where(lambda facts: "resume" in facts.keyed)
async def test_a_resume_that_another_gateway_sends_again_has_no_effect(site: Site) -> None:
    run = await site.alice.create("say one")
    await site.alice.until(run, "completed")
    viewer = site.alice.viewer(run)
    await goes_on(site, run, viewer, Idempotency_Key="resume")
    await asyncio.to_thread(site.start)
    again = await site.alice.resume(run, "hold say two", Idempotency_Key="resume")
    assert again.status_code == 200, again.text
    assert (await site.alice.until(run, "completed"))["result"] == "two"
    assert await site.alice.log(run) == viewer.entries


async def test_a_gateway_whose_host_is_away_says_so(site: Site) -> None:
    with held_port() as port:
        away = await asyncio.to_thread(site.gateway, base_url=f"http://127.0.0.1:{port}")
        await refuses(away, site, 502, "upstream_unreachable")


@where(lambda facts: facts.host.token)
async def test_a_gateway_with_a_wrong_password_says_so(site: Site) -> None:
    stranger = await asyncio.to_thread(site.gateway, api_token="of-others")
    await refuses(stranger, site, 502, "upstream_error")


async def refuses(server: Server, site: Site, status: int, code: str) -> None:
    """Whatever is asked of this gateway."""
    run = f"/agent-runs/{site.facts.unknown}"
    asked: list[tuple[str, str, object]] = [
        ("GET", "/agent-runs", None),
        ("POST", "/agent-runs", {"prompt": "say one"}),
        ("GET", run, None),
        ("GET", f"{run}/logs/stream", None),
    ]
    for method, path, body in asked:
        headers = {"Authorization": f"Bearer {site.alice.key}"}
        answer = await asyncio.to_thread(server.request, method, path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@where(lambda facts: facts.left)
async def test_viewers_outlive_the_death_of_the_host(site: Site) -> None:
    run = await site.alice.create("steps 2 hold")
    viewer = site.alice.viewer(run)
    watching = asyncio.ensure_future(viewer.watch())
    await site.alice.has_said(run, "step 1")
    await asyncio.to_thread(site.host.stored)
    await asyncio.to_thread(site.host.kill)
    await viewer.until("notice")
    await asyncio.to_thread(site.host.start)
    async with asyncio.timeout(BACK):
        while "recovered" not in viewer.notices():
            await viewer.until("notice", len(viewer.notices()) + 1)
    await site.alice.released(run, str(site.facts.left))
    await site.alice.cancel(run)  # what is at work then will never end by itself
    await watching
    assert in_order(viewer.entries, "steps 2", "step 0", "step 1")
    assert viewer.entries == await site.alice.log(run)
    assert end_of(viewer)["run_status"] == {"running": "cancelled"}.get(str(site.facts.left), site.facts.left)
