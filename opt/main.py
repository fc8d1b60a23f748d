"""Entry point of the ``tilewright`` command."""

from __future__ import annotations

import sys

from opt import _STARTED


def main() -> None:
    """Run the command line and exit with its code; the time limit counts from the start of the process."""
    try:
        from opt.cli import app
        from opt.cli.interrupts import own_process

        own_process.set()
        app(prog_name="tilewright", obj=_STARTED)
    except KeyboardInterrupt:  # while modules were still being imported
        print("tilewright: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
