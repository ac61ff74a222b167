"""`python -m stack`: the whole service on this machine, with nothing to install or set up."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from stack.errors import CommandNotFound, StackError
from stack.folder import data_folder, socket_path
from stack.parts import Parts
from stack.processes import Events
from stack.stack import Interrupted, Stack, catch_signals

_STARTED = """\
Secateur serves at {url}

  export SECATEUR_URL={url}
  export SECATEUR_API_KEY={key}

Files are in {folder}. Stop with Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stack as the command line says; give the exit code."""
    options = _parser().parse_args(arguments)
    events: Events = Events()
    catch_signals(events)
    with ExitStack() as cleanup:
        try:
            if options.command and shutil.which(options.command[0]) is None:
                raise CommandNotFound(options.command[0])
            folder = cleanup.enter_context(data_folder(None if options.temporary else options.data))
            socket = cleanup.enter_context(socket_path(folder))
            _tell(f"secateur: starting; logs are in {folder.logs}\n")
            stack = Stack(Parts(folder, socket, events), events)
            cleanup.callback(stack.stop)
            stack.start()
            if options.command:
                return stack.run(options.command)
            sys.stdout.write(
                _STARTED.format(url=stack.url, key=folder.api_key(), folder=folder.root)
            )
            sys.stdout.flush()
            stack.serve()
        except StackError as error:
            _tell(f"secateur: {error}\n")
            return 1
        except Interrupted as interrupted:
            # To serve until a signal comes is what was asked. To run a command was, too.
            return 128 + interrupted.number if options.command else 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stack",
        description="Run the whole service on this machine: broker, database, HTTP and a worker. "
        "With a command, run it with SECATEUR_URL and SECATEUR_API_KEY set, stop everything when "
        "it ends, and exit with its code.",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--data",
        type=Path,
        default=Path("secateur-data"),
        help="folder of everything that is kept (default: %(default)s)",
    )
    place.add_argument(
        "--temporary", action="store_true", help="keep nothing: a new folder, removed at the end"
    )
    parser.add_argument("command", nargs="*", help="what to run, after --")
    return parser


def _tell(message: str) -> None:
    sys.stderr.write(message)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
