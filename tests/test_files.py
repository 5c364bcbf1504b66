import errno
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from vkdlab import files


def test_a_file_appears_whole_and_parents_are_made(tmp_path):
    target = tmp_path / "a" / "b.txt"
    files.write_text(target, "whole")
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_while_writing_leaves_the_older_file_and_no_remains(tmp_path):
    target = tmp_path / "kept.txt"
    target.write_text("older")

    def write_half():
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert target.read_text() == "older"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("code", "cure"), [(errno.ENOSPC, "free some room"), (errno.EROFS, "read-only"), (errno.EACCES, "permissions")]
)
def test_a_write_that_fails_names_the_file_and_the_cure(tmp_path, monkeypatch, code, cure):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match=rf"result\.json could not be written.*{cure}") as caught:
        files.write_json(tmp_path / "result.json", {"value": 1})
    assert caught.value.errno == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the full device is a Linux thing")
def test_a_really_full_disk_is_reported_as_such(tmp_path):
    def write_to_full():
        with files.atomic_path(tmp_path / "x.bin"), open("/dev/full", "wb") as full:
            full.write(b"0" * 100_000)

    with pytest.raises(OSError, match=r"x\.bin could not be written.*disk is full"):
        write_to_full()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights work otherwise here")
def test_a_folder_that_is_really_read_only_is_reported_as_such():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "locked")
        folder.mkdir()
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        me = os.geteuid()
        try:
            if me == 0:  # whom no rights stop
                os.seteuid(65534)
            with pytest.raises(
                OSError, match=r"x\.json could not be written: Permission denied.*change its permissions"
            ):
                files.write_json(folder / "x.json", 1)
        finally:
            os.seteuid(me)
        assert list(folder.iterdir()) == []


def test_ctrl_c_while_writing_leaves_nothing(tmp_path):
    script = (
        "import sys, time\n"
        "from vkdlab.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out.txt")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert job.stdout.readline() == b"writing\n"
    job.send_signal(signal.SIGINT)
    assert job.wait(30) != 0
    job.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "x.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON.*line 1"):
        files.read_json(tmp_path / "x.json")


def test_a_hash_does_not_depend_on_the_order_of_keys_but_on_every_value():
    assert files.hash_of({"a": 1, "b": [2.5, "x"]}) == files.hash_of({"b": [2.5, "x"], "a": 1})
    assert files.hash_of({"a": 1}) != files.hash_of({"a": 2})
    assert files.hash_of("ab", "c") != files.hash_of("a", "bc")


def test_what_has_no_plain_form_is_not_hashed_by_its_address():
    with pytest.raises(TypeError, match="object has no plain form"):
        files.hash_of(object())


def _zip(path, name):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(name, "bad")


def _tar(path, name):
    with tarfile.open(path, "w:gz") as archive:
        for member, text in (("good.txt", b"good"), (name, b"bad")):
            info = tarfile.TarInfo(member)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))


@pytest.mark.parametrize("write", [_zip, _tar])
@pytest.mark.parametrize("name", ["../escaped.txt", "/escaped.txt", "a/../../escaped.txt", "..\\escaped.txt"])
def test_an_archive_member_that_escapes_is_refused_before_anything_is_written(tmp_path, write, name):
    archive = tmp_path / "archive"
    write(archive, name)
    with pytest.raises(ValueError, match="outside the target folder"):
        files.extract(archive, tmp_path / "inside")
    assert list(tmp_path.rglob("*.txt")) == []


def test_a_link_in_an_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    with pytest.raises(ValueError, match="'link' is a link or a device"):
        files.extract(tmp_path / "archive.tar", tmp_path / "inside")


@pytest.mark.parametrize("write", [_zip, _tar])
def test_a_good_archive_is_unpacked(tmp_path, write):
    write(tmp_path / "archive", "folder/second.txt")
    written = files.extract(tmp_path / "archive", tmp_path / "inside")
    assert sorted(path.relative_to(tmp_path / "inside").as_posix() for path in written) == [
        "folder/second.txt",
        "good.txt",
    ]
    assert (tmp_path / "inside/folder/second.txt").read_text() == "bad"


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    (tmp_path / "x.zip").write_text("text")
    with pytest.raises(ValueError, match="neither a zip nor a tar"):
        files.extract(tmp_path / "x.zip", tmp_path)
