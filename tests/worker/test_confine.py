"""What a child may not see of its worker."""

import subprocess
import sys

import pytest

# As root, everything can be read: both processes become somebody else first. Becoming somebody else
# makes a process unreadable by itself, so it is made readable again before the test begins.
_PROGRAM = """
import ctypes, os, sys
from worker import confine
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
if sys.argv[1] == "hidden":
    confine.hide_from_children()
child = os.fork()
if child == 0:
    try:
        open(f"/proc/{os.getppid()}/environ", "rb").read()
    except PermissionError:
        os._exit(13)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have no /proc")
@pytest.mark.parametrize(("how", "exit_code"), [("open", 0), ("hidden", 13)])
def test_a_child_cannot_read_the_environment_of_a_worker_that_hides(how, exit_code):
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], check=False)
    assert done.returncode == exit_code
