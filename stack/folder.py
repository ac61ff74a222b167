"""The data folder: what a stack on this machine keeps."""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.errors import FolderInUse

# What Linux allows is 107; the other systems allow a little less.
_MAX_SOCKET_PATH = 100


class DataFolder:
    """Paths in the data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broker = root / "broker"
        self.logs = root / "logs"
        self._key = root / "api-key"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def api_key(self) -> str:
        """The key for this folder: made once, readable by its owner alone."""
        try:
            descriptor = os.open(self._key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self._key.read_text().strip()
        key = f"sct_{secrets.token_urlsafe(32)}"
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{key}\n")
        return key


@contextmanager
def data_folder(root: Path | None) -> Iterator[DataFolder]:
    """The folder, ready and ours alone; a temporary one if none is given.

    Raises:
        FolderInUse: Another stack has it.
    """
    temporary = None
    if root is None:
        root = temporary = Path(tempfile.mkdtemp(prefix="secateur-stack-"))
    try:
        folder = DataFolder(root.absolute())
        for path in (folder.root, folder.broker, folder.logs):
            path.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(folder.root) from error
        else:
            yield folder
        finally:
            os.close(lock)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary)


@contextmanager
def socket_path(folder: DataFolder) -> Iterator[Path]:
    """Where the broker's socket may be: sockets cannot have long paths."""
    path = folder.broker / "socket"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="secateur-", dir="/tmp") as short:
        yield Path(short, "socket")
