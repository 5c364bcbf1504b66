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
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

from vkdlab.browse import keeper
from vkdlab.files import JOB_DIR_VARIABLE, cache_dir, read_json, write_json

INSTALL = "pip install 'vkdlab[fiftyone]' -c constraints.txt"
PLUGINS = Path(__file__).parent / "plugins"
LOG = "mongod.log"
OLDEST = (6, 0)
START_S = 60
"""A database that was killed mends itself at its next start: seconds for many gigabytes."""
ANSWER_S = 4
"""Seconds after which a database that does not answer is an error; FiftyOne alone waits 30."""
MEMORY_GB = 0.25
"""What the database may hold in memory; what is beyond is read again from the disk."""

_SETTINGS = f"serverSelectionTimeoutMS={ANSWER_S * 1000}&journal=true"  # what was written survives a killed mongod


class BrowseError(RuntimeError):
    """Browsing could not go on; the message says what to do."""


class BrowseUnavailable(BrowseError):
    """FiftyOne or its database cannot be had here; the message ends with the command that installs them."""

    def __init__(self, reason: str):
        super().__init__(f"{reason}. Browsing needs FiftyOne and its database. Install them by: {INSTALL}")


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
        if _own is not None and _own.database == self:
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
        return _answers(self.database.uri)

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
            _own.stop()
            _start(_own)
        return _own.database
    folder = Path(folder).expanduser().resolve()
    _need_fiftyone()
    mongod = _mongod()
    folder.mkdir(parents=True, exist_ok=True)
    own = _claim(folder)
    try:
        _stop_left_over(folder)
        _start(own, mongod)
        atexit.register(
            own.stop
        )  # before FiftyOne's own hook is registered, which needs the database: last in, first out
        _attach(own)
    except BaseException:
        own.stop()
        own.lock.release()
        raise
    return own.database


def join(folder: Path, uri: str, name: str, pid: int) -> Database:
    """Connects a process that a connected one started, such as the App's server, to the same database."""
    _need_fiftyone()
    _attach(_Own(Database(folder=folder, uri=uri, name=name, pid=pid)))
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
    except Exception as error:
        if _own is None or not _is_lost(error):
            raise
        folder = _own.database.folder
        if _own.runs:
            what = f"the database in {folder} did not answer in time or refused: {error}. Try again"
        else:
            what = (
                f"the database in {folder} stopped while it was used. What was written until then is kept: call "
                "`vkdlab.browse.connect()` again, and repeat what was under way"
            )
        raise BrowseError(f"{what}. The last lines of its log, {folder / LOG}:\n{_last_lines(folder)}") from error


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
    if _package() is None:
        raise BrowseUnavailable("FiftyOne is not installed")


def _package() -> Path | None:
    try:
        found = importlib.util.find_spec("fiftyone")
    except (ImportError, ValueError):
        return None
    return Path(found.origin).parent if found is not None and found.origin else None


def _mongod() -> Path:
    """The first mongod that runs here and is new enough.

    Raises:
        BrowseUnavailable: there is none.
    """
    program = "mongod.exe" if os.name == "nt" else "mongod"
    on_path = shutil.which("mongod")
    tried = []
    for path in (_package() / "db" / "bin" / program, on_path and Path(on_path)):
        if not path or not path.is_file():
            continue
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
            version = re.search(r"db version v(\d+)\.(\d+)", said.stdout)
            if version and tuple(map(int, version.groups())) >= OLDEST:
                return path
            tried.append(f"{path}: {(said.stdout + said.stderr).strip().splitlines()[:1]}")
        except (OSError, subprocess.SubprocessError) as error:
            tried.append(f"{path}: {error}")
    if tried:
        raise BrowseUnavailable("no mongod 6.0 or later runs here (" + "; ".join(tried) + ")")
    raise BrowseUnavailable("there is no mongod, neither in FiftyOne's package nor on the PATH")


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
    sockets = Path(tempfile.mkdtemp(prefix="vkdlab-"))
    if os.name == "nt":
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            uri = f"mongodb://127.0.0.1:{free.getsockname()[1]}/?{_SETTINGS}"
    else:
        if len(os.fspath(sockets)) > 80:  # a socket's path has at most 103 characters
            sockets.rmdir()
            sockets = Path(tempfile.mkdtemp(prefix="vkdlab-", dir="/tmp"))
        address = urllib.parse.quote(os.fspath(_socket(sockets)), safe="")
        uri = f"mongodb://{address}/?{_SETTINGS}"
    database = Database(folder=folder, uri=uri, name=read_json(named)["name"], pid=0)
    return _Own(database=database, lock=lock, sockets=sockets)


def _socket(sockets: Path) -> Path:
    return sockets / "mongodb-27017.sock"  # the only form of name that pymongo and mongod agree on


def _start(own: _Own, mongod: Path | None = None) -> None:
    """Starts mongod under a keeper and waits until it answers."""
    folder = own.database.folder
    data = folder / "mongo"
    data.mkdir(exist_ok=True)
    killed = bool(_locked_by(data))
    if os.name == "nt":
        where = ["--bind_ip", "127.0.0.1", "--port", str(urllib.parse.urlsplit(own.database.uri).port)]
    else:
        where = ["--bind_ip", _socket(own.sockets), "--unixSocketPrefix", own.sockets]
    command = [mongod or _mongod(), "--dbpath", data, *where, "--wiredTigerCacheSizeGB", str(MEMORY_GB)]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    own.kept = keeper.start(command, folder=own.sockets, log=folder / LOG)
    end = time.monotonic() + START_S
    while not own.runs:
        if not own.kept.runs or time.monotonic() > end:
            own.stop()
            raise BrowseError(
                f"the database in {folder} did not start. The last lines of its log, {folder / LOG}:\n"
                f"{_last_lines(folder)}"
            )
        time.sleep(0.02)
    own.database = Database(folder=folder, uri=own.database.uri, name=own.database.name, pid=own.kept.pid)
    if killed:
        _count_again(own.database)


def _count_again(database: Database) -> None:
    """Mends the numbers of documents, which a killed mongod leaves wrong and FiftyOne takes for a data set's length."""
    import pymongo

    with pymongo.MongoClient(database.uri) as client:
        for name in client[database.name].list_collection_names(filter={"type": "collection"}):
            client[database.name].validate_collection(name)


def _locked_by(data: Path) -> str:
    """Process id of the mongod that uses a folder, or was killed while it did; empty after an orderly end."""
    lock = data / "mongod.lock"
    return lock.read_text().strip() if lock.is_file() else ""


def _answers(uri: str) -> bool:
    """True where something accepts connections at a database's address."""
    where = urllib.parse.urlsplit(uri)
    try:
        if where.port:
            socket.create_connection((where.hostname, where.port), timeout=1).close()
        else:
            with closing(socket.socket(socket.AF_UNIX)) as tried:
                tried.settimeout(1)
                tried.connect(urllib.parse.unquote(where.netloc))
    except OSError:
        return False
    return True


def _stop_left_over(folder: Path) -> None:
    """Stops a mongod that outlived its process in this folder, which now is ours."""
    import psutil

    pid = _locked_by(folder / "mongo")
    if not pid:
        return
    try:
        process = psutil.Process(int(pid))
        if os.fspath(folder / "mongo") not in process.cmdline():
            return  # another program was given the number
        process.terminate()
        try:
            process.wait(keeper.PATIENCE_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(keeper.PATIENCE_S)
    except psutil.NoSuchProcess:
        return


def _attach(own: _Own) -> None:
    """Imports FiftyOne with nothing but our settings, against our database."""
    global _own
    folder = own.database.folder / "settings"
    kept = ("FIFTYONE_SERVER", "FIFTYONE_CONTEXT")  # what a process that joins is told by the one that started it
    for name in [name for name in os.environ if name.startswith("FIFTYONE_") and name not in kept]:
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
            fo.list_datasets()
        except BaseException:
            _own = None
            raise
    if fo.config.database_uri != own.database.uri or fo.config.database_name != own.database.name:
        raise AssertionError("FiftyOne follows other settings than ours")
    atexit.register(_spare_the_wait, own)


def _spare_the_wait(own: _Own) -> None:
    # FiftyOne asks its database for data sets to delete when the process ends, and would wait for one that is gone.
    if not own.runs:
        sys.modules["fiftyone"].core.odm.database._disconnect()


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


def _last_lines(folder: Path, count: int = 8) -> str:
    log = folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return "\n".join(line[:300] for line in lines[-count:]) or "(it is empty)"
