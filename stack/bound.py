"""Become another program, one that the kernel kills when the stack is gone.

`python bound.py PARENT_PID COMMAND ...`, run by its path: it starts in milliseconds, and sets in
its own process what the stack, which has threads, could not safely set between fork and exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent_pid, *command = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Had the stack died before that, nobody would ever tell.
    if os.getppid() != int(parent_pid):
        sys.exit("the stack is gone")
    os.execvp(command[0], command)  # noqa: S606 - the stack's own commands, and the user's.


if __name__ == "__main__":
    main()
