"""The doctor: what is wrong on the way from a user to the gateway, seen from the user's end.

It sends what clients send to the address that they use, looks at what the gateway got of it and at what came back, and
watches a live log. It starts no run unless told to. The token goes to the address that was given and, after a redirect
to HTTPS, to the same host.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from .client import connect
from .diagnosis import Ailment, Diagnosis
from .examination import Examination, Hopeless, Moved
from .options import Options, read_options


def main(argv: Sequence[str] | None = None) -> int:
    """``codegen-api doctor``; the exit status."""
    return run(read_options(argv, doctor=True))


def run(options: Options) -> int:
    """Print what is wrong on the way to ``options.url``; the exit status."""
    try:
        diagnosis = asyncio.run(examine(options))
    except KeyboardInterrupt:
        return 130
    print(json.dumps(diagnosis.to_json(options.url)) if options.json else diagnosis.to_text(options.url))
    return diagnosis.status


async def examine(options: Options, clock: Callable[[], float] = time.time) -> Diagnosis:
    """What is wrong on the way to ``options.url``. ``clock`` gives epoch seconds."""
    diagnosis = Diagnosis()
    for _ in range(2):  # the second time where a redirect leads
        async with connect(options) as http:
            try:
                await Examination(http, options, diagnosis, clock).all()
            except Moved as moved:
                options = replace(options, url=str(moved))
                continue
            except Hopeless:
                pass
            except Exception as error:  # the last line of defence; the text could quote anything
                broke = f"What answers is so odd that the doctor itself broke ({type(error).__name__})."
                diagnosis.found.append(Ailment("no-gateway", broke))
        break
    return diagnosis
