"""The benchmarks, in miniature: each row runs, and what does not do its work gives no figure."""

import asyncio
import re
import statistics
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import bars, peers, traffic
from bench.host import RUN
from bench.machine import Failed, Meter, free_port, program, started
from bench.report import Figure, Plot, Sample, table
from bench.rows import ROWS
from bench.viewers import Audience, Followed
from bench.work import MINIATURE, Case, Row, Scale, measured
from tests.end_to_end import processes

NGINX = pytest.mark.skipif(not program("nginx"), reason="nginx is not installed: apt-get install nginx")
SMALL = [row for row in ROWS if not row.asked]
COMPARED = {"gets", "burst"}
"""Rows of which each peer is run that is here; together they have all of them but one."""


def cases_of(row: Row) -> list[Case]:
    cases = [case for case in row.cases(MINIATURE) if case.missing is None]
    return cases if row.name in COMPARED else cases[:1]


@NGINX
@pytest.mark.parametrize("row", SMALL, ids=lambda row: row.name)
def test_each_row_has_all_its_figures(row: Row) -> None:
    known = {figure.key for figure in row.figures}
    for case in cases_of(row):
        sample = case.measure()
        assert set(sample) <= known
        if row.name != "followed":  # whose runs are read twice a minute, which is too seldom for a miniature
            assert set(sample) == known
            assert all(value >= 0 for key, value in sample.items() if key not in {"p50", "p99", "memory"})


def test_the_cases_of_a_row_can_be_told_apart() -> None:
    for row in ROWS:
        cases = row.cases(MINIATURE)
        assert len({(case.who, case.group) for case in cases}) == len(cases)
        assert not row.plotted or row.counts


def test_a_case_that_fails_or_is_not_here_does_not_keep_the_others_from_being_measured() -> None:
    def fail() -> Sample:
        raise Failed("it was refused")

    cases = [Case("fails", fail), Case("works", lambda: {"rate": 1.0}), Case("absent", fail, missing="a program")]
    row = Row("row", "Row", (Figure("rate", "requests/s"),), lambda scale: cases)
    found = measured(row, MINIATURE, 2)
    assert [(case.who, rounds) for case, rounds in found.rounds.items()] == [
        ("fails", [{}, {}]),
        ("works", [{"rate": 1.0}] * 2),
    ]
    assert found.without == [
        "absent: a program is not here",
        "fails, round 1: 'it was refused'",
        "fails, round 2: 'it was refused'",
    ]
    lines = [(case.who, case.group, rounds) for case, rounds in found.rounds.items()]
    assert "| fails | - |" in table(row.title, "", "", row.figures, lines)


async def test_a_wrong_answer_gives_no_figure() -> None:
    def wrong(number: int) -> tuple[bytes, bytes]:
        request, _ = traffic.gets(0, "/v1/organizations/1/agent/run/")(number)
        return request, b'"id":1,'

    with peers.live_host() as host:
        meter = Meter(host)
        for path in ("/elsewhere/", "/v1/organizations/1/agent/run/"):
            make = traffic.gets(host.port, path) if path == "/elsewhere/" else wrong
            with pytest.raises(Failed, match="was to be in it"):
                await traffic.closed_loop(host.port, make, meter, connections=1, warm=0.1, seconds=0.1)
        host_alone = traffic.gets(host.port, "/v1/organizations/1/agent/run/", runs=3)
        took = await traffic.paced(host.port, host_alone, meter, rate=100, connections=2, warm=0.1, seconds=0.2)
    assert len(took) in range(18, 22)
    assert meter.seconds > statistics.median(took) > 0


class Elsewhere(Followed):
    """Whatever is viewed, this is asked for; the second entry of it is the third of the log."""

    def request(self, run: int, number: int) -> bytes:
        log = f"/v1/alpha/organizations/1/agent/run/{run}/logs?limit=1&skip=" if run == RUN else "/elsewhere?"
        return b"".join(f"GET {log}{skip} HTTP/1.1\r\n\r\n".encode() for skip in (0, 2))


async def test_a_stream_that_is_refused_gives_no_figure() -> None:
    with peers.live_host() as host:
        async with Audience(Elsewhere(host, host), stamps=True) as audience:
            with pytest.raises(Failed, match="was refused"):
                await audience.open([RUN + 1])


async def test_a_stream_that_leaves_an_entry_out_gives_no_figure() -> None:
    with peers.live_host("--backlog", "5") as host:
        async with Audience(Elsewhere(host, host), stamps=True) as audience:
            with pytest.raises(Failed, match="entry 3 came after 1"):
                await asyncio.gather(audience.open([RUN]), audience.pause(processes.WAIT))


async def test_a_stream_that_ends_gives_no_figure() -> None:
    with peers.live_host() as host:
        async with Audience(Elsewhere(host, host), stamps=False) as audience:
            await audience.open([RUN])
            processes.kill(host.pid)
            with pytest.raises(Failed, match="a stream ended"):
                await audience.pause(processes.WAIT)


def test_a_peer_that_does_not_serve_is_no_peer() -> None:
    fails = [sys.executable, "-c", "raise SystemExit('there is no such thing')"]
    with pytest.raises(Failed, match="there is no such thing"), started(fails, free_port()):
        pass


def test_a_table_has_medians_spreads_and_ratios_to_the_first_of_the_group() -> None:
    figures = (Figure("rate", "requests/s"), Figure("cpu", "CPU each", "us", 1e6))
    lines = [
        ("gateway", 10.0, [{"rate": 100.0, "cpu": 1e-3}, {"rate": 300.0, "cpu": 3e-3}]),
        ("nginx", 10.0, [{"rate": 1000.0, "cpu": 1e-5}, {"rate": 1500.0}]),
        ("gateway", 2000.0, [{"rate": 7.0, "cpu": 0.0}]),
    ]
    assert table("Title", "", "viewers", figures, lines).splitlines()[2:] == [
        "| | viewers | requests/s | CPU each |",
        "|---|---:|---:|---:|",
        "| gateway | 10 | 200 (100 to 300) | 2,000 us (1,000 to 3,000) |",
        "| nginx | 10 | 1,250 (1,000 to 1,500), 7.50 x | 10.0 us, 0.01 x |",
        "| gateway | 2,000 | 7.00 | 0.00 us |",
    ]


def test_each_bar_is_about_a_figure_that_is_measured() -> None:
    rows = {row.name: row for row in ROWS}
    for bar in bars.BARS:
        row = rows[bar.row]
        places = {(case.who, case.group) for case in row.cases(Scale(litellm=sys.executable))}
        assert bar.figure in {figure.key for figure in row.figures}
        assert {bar.of, bar.beside or bar.of} <= places


def test_a_bar_is_met_or_missed_by_the_median_of_the_rounds_or_was_not_measured() -> None:
    rates = (Figure("rate", "requests/s"),)
    lines = [
        ("gateway", 0.0, [{"rate": 100.0}, {"rate": 70.0}, {}, {"rate": 100.0}]),
        (bars.LOGGING, 0.0, [{"rate": 100.0}, {"rate": 100.0}, {"rate": 1.0}, {"rate": 200.0}]),
    ]
    turns = [("gateway", 0.0, [{"rate": 39.0, "first": 0.4}])]
    said = (Figure("rate", "turns/s"), Figure("first", "first event after", "ms", 1e3))
    assert bars.table({"gets": ("GET", rates, lines), "turns": ("Turns", said, turns)}).splitlines()[2:] == [
        f"| GET | requests/s | 0.6 x {bars.LOGGING} | 0.8 x {bars.LOGGING} | 0.7 x {bars.LOGGING} | met |",
        "| GET | requests/s | 12 x LiteLLM | 20 x LiteLLM | - | not measured |",
        "| Turns | turns/s | 40.0 | 60.0 | 39.0 | **missed** |",
        "| Turns | first event after | 400 ms | - | 400 ms | met |",
    ]


def test_a_plot_is_svg_with_each_curve_inside_it() -> None:
    plot = Plot("cost", "Cost & more", "viewers", "us", {"a < b": [(10, 3.0), (1000, 40.0)], "c": [(10, 0.5)]})
    picture = ET.fromstring(plot.svg())  # noqa: S314 - it is our own
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Cost & more", "a < b", "c", "10", "1,000", "0.5", "50"} <= set(texts)
    circles = picture.findall("{http://www.w3.org/2000/svg}circle")
    (x, y), *others = [(float(each.get("cx", "")), float(each.get("cy", ""))) for each in circles]
    assert x == Plot.LEFT
    assert len(others) == 2
    assert all(x <= Plot.WIDTH - Plot.RIGHT and Plot.TOP <= y <= Plot.HEIGHT - Plot.BOTTOM for x, y in others)
    assert y > others[0][1], "what costs more is not above"


def test_the_results_show_every_plot_and_say_on_what_machine_they_were_made(tmp_path: Path) -> None:
    plots = [Plot(name, name, "viewers", "us", {"a": [(1, 1.0)]}) for name in ("one", "two")]
    bench.write(tmp_path, "| the bars |\n", ["| a table |\n"], plots, 12.0, 3.5)
    results = (tmp_path / "RESULTS.md").read_text()
    assert results.index("| the bars |") < results.index("| a table |")
    assert "in 12 minutes" in results
    assert "3.5 processes were busy" in results
    assert sorted(re.findall(r"\((\w+\.svg)\)", results)) == sorted(path.name for path in tmp_path.glob("*.svg"))


def test_an_unknown_row_is_refused_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--only", "everything"])
    assert "gets" in capsys.readouterr().err
