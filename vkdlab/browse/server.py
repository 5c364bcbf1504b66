"""The App's server: FiftyOne's own, behind a guard, for this machine and for the page that it serves itself (ours).

FiftyOne's server asks nobody who he is, hands out any file of the machine, and answers pages of other sites that a
person has open beside it. `guarded` lets through

- requests that name this machine as their host: a foreign name that was pointed here does not reach it,
- requests from its own page, and programs without one; a page of another origin may only show it in a frame when it
  comes from this machine,
- media files that are samples of the database, and no other file,

and tells the page to ask nobody else. Who has an account on this machine can still open the App while it runs.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from vkdlab.browse import database
from vkdlab.files import write_json

App = Callable[[MutableMapping, Callable[[], Awaitable], Callable[[MutableMapping], Awaitable]], Awaitable]
"""An ASGI application: what asks (scope), how to read more of it, how to answer."""

# FiftyOne's page is built with 'unsafe-eval' and blob:; editors show notebooks in frames of schemes of their own.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self' http://127.0.0.1:* http://localhost:* vscode-webview: vscode-file:"
)


def is_loopback(host: str) -> bool:
    """True for a name of this machine that no other machine can reach: 127.0.0.1 and its like, or localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guarded(app: App, is_sample: Callable[[str], Awaitable[bool]]) -> App:
    """Wraps an ASGI application.

    Args:
        app: what is guarded.
        is_sample: tells whether a file's path is that of a sample; only such files are served.
    """

    async def guard(scope: MutableMapping, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        if scope["type"] != "http":
            return None  # FiftyOne speaks no web sockets
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if refusal := _refusal(headers, scope["method"]):
            return await _refuse(send, 403, refusal)
        if scope["path"].rstrip("/") == "/media" and scope["method"] != "OPTIONS":
            asked = urllib.parse.parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            for path in asked.get("filepath", []):  # all of them, whichever FiftyOne takes
                if not await is_sample(path):
                    return await _refuse(send, 403, "only files of samples are served")

        async def answer(message: MutableMapping) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        return await app(scope, receive, answer)

    return guard


def _refusal(headers: dict[str, str], method: str) -> str:
    """Why a request is not let through, or nothing."""
    host = headers.get("host", "")
    if not is_loopback(_name_of(host)):
        return f"this App is asked by names of this machine, and not as {host!r}"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"pages of {origin} may not ask this App"
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):
        shown = headers.get("sec-fetch-mode") == "navigate" and method == "GET"
        if not shown:
            return "pages of other sites may not ask this App"
    return ""


def _name_of(host: str) -> str:
    try:
        return urllib.parse.urlsplit(f"http://{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(send: Callable, status: int, why: str) -> None:
    body = why.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _samples_of_the_database() -> Callable[[str], Awaitable[bool]]:
    """A test whether a path is that of a sample of any data set, kept for paths that passed it once."""
    import fiftyone.core.odm as odm
    from starlette.concurrency import run_in_threadpool

    known: set[str] = set()

    def look(path: str) -> bool:
        connection = odm.get_db_conn()
        collections = [
            each["sample_collection_name"] for each in connection.datasets.find({}, {"sample_collection_name": 1})
        ]
        return any(connection[name].find_one({"filepath": path}, {"_id": 1}) for name in collections)

    async def is_sample(path: str) -> bool:
        if path not in known and await run_in_threadpool(look, path):
            known.add(path)
        return path in known

    return is_sample


def main(given: str) -> None:
    """Serves until it is stopped.

    Args:
        given: JSON: `database` (folder, uri, name and pid), `address`, `port` (0: any that is free) and `ready`, the
            file that gets the port.
    """
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    told: dict[str, Any] = json.loads(given)
    listening = socket.create_server((told["address"], told["port"]))
    port = listening.getsockname()[1]
    os.environ["FIFTYONE_SERVER"] = "1"
    database.join(**{**told["database"], "folder": Path(told["database"]["folder"])})

    from fiftyone.server.app import app
    from fiftyone.server.events import set_port

    set_port(port)
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    write_json(told["ready"], {"port": port})

    async def serve_until_killed() -> None:
        # A trigger that never comes: a server holds nothing that must be written, and ends at once when it is asked to.
        await serve(guarded(app, _samples_of_the_database()), config, shutdown_trigger=asyncio.Event().wait)

    asyncio.run(serve_until_killed())
