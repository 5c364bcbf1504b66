"""The database under FiftyOne: one of our own for every folder, on a UNIX socket, gone when our process is (ours).

FiftyOne left alone attaches to any database of its kind on the machine, and keeps settings in the user's home. Here a
process starts its own mongod in a folder, which nobody reaches over a network, before FiftyOne is imported:

    database.connect("somewhere")      # or nothing: a folder under the cache, or of the notebook's job
    fo = database.fiftyone()

Whoever uses FiftyOne gets it from `fiftyone()`: nothing in `vkdlab.browse` imports it otherwise.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

from vkdlab.browse import keeper, mongod
from vkdlab.browse.mongod import BrowseError, BrowseUnavailable
from vkdlab.files import JOB_DIR_VARIABLE, cache_dir, read_json, write_json

PLUGINS = Path(__file__).parent / "plugins"


@dataclass(frozen=True)
class Database:
    """A running database that this process is connected to."""

    folder: Path
    """Where it keeps everything."""
    uri: str
    """Its address, `mongodb://...`."""
    name: str
    """What the data is kept under in it, unique to the folder."""
    pid: int
    """Process id of mongod."""

    def close(self) -> None:
        """Stops the database in order; `connect` starts it again. It stops by itself when the process ends."""
        if _own is not None and _own.database.folder == self.folder:
            _own.stop()


@dataclass(eq=False)
class _Own:
    """What this process holds of the database that it uses."""

    database: Database
    lock: FileLock | None = None
    sockets: Path | None = None
    kept: keeper.Kept | None = None
    """Where this process started it."""

    @property
    def runs(self) -> bool:
        return mongod.answers(self.database.uri)

    def start(self, program: Path | None = None) -> None:
        now = self.database
        self.kept = mongod.start(now.folder, sockets=self.sockets, uri=now.uri, name=now.name, program=program)
        self.database = replace(now, pid=self.kept.pid)

    def stop(self) -> None:
        if self.kept is not None:
            self.kept.stop()


_own: _Own | None = None


def connect(folder: str | os.PathLike | None = None) -> Database:
    """Connects this process to the database of a folder, starting it where it does not run.

    Calling it again costs nothing, and starts a database that stopped: what was written is there again.

    Args:
        folder: where the database is kept; by default `fiftyone` in the job's folder for a notebook that is run by the
            runner, else `fiftyone/default` in the cache.

    Raises:
        BrowseUnavailable: FiftyOne is not installed, or no mongod 6.0 or later is found that runs here.
        BrowseError: another process uses the folder, the database does not start, or FiftyOne was imported before by
            somebody else.
        ValueError: this process is connected to another folder.
    """
    folder = _default_folder() if folder is None and _own is None else folder
    if _own is not None:
        if folder is not None and Path(folder).expanduser().resolve() != _own.database.folder:
            raise ValueError(
                f"this process browses {_own.database.folder}, and FiftyOne knows one database per process. "
                f"Restart the kernel to browse {Path(folder).expanduser().resolve()}"
            )
        if not _own.runs:
            if _own.kept is None:
                raise BrowseError("the database stopped: call connect() in the process that started this one")
            _own.stop()
            _own.start()
        return _own.database
    folder = Path(folder).expanduser().resolve()
    _need_fiftyone()
    program = mongod.find()
    folder.mkdir(parents=True, exist_ok=True)
    own = _claim(folder)
    try:
        mongod.stop_left_over(folder)
        own.start(program)
        # Before FiftyOne registers a hook of its own, which needs the database: last in, first out.
        atexit.register(own.stop)
        _attach(own)
    except BaseException:
        own.stop()
        own.lock.release()
        raise
    return own.database


def join(folder: Path, uri: str, name: str, pid: int) -> Database:
    """Connects a process that a connected one started, such as the App's server, to the same database."""
    _need_fiftyone()
    _attach(_Own(Database(folder=folder, uri=uri, name=name, pid=pid)), told=("FIFTYONE_SERVER", "FIFTYONE_CONTEXT"))
    return _own.database


def fiftyone() -> ModuleType:
    """The module `fiftyone`, connected; to the default folder where `connect` was not called.

    Raises:
        BrowseUnavailable, BrowseError: see `connect`.
    """
    if _own is None:
        connect()
    return sys.modules["fiftyone"]


@contextmanager
def explained() -> Iterator[None]:
    """Turns what FiftyOne raises when its database is gone into a `BrowseError` that says how to go on."""
    try:
        yield
    except BrowseError:
        raise
    except Exception as error:
        if _own is None or not _is_lost(error):
            raise
        folder = _own.database.folder
        if _own.runs:
            why = str(error).partition(", Timeout:")[0][:200]  # after it stands what pymongo knows of its connections
            what, cure = f"did not answer in time or refused: {why}", "repeat the call, or run the cell again"
        else:
            what = "stopped while it was used; what was written until then is kept"
            cure = "run the cell that opened it again, or call `vkdlab.browse.connect()` again, and repeat the rest"
        # Pymongo's own words fill screens, and hide what is to be done.
        raise BrowseError(
            f"the database in {folder} {what}. To go on, {cure}.\nIts log, {folder / mongod.LOG}, ends:\n"
            f"{mongod.last_messages(folder)}\nTo go on, {cure}."
        ) from None


def _default_folder() -> Path:
    job = os.environ.get(JOB_DIR_VARIABLE)
    return Path(job) / "fiftyone" if job else cache_dir("fiftyone", "default")


def _need_fiftyone() -> None:
    if "fiftyone" in sys.modules and sys.modules["fiftyone"] is not None:
        raise BrowseError(
            "fiftyone was imported before vkdlab.browse could give it a database of its own, and attaches to any that "
            "runs on this machine. Restart the kernel, and take it from `fo = vkdlab.browse.fiftyone()` instead of "
            "`import fiftyone as fo`"
        )
    if mongod.package() is None:
        raise BrowseUnavailable("FiftyOne is not installed")


def _claim(folder: Path) -> _Own:
    """Takes the folder for this process' life."""
    lock = FileLock(folder / "in_use.lock")
    owner = folder / "in_use.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = read_json(owner)["pid"] if owner.is_file() else "unknown"
        raise BrowseError(
            f"{folder} is browsed by another process (pid {pid}): two would write over each other. Stop that one, or "
            "browse a folder of your own: `vkdlab.browse.connect('another/folder')`"
        ) from None
    write_json(owner, {"pid": os.getpid()})
    named = folder / "database.json"
    if not named.is_file():
        write_json(named, {"name": f"vkdlab_{uuid.uuid4().hex[:12]}"})
    sockets, uri = mongod.address()
    return _Own(Database(folder=folder, uri=uri, name=read_json(named)["name"], pid=0), lock=lock, sockets=sockets)


def _attach(own: _Own, told: tuple[str, ...] = ()) -> None:
    """Imports FiftyOne against our database, with our settings and those that this process was told."""
    global _own
    folder = own.database.folder / "settings"
    for name in [name for name in os.environ if name.startswith("FIFTYONE_") and name not in told]:
        del os.environ[name]  # a stranger's address, port, allowed origin or module would be followed
    os.environ |= {
        "FIFTYONE_DATABASE_URI": own.database.uri,
        "FIFTYONE_DATABASE_NAME": own.database.name,
        "FIFTYONE_DATABASE_DIR": os.fspath(own.database.folder / "mongo"),
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "FIFTYONE_PLUGINS_DIR": os.fspath(PLUGINS),
        "FIFTYONE_DEFAULT_APP_ADDRESS": "127.0.0.1",
        **{
            f"FIFTYONE_{kind}CONFIG_PATH": os.fspath(folder / f"{kind.lower()}config.json")
            for kind in ("", "APP_", "ANNOTATION_", "EVALUATION_", "BRAIN_")
        },
        **{
            f"FIFTYONE_{kind}_DIR": os.fspath(folder / kind.lower())
            for kind in ("DEFAULT_DATASET", "DATASET_ZOO", "MODEL_ZOO")
        },
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that FiftyOne uses, at their import
        fo = importlib.import_module("fiftyone")
        for name in ("operators", "plugins", "core.session", "utils.eval.activitynet", "server.view"):
            importlib.import_module(f"fiftyone.{name}")
        constants = sys.modules["fiftyone.constants"]
        # Paths under the user's home that no setting moves.
        constants.FIFTYONE_CONFIG_DIR = os.fspath(folder)
        constants.TEAMS_PATH = os.fspath(folder / "var" / "teams.json")
        constants.WELCOME_PATH = os.fspath(folder / "var" / "welcome.json")
        _own = own
        try:
            if fo.config.database_uri != own.database.uri or fo.config.database_name != own.database.name:
                raise AssertionError("FiftyOne follows other settings than ours")
            fo.list_datasets()
        except BaseException:
            _own = None
            raise
    atexit.register(_spare_the_wait, own)


def _spare_the_wait(own: _Own) -> None:
    # FiftyOne asks its database for data sets to delete when the process ends, and would wait for one that is gone.
    if not own.runs:
        atexit.unregister(sys.modules["fiftyone"].core.odm.database._delete_non_persistent_datasets_if_allowed)


def _is_lost(error: BaseException) -> bool:
    """True for an error by which a lost database is seen, whatever wrapped it."""
    import mongoengine
    import pymongo.errors

    lost = (pymongo.errors.ConnectionFailure, mongoengine.connection.ConnectionFailure, ConnectionError)
    stopping = (11600, 11602, 91)  # interrupted at shutdown, interrupted, shutdown in progress
    while error is not None:
        if isinstance(error, lost) or (isinstance(error, pymongo.errors.OperationFailure) and error.code in stopping):
            return True
        error = error.__cause__ or error.__context__
    return False
