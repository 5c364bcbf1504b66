"""FiftyOne's App on this machine alone, in a notebook's cell or in a browser (ours).

    app = launch(dataset)        # or a view, or dataset.load_saved_view("too early")
    app.show()                   # in a notebook: the App, in the cell
    app.session.view = another   # FiftyOne's session, as its documentation has it
    app.close()

Other than FiftyOne's `launch_app` it starts a server of its own on a free port, never one that others reach or started,
behind the guard of `server`.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vkdlab.browse import database, keeper, server
from vkdlab.files import read_json

LOG = "app.log"
START_S = 120
"""FiftyOne's server imports much: 5 s, more on a machine that is busy."""
GRID_ZOOM = 8
"""Of 10: one step above FiftyOne's own, by which sentences leave some of their video's picture free."""

_open: App | None = None


@dataclass(eq=False, repr=False)
class App:
    """An App that runs."""

    url: str
    """Its address, for a browser on this machine."""
    session: Any
    """FiftyOne's session: its `view`, `selected`, `selected_labels` and `refresh()`."""
    pid: int
    """Process id of its server."""
    height: int
    """Of the frame in a notebook, pixels."""
    _server: _Server

    def __repr__(self) -> str:
        return f"FiftyOne's App at {self.url}"

    def show(self) -> None:
        """Shows the App in the cell's output; outside a notebook, where there are no cells, nothing happens."""
        self.session.show(height=self.height)

    def close(self) -> None:
        """Ends session and server. Closing twice, or at the end of the process, is fine."""
        global _open
        if _open is self:
            _open = None
        self.session._disable_wait_warning = True
        if self.session._client.is_open:
            self.session.__del__()  # what FiftyOne's close() ends with, without its screenshot of a page that goes on
        self._server.stop()


def launch(dataset_or_view: Any, *, port: int | None = None, address: str = "127.0.0.1", height: int = 720) -> App:
    """Starts the App with a data set or a view. There is one per process: one that runs is closed.

    Args:
        dataset_or_view: a FiftyOne data set or view, such as `to_fiftyone` returns.
        port: where it listens; by default any port that is free.
        address: 127.0.0.1 or another address of this machine that no other machine can reach.
        height: of the frame in a notebook, pixels.

    A browser may refuse what a frame from another site wants to keep, and FiftyOne's page then stays white; so in a
    notebook the App goes by the name that Jupyter goes by. Open the notebook by the address that Jupyter prints.

    Raises:
        ValueError: an address that others can reach, a port that is taken, or something that is no data set.
        BrowseUnavailable, BrowseError: there is no database, or the server does not start.
    """
    if not server.is_loopback(address) or ":" in address:
        raise ValueError(
            f"address is 127.0.0.1, got {address!r}: the App asks for no password, and whoever reaches it reads and "
            "changes the data. From another machine, forward the port: ssh -N -L 5151:127.0.0.1:PORT HOST"
        )
    if port is not None and not (isinstance(port, int) and 0 < port < 65536):
        raise ValueError(f"port is a number from 1 to 65535, or None for any that is free, got {port!r}")
    fo = database.fiftyone()
    if not isinstance(dataset_or_view, fo.Dataset | fo.DatasetView):
        raise ValueError(
            f"expected a FiftyOne data set or view, got {type(dataset_or_view).__name__}: make one by "
            "vkdlab.browse.to_fiftyone(...)"
        )
    global _open
    if _open is not None:
        _open.close()

    from fiftyone.core import context
    from fiftyone.core.session import session as sessions

    in_notebook = context.is_notebook_context()  # said to the server through the environment
    name = "localhost" if in_notebook and address == "127.0.0.1" and _jupyter_host() == "localhost" else address
    config = fo.app_config.copy()
    config.grid_zoom = GRID_ZOOM
    started = _Server(address, port)
    sessions._server_services[started.port] = started  # or the session would start one without a guard
    try:
        with database.explained():
            session = fo.Session(
                **{"view" if isinstance(dataset_or_view, fo.DatasetView) else "dataset": dataset_or_view},
                **dict(port=started.port, address=name, height=height, auto=False, config=config),
                remote=not in_notebook,  # or it would open a browser
            )
    except BaseException:
        started.stop()
        raise
    _open = App(url=f"http://{name}:{started.port}/", session=session, pid=started.pid, height=height, _server=started)
    atexit.register(_open.close)
    return _open


def _jupyter_host() -> str | None:
    """The host in the address of the Jupyter server that started this kernel, where there is one."""
    from jupyter_core.paths import jupyter_runtime_dir

    server_file = Path(jupyter_runtime_dir()) / f"jpserver-{os.environ.get('JPY_PARENT_PID')}.json"
    return read_json(server_file).get("hostname") if server_file.is_file() else None


class _Server:
    """A server's process; `stop` is what FiftyOne calls, too, when its last session ends."""

    def __init__(self, address: str, port: int | None):
        connected = database.connect()
        folder = Path(tempfile.mkdtemp(prefix="vkdlab-app-"))
        ready = folder / "ready.json"
        told = {
            "database": {**asdict(connected), "folder": str(connected.folder)},
            **{"address": address, "port": port or 0, "ready": str(ready)},
        }
        root = Path(server.__file__).parents[2]
        program = (
            f"import sys; sys.path.insert(0, {str(root)!r}); from vkdlab.browse.server import main; main(sys.argv[1])"
        )
        log = connected.folder / LOG
        self._kept = keeper.start([sys.executable, "-c", program, json.dumps(told)], folder=folder, log=log)
        self.pid = self._kept.pid
        end = time.monotonic() + START_S
        while not ready.is_file():
            if not self._kept.runs or time.monotonic() > end:
                self.stop()
                said = log.read_text(encoding="utf-8", errors="replace").splitlines()
                if any("Address already in use" in line for line in said):
                    raise ValueError(f"port {port} is taken by another program: leave it out, and a free one is found")
                raise database.BrowseError(f"the App's server did not start. {log} ends:\n" + "\n".join(said[-8:]))
            time.sleep(0.05)
        self.port: int = read_json(ready)["port"]

    def stop(self) -> None:
        self._kept.stop()
