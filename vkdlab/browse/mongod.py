"""The program under FiftyOne's database: found, started in a folder of ours, stopped, and what it leaves behind (ours).

It listens on a UNIX socket in a private folder and on no network. Every write waits for the journal, so that what was
written survives a killed mongod; in batches, as data sets are written, that costs nothing that can be measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
from contextlib import closing
from pathlib import Path

from vkdlab.browse import keeper

INSTALL = "pip install 'vkdlab[fiftyone]' -c constraints.txt"
LOG = "mongod.log"
OLDEST = (6, 0)
START_S = 60
"""A database that was killed mends itself at its next start: seconds for many gigabytes."""
ANSWER_S = 4
"""Seconds after which a database that does not answer is an error; FiftyOne alone waits 30."""
MEMORY_GB = 0.25
"""What the database may hold in memory; what is beyond is read again from the disk."""


class BrowseError(RuntimeError):
    """Browsing could not go on; the message says what to do."""


class BrowseUnavailable(BrowseError):
    """FiftyOne or its database cannot be had here; the message ends with the command that installs them."""

    def __init__(self, reason: str):
        super().__init__(f"{reason}. Browsing needs FiftyOne and its database. Install them by: {INSTALL}")


def package() -> Path | None:
    """FiftyOne's folder, found without importing it; None where it is not installed."""
    try:
        found = importlib.util.find_spec("fiftyone")
    except (ImportError, ValueError):
        return None
    return Path(found.origin).parent if found is not None and found.origin else None


def find() -> Path:
    """The first mongod that runs here and is new enough.

    Raises:
        BrowseUnavailable: there is none.
    """
    program = "mongod.exe" if os.name == "nt" else "mongod"
    on_path = shutil.which("mongod")
    tried = []
    for path in (package() / "db" / "bin" / program, on_path and Path(on_path)):
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
    none = "there is no mongod, neither in FiftyOne's package nor on the PATH"
    raise BrowseUnavailable(f"no mongod 6.0 or later runs here ({'; '.join(tried)})" if tried else none)


def address() -> tuple[Path, str]:
    """A new address: the private folder of its socket, and its URI. Without UNIX sockets it is a port of 127.0.0.1."""
    sockets = Path(tempfile.mkdtemp(prefix="vkdlab-"))
    if os.name == "nt":
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            where = f"127.0.0.1:{free.getsockname()[1]}"
    else:
        if len(os.fspath(sockets)) > 80:  # a socket's path has at most 103 characters
            sockets.rmdir()
            sockets = Path(tempfile.mkdtemp(prefix="vkdlab-", dir="/tmp"))
        where = urllib.parse.quote(os.fspath(_socket(sockets)), safe="")
    return sockets, f"mongodb://{where}/?serverSelectionTimeoutMS={ANSWER_S * 1000}&journal=true"


def start(folder: Path, *, sockets: Path, uri: str, name: str, program: Path | None = None) -> keeper.Kept:
    """Starts the database of a folder, to end with this process, and waits until it answers.

    Args:
        folder: where it is kept; nobody else may use it.
        sockets: private folder of its socket, see `address`.
        uri: its address.
        name: what the data is kept under in it.
        program: mongod, by default the one that `find` finds.

    Raises:
        BrowseError: it does not start; the message shows its log.
    """
    data = folder / "mongo"
    data.mkdir(exist_ok=True)
    killed = bool(_locked_by(data))
    if os.name == "nt":
        where = ["--bind_ip", "127.0.0.1", "--port", str(urllib.parse.urlsplit(uri).port)]
    else:
        where = ["--bind_ip", _socket(sockets), "--unixSocketPrefix", sockets]
    command = [program or find(), "--dbpath", data, *where, "--wiredTigerCacheSizeGB", str(MEMORY_GB)]
    # Left alone, it takes 300 MB for journals that it may need.
    command += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=16MB)"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    kept = keeper.start(command, folder=sockets, log=folder / LOG)
    end = time.monotonic() + START_S
    while not answers(uri):
        if not kept.runs or time.monotonic() > end:
            kept.stop()
            said = last_lines(folder)
            raise BrowseError(
                f"the database in {folder} did not start. The last lines of its log, {folder / LOG}:\n{said}"
            )
        time.sleep(0.02)
    if killed:
        _count_again(uri, name)
    return kept


def answers(uri: str) -> bool:
    """True where a database accepts connections; one that is being killed does so a little longer, and does not count.

    One that is too busy to say anything counts: it is not to be started again.
    """
    import pymongo
    import pymongo.errors

    if not _accepts(uri):
        return False  # known at once, where pymongo tries for `ANSWER_S`
    try:
        with pymongo.MongoClient(uri, directConnection=True) as client:
            client.admin.command("ping")
    except pymongo.errors.PyMongoError:
        return _accepts(uri)
    return True


def _accepts(uri: str) -> bool:
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


def stop_left_over(folder: Path) -> None:
    """Stops a mongod that outlived its process in this folder, which now is ours."""
    import psutil

    data = folder / "mongo"
    pid = _locked_by(data)
    try:
        process = psutil.Process(int(pid)) if pid else None
        if process is None or os.fspath(data) not in process.cmdline():
            return  # none, or the number was given to another program
        for ask in (process.terminate, process.kill):
            ask()
            end = time.monotonic() + keeper.PATIENCE_S
            while time.monotonic() < end:
                if process.status() == psutil.STATUS_ZOMBIE:
                    return  # it has ended, and nobody asked how
                time.sleep(0.05)
    except psutil.NoSuchProcess:
        return


def last_lines(folder: Path, count: int = 8) -> str:
    log = folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return "\n".join(line[:300] for line in lines[-count:]) or "(it is empty)"


def last_messages(folder: Path, count: int = 3) -> str:
    """The end of the log for a person: of every line, which is a JSON document, its message alone."""
    return "\n".join(f"  {_message(line)}" for line in last_lines(folder, count).splitlines())


def _message(line: str) -> str:
    found = re.search(r'"msg":("(?:[^"\\]|\\.)*")', line)
    return json.loads(found[1]) if found else line


def _socket(sockets: Path) -> Path:
    return sockets / "mongodb-27017.sock"  # the only form of name that pymongo and mongod agree on


def _count_again(uri: str, name: str) -> None:
    """Mends the numbers of documents, which a killed mongod leaves wrong and FiftyOne takes for a data set's length."""
    import pymongo

    with pymongo.MongoClient(uri) as client:
        for each in client[name].list_collection_names(filter={"type": "collection"}):
            client[name].validate_collection(each)


def _locked_by(data: Path) -> str:
    """Process id of the mongod that uses a folder, or was killed while it did; empty after an orderly end."""
    lock = data / "mongod.lock"
    return lock.read_text().strip() if lock.is_file() else ""
