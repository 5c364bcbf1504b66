"""One process has one database: what concerns several, or their deaths, is tested with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from vkdlab.browse import database, keeper, mongod
from vkdlab.files import project_root

# A process that does what it is told, line by line, and says what came of it as JSON.
TALKER = """
import json, os, sys, time
from vkdlab.browse import database
for line in sys.stdin:
    try:
        result = {}
        exec(json.loads(line), globals())
        print(json.dumps(result), flush=True)
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
"""
CONNECT = """
connected = database.connect({folder})
fo = database.fiftyone()
result = {{"folder": str(connected.folder), "pid": connected.pid, "uri": connected.uri,
          "keeper": database._own.kept.keeper.pid, "names": fo.list_datasets(), "sockets": str(database._own.sockets)}}
"""


class Talker:
    """A process of its own that browses."""

    def __init__(self, home: Path, **environment: str):
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("FIFTYONE_", "VKDLAB_JOB"))}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", TALKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=project_root(),
            env=inherited | {"HOME": str(home)} | environment,
        )

    def say(self, code: str) -> None:
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict:
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def do(self, code: str) -> dict:
        self.say(code)
        return self.hear()

    def end(self) -> tuple[float, str]:
        """Seconds that it took to end, and what it complained of."""
        began = time.monotonic()
        _, complaints = self.process.communicate(timeout=60)
        return time.monotonic() - began, complaints


@pytest.fixture
def talker(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    started = []

    def start(**environment: str) -> Talker:
        started.append(Talker(home, **environment))
        return started[-1]

    start.home = home
    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def gone(pid: int, within_s: float = 15) -> bool:
    """Whether a process ends in time; one that nobody has asked for its status has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def have(talker_: Talker) -> None:
    if (said := talker_.hear()).get("error") == "BrowseUnavailable":
        pytest.skip(said["message"])
    assert "error" not in said, said
    return said


@pytest.mark.slow
def test_two_runs_at_once_share_nothing_and_each_ends_with_its_process(tmp_path, talker):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    one, two = talker(VKDLAB_JOB_DIR=str(tmp_path / "job")), talker(TMPDIR=str(long))
    one.say(CONNECT.format(folder=None))
    two.say(CONNECT.format(folder=repr(str(tmp_path / "two"))))
    first, second = have(one), have(two)
    assert first["folder"] == str(tmp_path / "job" / "fiftyone"), "a job's database is in the job's folder"
    assert first["pid"] != second["pid"]
    assert first["uri"] != second["uri"]

    write = (
        "fo.Dataset('same', persistent=True).add_samples([fo.Sample(f'/{i}.mp4') for i in range(%d)], progress=False)"
    )
    assert one.do(write % 1) == two.do(write % 2) == {}
    count = "result = {name: len(fo.load_dataset(name)) for name in fo.list_datasets()}"
    assert (one.do(count), two.do(count)) == ({"same": 1}, {"same": 2})

    for each in (first, second):
        assert psutil.Process(each["pid"]).net_connections("inet") == [], "a database listens on no TCP port"
        assert os.stat(each["sockets"]).st_mode & 0o777 == 0o700, "only its user reaches its socket"

    with pytest.raises(database.BrowseError) as refused:
        database._claim(Path(first["folder"]))
    assert f"is browsed by another process (pid {one.process.pid})" in str(refused.value)

    assert two.do("if os.fork() == 0:\n    connected.close(); os._exit(0)\nos.wait()") == {}
    assert two.do(count) == {"same": 2}, "a forked child that closes it takes it from nobody"

    launch = (
        "from vkdlab.browse import app; started = app.launch(fo.load_dataset('same')); result = {'pid': started.pid}"
    )
    server = one.do(launch)["pid"]
    child = one.do("child = os.fork()\nif child == 0: time.sleep(60); os._exit(0)\nresult = {'pid': child}")["pid"]
    one.process.kill()
    assert gone(server), "the App's server ends with its process"
    assert gone(first["pid"])
    assert gone(first["keeper"])
    assert not os.path.exists(first["sockets"])
    assert psutil.pid_exists(child)
    database._claim(Path(first["folder"])).lock.release()  # a forked child that lives on keeps no folder
    os.kill(child, signal.SIGKILL)
    os.kill(second["keeper"], signal.SIGKILL)
    assert gone(second["pid"]), "a killed keeper takes the database along"
    took, _ = two.end()
    assert took < 8
    assert not os.path.exists(second["sockets"])


@pytest.mark.slow
def test_a_killed_database_is_an_error_within_seconds_and_goes_on_with_what_was_written(tmp_path, talker, stray):
    folder = tmp_path / "db"
    left_over = stray(folder)
    first = talker()
    first.say(CONNECT.format(folder=repr(str(folder))))
    said = have(first)
    assert gone(left_over.pid, 1), "a database that was left over is stopped"

    kill = (
        "data = fo.Dataset('kept', persistent=True); data.add_sample(fo.Sample('/a.mp4', number=1))\n"
        "os.kill(connected.pid, 9); began = time.monotonic()\n"
    )
    lost = first.do(kill + "with database.explained(): data.add_sample(fo.Sample('/b.mp4', number=2))")
    assert lost["error"] == "BrowseError"
    assert "stopped while it was used" in lost["message"]
    assert "connect()` again" in lost["message"]
    assert "mongod.log, ends:\n  " in lost["message"], "with the log's last messages"
    assert first.do("result = {'s': time.monotonic() - began}")["s"] < 10

    again = first.do(CONNECT.format(folder=repr(str(folder))) + "result['length'] = len(data)")
    assert again["pid"] != said["pid"]
    assert again["uri"] == said["uri"]
    assert again["names"] == ["kept"]
    assert again["length"] == 1, "it is counted anew"
    assert first.do("data.add_sample(fo.Sample('/c.mp4', number=3)); result = {'n': data.values('number')}") == {
        "n": [1, 3]
    }

    assert first.do("os.kill(connected.pid, 9) or time.sleep(.2); database.connect().close(); result = {}") == {}
    assert first.do("database.connect(); result = {'n': data.values('number')}") == {"n": [1, 3]}, "close, then connect"
    first.do("os.kill(database.connect().pid, 9)")
    took, complaints = first.end()
    assert took < 8, "the end waits for no database that is gone"
    assert complaints == ""
    assert not [path for path in talker.home.rglob("*") if "fiftyone" in path.name or "eta" in path.name]
    assert gone(again["pid"], 1)


@pytest.fixture
def stray():
    """Starts a database that belongs to nobody."""
    started = []

    def start(folder: Path) -> subprocess.Popen:
        (folder / "mongo").mkdir(parents=True)
        try:
            program = mongod.find()
        except (database.BrowseUnavailable, TypeError):
            pytest.skip("there is no mongod")
        arguments = ["--dbpath", folder / "mongo", "--bind_ip", folder / "s.sock", "--unixSocketPrefix", folder]
        started.append(subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL))
        while not (folder / "mongo" / "mongod.lock").is_file() or not (folder / "mongo" / "mongod.lock").read_text():
            time.sleep(0.02)
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def run(code: str, **environment: str) -> str:
    """What a new process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        **dict(capture_output=True, text=True, cwd=project_root(), env=os.environ | environment),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def before_fiftyone(tmp_path_factory) -> list[str]:
    """What a process without FiftyOne says, line by line: one that starts costs seconds."""
    folder = tmp_path_factory.mktemp("none")
    said = run(BEFORE.format(folder=str(folder / "db"))).splitlines()
    assert not (folder / "db").exists()
    return said


BEFORE = """
import sys, types, vkdlab.browse, vkdlab.browse.app
from vkdlab.browse import database
print({{'fiftyone', 'pymongo', 'starlette', 'hypercorn'}} & set(sys.modules))
for there in (None, types.ModuleType('fiftyone')):
    sys.modules['fiftyone'] = there
    try:
        database.connect({folder!r})
    except database.BrowseError as error:
        print(type(error).__name__, error)
"""


def test_importing_the_database_module_imports_neither_fiftyone_nor_its_clients(before_fiftyone):
    assert before_fiftyone[0] == "set()"


def test_where_fiftyone_is_not_installed_the_message_ends_with_the_command(before_fiftyone):
    assert before_fiftyone[1] == (
        "BrowseUnavailable FiftyOne is not installed. Browsing needs FiftyOne and its database. "
        "Install them by: pip install 'vkdlab[fiftyone]' -c constraints.txt"
    )


def test_where_fiftyone_was_imported_before_the_cure_is_said(before_fiftyone):
    assert before_fiftyone[2].startswith("BrowseError fiftyone was imported before")
    assert "Restart the kernel" in before_fiftyone[2]


def test_a_database_that_does_not_start_shows_its_log_and_leaves_nothing(tmp_path, monkeypatch):
    program = tmp_path / "mongod"
    program.write_text("#!/bin/sh\necho the disk is full\nexit 3\n")
    program.chmod(0o755)
    own = database._claim(tmp_path)
    with pytest.raises(database.BrowseError, match=r"did not start. The last lines of its log, .*:\nthe disk is full$"):
        own.start(program)
    assert not own.sockets.exists()
    own.lock.release()


def test_connecting_again_to_the_same_folder_is_the_same_database(fo):
    connected = database.connect()
    assert database.connect(connected.folder) is connected
    assert database.fiftyone() is fo
    assert fo.config.database_name == connected.name
    assert fo.config.do_not_track


def test_connecting_to_another_folder_says_to_restart(fo, tmp_path):
    with pytest.raises(ValueError, match=r"one database per process. Restart the kernel to browse .*other$"):
        database.connect(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_database_that_fastens_to_other_settings_is_forgotten(fo, monkeypatch):
    own = database._own
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(database, "_own", None)
    with pytest.raises(AssertionError, match="FiftyOne follows other settings than ours"):
        database._attach(database._Own(replace(own.database, name="another")))
    assert database._own is None


def test_what_a_database_refuses_is_told_in_one_line_with_the_end_of_its_log(fo, tmp_path, monkeypatch):
    import pymongo.errors

    folder = database.connect().folder
    with pytest.raises(database.BrowseError) as told, database.explained(), database.explained():
        raise pymongo.errors.ServerSelectionTimeoutError("not there, Timeout: 4s, Topology Description: " + "x" * 9000)
    lines = str(told.value).splitlines()
    cure = "To go on, repeat the call, or run the cell again."
    assert lines[0] == f"the database in {folder} did not answer in time or refused: not there. {cure}"
    assert len(lines) == 6
    assert lines[-1] == cure
    assert told.value.__suppress_context__


def test_errors_that_are_not_of_the_database_pass_through(fo):
    with pytest.raises(ZeroDivisionError), database.explained():
        1 / 0  # noqa: B018
    with pytest.raises(ValueError, match="not found"), database.explained():
        fo.load_dataset("there is none of that name")


def test_a_kept_program_ends_when_it_is_stopped_and_its_folder_is_removed(tmp_path):
    kept = keeper.start(["/bin/sleep", "60"], folder=tmp_path / "folder", log=tmp_path / "log")
    assert kept.runs
    assert (tmp_path / "folder").is_dir()
    kept.stop()
    kept.stop()
    assert not kept.runs
    assert gone(kept.pid, 1)
    assert not (tmp_path / "folder").exists()


def test_a_program_that_does_not_exist_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match=r"/no/such/program could not be started: see .*log"):
        keeper.start(["/no/such/program"], folder=tmp_path / "folder", log=tmp_path / "log")
    assert not (tmp_path / "folder").exists()
