"""Both disks keep the same contract; and what only the real one can show: modes, locks, a file system that is full."""

import errno
import os
import stat
import subprocess
import sys

import pytest
from journal.building import fill, judge, not_random, open_real, step, values
from sim.disk import SimDisk

from agentix_kernel.journal.disk import FRESH, RealDisk
from agentix_kernel.journal.errors import JournalFull, JournalKeyError, JournalLocked
from agentix_kernel.journal.key import Key, open_key

OPENER = "import sys, pathlib, journal.building as b; b.open_real(pathlib.Path(sys.argv[1]))"


@pytest.fixture(params=["real", "sim"])
def disk(request, tmp_path):
    return RealDisk(str(tmp_path / "journal")) if request.param == "real" else SimDisk()


@pytest.fixture
def small(tmp_path):
    """A tmpfs of 1 MiB, mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "agentix-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # lazily: a failed test may hold files


# --- the contract ----------------------------------------------------------------------------------------------------


def test_a_new_file_is_zeros(disk):
    file = disk.create("a", 5000)
    assert (file.size(), file.pread(6000, 0)) == (5000, bytes(5000))
    assert disk.names() == ["a"]
    file.close()


def test_a_name_is_made_once(disk):
    disk.create("a", 10).close()
    with pytest.raises(FileExistsError):
        disk.create("a", 20)
    assert disk.open("a").size() == 10
    assert disk.names() == ["a"]


def test_written_is_read(disk):
    file = disk.create("a", 100)
    assert file.pwrite(b"hello", 7) == 5
    file.datasync()
    assert disk.open("a").pread(7, 6) == b"\0hello\0"
    assert file.pread(10, 95) == bytes(5)
    assert file.pread(10, 200) == b""
    file.close()


def test_a_file_that_is_not_there(disk):
    with pytest.raises(FileNotFoundError):
        disk.open("a")
    with pytest.raises(FileNotFoundError):
        disk.truncate("a", 1)


def test_truncate_cuts_and_grows_with_zeros(disk):
    file = disk.create("a", 10)
    file.pwrite(b"x" * 10, 0)
    disk.truncate("a", 4)
    disk.truncate("a", 8)
    assert file.pread(20, 0) == b"xxxx\0\0\0\0"
    file.close()


def test_one_writer(disk):
    disk.lock()
    with pytest.raises(BlockingIOError):
        disk.lock()
    disk.unlock()
    disk.lock()
    disk.unlock()


# --- the real one ----------------------------------------------------------------------------------------------------


def test_modes(tmp_path):
    journal, _ = open_real(tmp_path)
    journal.close()
    def mode(path):
        return stat.S_IMODE((tmp_path / path).stat().st_mode)
    assert mode("journal") == mode("keys") == 0o700
    assert mode("journal/00000001.seg") == mode("keys/journal.key") == 0o600
    assert os.stat(tmp_path / "journal" / "00000001.seg").st_blocks * 512 >= 1 << 16  # allocated, not sparse


def test_links_are_not_followed(tmp_path):
    disk = RealDisk(str(tmp_path / "journal"))
    (tmp_path / "elsewhere").write_bytes(b"precious")
    os.symlink(tmp_path / "elsewhere", tmp_path / "journal" / "00000001.seg")
    with pytest.raises(OSError) as refused:
        disk.open("00000001.seg", write=True)
    assert refused.value.errno == errno.ELOOP
    with pytest.raises(FileExistsError):
        disk.create("00000001.seg", 10)
    os.symlink(tmp_path / "journal", tmp_path / "link")
    with pytest.raises(OSError):
        RealDisk(str(tmp_path / "link"))
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_what_a_crash_in_create_left_is_no_danger(tmp_path):
    """Killed between link and unlink, the unfinished name is the same file as a segment."""
    disk = RealDisk(str(tmp_path / "journal"))
    file = disk.create("00000001.seg", 10)
    file.pwrite(b"x" * 10, 0)
    os.link(tmp_path / "journal" / "00000001.seg", tmp_path / "journal" / FRESH)
    assert disk.names() == ["00000001.seg"]
    disk.create("00000002.seg", 10).close()
    assert file.pread(10, 0) == b"x" * 10
    assert disk.names() == ["00000001.seg", "00000002.seg"]
    file.close()


def test_two_kernels_on_one_folder(tmp_path):
    journal, _ = open_real(tmp_path)
    with pytest.raises(JournalLocked, match="another agentd") as locked:
        open_real(tmp_path)
    assert locked.value.errno == errno.EBUSY
    assert str(tmp_path) in str(locked.value)
    done = subprocess.run([sys.executable, "-c", OPENER, str(tmp_path)], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert "JournalLocked" in done.stderr
    step(journal, 0)
    journal.close()
    journal, opened = open_real(tmp_path)
    assert opened.head_seq == 1
    journal.close()


def test_reading_needs_no_lock(tmp_path):
    journal, _ = open_real(tmp_path)
    step(journal, 5)
    journal.publish()
    reader = RealDisk(journal.disk.folder)
    assert values(reader, journal.key) == [5]
    assert judge(reader, journal.key).ok
    journal.close()


def test_a_full_file_system(small, tmp_path):
    """1 MiB holds the first segments; then nothing is lost, and it goes on when there is space."""
    ballast = small / "ballast"
    ballast.write_bytes(bytes(600 << 10))
    journal, _ = open_real(small)
    first_disk = journal.disk
    with pytest.raises(JournalFull) as full:
        fill(journal)
    appended = journal._seq
    assert full.value.errno == errno.ENOSPC
    assert f"free space on the file system of {small}/journal" in str(full.value)
    assert appended > 100
    ballast.unlink()
    assert journal.publish() == appended
    step(journal, appended)
    journal.close()
    first_disk.close()
    journal, opened = open_real(small)
    assert opened.torn_bytes == 0
    assert values(journal.disk, journal.key) == list(range(appended + 1))
    assert judge(journal.disk, journal.key).ok
    journal.close()
    journal.disk.close()


def test_no_space_for_the_first_segment(small):
    (small / "ballast").write_bytes(bytes(1000 << 10))
    with pytest.raises(JournalFull):
        open_real(small, segment_bytes=1 << 20)
    (small / "ballast").unlink()
    journal, opened = open_real(small)
    assert opened.text() == "new"
    journal.close()
    journal.disk.close()


# --- the key ---------------------------------------------------------------------------------------------------------


def test_a_key_is_made_once(tmp_path):
    path = str(tmp_path / "keys" / "journal.key")
    made = open_key(path, os.urandom, SimDisk())
    assert open_key(path, os.urandom, SimDisk()).secret == made.secret
    assert len(made.secret) == 32
    assert made.secret.hex() not in repr(made)
    assert os.listdir(tmp_path / "keys") == ["journal.key"]


def test_a_missing_key_is_not_made_anew(tmp_path):
    journal, _ = open_real(tmp_path)
    journal.close()
    key = tmp_path / "keys" / "journal.key"
    key.rename(tmp_path / "kept")
    before = (tmp_path / "journal" / "00000001.seg").read_bytes()
    with pytest.raises(JournalKeyError, match=r"journal\.key: the key of the journal .* is missing") as missing:
        open_real(tmp_path)
    assert missing.value.errno == errno.ENOKEY
    assert not key.exists()
    assert (tmp_path / "journal" / "00000001.seg").read_bytes() == before
    (tmp_path / "kept").rename(key)
    open_real(tmp_path)[0].close()


def test_another_key_is_refused(tmp_path):
    journal, _ = open_real(tmp_path)
    journal.close()
    (tmp_path / "keys" / "journal.key").write_bytes(b"o" * 32)
    with pytest.raises(JournalKeyError, match=r"journal\.key: this is key") as wrong:
        open_real(tmp_path)
    assert wrong.value.errno == errno.EKEYREJECTED


@pytest.mark.parametrize(("content", "mode", "says"), [
    (b"k" * 31, 0o600, "32 bytes"), (b"k" * 33, 0o600, "32 bytes"), (b"", 0o600, "32 bytes"),
    (b"k" * 32, 0o640, "0600"),
])
def test_what_is_no_key(tmp_path, content, mode, says):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(JournalKeyError, match=says) as refused:
        open_key(str(path), not_random, SimDisk())
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def test_a_key_with_a_half_made_one_beside_it(tmp_path):
    (tmp_path / "key.new").write_bytes(b"half")
    assert isinstance(open_key(str(tmp_path / "key"), not_random, SimDisk()), Key)
    assert os.listdir(tmp_path) == ["key"]
