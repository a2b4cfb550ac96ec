"""Let one process at a time use a run directory, and name the one that does.

The operating system holds the lock and frees it when its holder dies, however it dies. On network
drives without locks a heartbeat stands in: the holder rewrites the file every few seconds.
"""

import errno
import os
import socket
import threading
import time
from pathlib import Path

from minigpt.support.errors import ConfigError, LockedError
from minigpt.support.files import make_folder

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
BEAT = 5.0  # seconds between two heartbeats
HOLDER_BYTES = 128  # the holder's line has a fixed length, so that one write replaces all of it


class RunLock:
    """Hold a run directory: `with RunLock(run_dir): ...`; make the directory if it is not there.

    A process may enter several times; another process gets a LockedError with pid and host of the
    holder. The file `.lock` stays behind, empty, when the lock is free.
    """

    held: dict[Path, int] = {}  # noqa: RUF012 - on purpose one table for the whole process

    def __init__(self, run_dir: Path):
        self.run_dir = Path(run_dir)
        self.path = self.run_dir.resolve() / ".lock"

    def __enter__(self) -> "RunLock":
        depth = RunLock.held.get(self.path, 0)
        if depth == 0:
            self.acquire()
        RunLock.held[self.path] = depth + 1
        return self

    def __exit__(self, *error) -> None:
        RunLock.held[self.path] -= 1
        if RunLock.held[self.path] == 0:
            del RunLock.held[self.path]
            self.release()

    def acquire(self) -> None:
        """Take the lock or raise a LockedError at once."""
        try:
            make_folder(self.run_dir)
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(
                f"cannot use the run directory ({error.strerror})",
                str(self.run_dir),
                "choose another directory, or change its rights",
            ) from None
        self.heart = None
        try:
            lock_file(self.file)
        except OSError as error:
            if error.errno not in NO_LOCKS or self.is_beating():
                raise self.in_use() from None
            self.heart = Heartbeat(self.file)
        write_holder(self.file)

    def in_use(self) -> LockedError:
        """Close the file and say who holds the lock."""
        holder = read_holder(self.file)
        for _ in range(40):  # the holder writes its name just after it got the lock
            if holder:
                break
            time.sleep(0.05)
            holder = read_holder(self.file)
        os.close(self.file)
        return LockedError(
            f"the run directory is in use by {holder or 'another process'}",
            str(self.run_dir),
            "wait until it ends, stop it, or choose another directory",
        )

    def is_beating(self) -> bool:
        """Watch the holder's line for two heartbeats; no clock of another machine is asked."""
        before = read_holder(self.file)
        if before:
            time.sleep(2 * BEAT)
        return read_holder(self.file) != before

    def release(self) -> None:
        """Free the lock and empty its file."""
        if self.heart is not None:
            self.heart.stop()
        os.ftruncate(self.file, 0)
        os.close(self.file)  # the system's lock goes with it


class Heartbeat:
    """Rewrite the holder's line every `BEAT` seconds in a thread of its own."""

    def __init__(self, file: int):
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.beat, args=(file,), daemon=True)
        self.thread.start()

    def beat(self, file: int) -> None:
        count = 0
        while not self.ended.wait(BEAT):
            count += 1
            write_holder(file, f", heartbeat {count}")

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()


def write_holder(file: int, suffix: str = "") -> None:
    """Put this process's pid and host at the start of the lock file."""
    line = f"process {os.getpid()} on {socket.gethostname()}{suffix}"
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, line.encode("utf-8", "replace")[:HOLDER_BYTES].ljust(HOLDER_BYTES))


def read_holder(file: int) -> str:
    """Return what the holder wrote, or an empty string."""
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, HOLDER_BYTES).decode("utf-8", "replace").strip()


def lock_file(file: int) -> None:
    """Lock an open file for this process or raise an OSError at once."""
    if os.name == "nt":
        import msvcrt

        os.lseek(file, 1 << 30, os.SEEK_SET)  # far behind the text: locked bytes are unreadable
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
