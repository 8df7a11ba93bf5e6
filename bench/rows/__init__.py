"""What is measured: a module for each kind of work, with its rows."""

from bench.rows import many_runs, requests, strangers, streams
from bench.work import Row

ROWS: tuple[Row, ...] = (*requests.ROWS[:3], *streams.ROWS, *many_runs.ROWS, *requests.ROWS[3:], *strangers.ROWS)
