"""The command line.

python -m skmdn                                    data of the Old Faithful geyser
python -m skmdn FILE.csv --target COLUMN           a user's table
python -m skmdn predict MODEL.skops FILE.csv --out FILE.csv
"""

from __future__ import annotations

import argparse
import io
import sys

from skmdn._command.errors import CommandError, one_line, without_breaks
from skmdn._command.parser import parse


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # its encoding may lack letters
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        _run(options)
    except CommandError as exc:
        print(f"skmdn: {without_breaks(str(exc))}", file=sys.stderr)
        return 2
    except OSError as exc:  # such as a full disk
        print(f"skmdn: {one_line(exc)}. Pass another file.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("skmdn: interrupted.", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells report it
    return 0


def _run(options: argparse.Namespace) -> None:
    """Run a command; its modules need pandas, which is optional."""
    try:
        import pandas  # noqa: F401
    except ImportError:
        raise CommandError(
            "The command needs pandas. Run python -m pip install 'skmdn[cli]'."
        ) from None
    if options.command == "predict":
        from skmdn._command.prediction import run_predict

        run_predict(options)
    else:
        from skmdn._command.fitting import run_fit

        run_fit(options)


if __name__ == "__main__":
    sys.exit(main())
