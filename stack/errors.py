"""What can go wrong with the stack; messages are for the person who started it.

* StackError
  x FolderInUse       another stack runs on the same files
  x CommandNotFound   the command after `--` is none
  x ProcessFailed     a process ended that should not have
"""

from pathlib import Path

_LAST_LINES = 20


class StackError(Exception):
    """Base of all of them."""


class FolderInUse(StackError):
    """Another stack runs on the same files: each would take the other's jobs for lost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"another stack runs on {folder}: stop it, or choose another with --data")


class CommandNotFound(StackError):
    def __init__(self, command: str) -> None:
        super().__init__(f"no such command: {command}")


class ProcessFailed(StackError):
    """A process ended that should not have; with the last lines of its log."""

    def __init__(self, name: str, *, exit_code: int, log: Path | None) -> None:
        how = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
        message = f"the {name} ended with {how}"
        if log is not None:
            lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            said = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
            message += f"; the last lines of {log}:\n{said}"
        super().__init__(message)
