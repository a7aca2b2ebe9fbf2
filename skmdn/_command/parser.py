"""Arguments of the command, checked before any work."""

from __future__ import annotations

import argparse
import math
import os
import zipfile
from pathlib import Path
from typing import Any, NoReturn

from skmdn._command.errors import CommandError, one_line
from skmdn._version import __version__

PICTURES = (".png", ".pdf", ".svg", ".jpg")
TABS = {"tab": "\t", "\\t": "\t"}
DESCRIPTION = """\
Fit a mixture density network to a CSV file, and compare its held-out scores with those
of two baselines. Without a file: eruptions of the Old Faithful geyser. To predict with
a saved model: skmdn predict --help
"""


class _Parser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{one_line(message)}. Type {self.prog} --help.")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse and check arguments; `command` is "fit" or "predict".

    Raises
    ------
    CommandError
        If an argument is unknown or wrong, or if a file cannot be written.
    """
    if arguments[:1] == ["predict"]:
        options = _predict_parser().parse_args(arguments[1:])
        _check_reading(options)
        _check_predict(options)
    else:
        options = _fit_parser().parse_args(_with_bounds(arguments))
        _check_reading(options)
        _check_fit(options)
    return options


# -- parsers -------------------------------------------------------------------------


def _fit_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="skmdn", description=DESCRIPTION, allow_abbrev=False)
    parser.set_defaults(command="fit")
    add = parser.add_argument
    add("file", nargs="?", type=Path, metavar="FILE.csv", help="default: geyser data")
    several: dict[str, Any] = {"action": "append", "default": [], "metavar": "COLUMN"}
    add("--target", **several, help="column to predict; may be repeated")
    add("--drop", **several, help="column to leave out; may be repeated")
    add("--group", metavar="COLUMN", help="rows of one group are held out together")
    add(
        "--support",
        nargs=2,
        type=_bound,
        metavar=("LOW", "HIGH"),
        help="bounds of the targets, such as 0 inf if all are positive",
    )
    _add_reading(parser)
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add("--json", type=Path, metavar="FILE.json", help="write scores and notes")
    add("--save", type=Path, metavar="MODEL.skops", help="write the fitted model")
    picture = Path("skmdn.png")
    help_ = "default: %(default)s"
    add("--picture", type=Path, default=picture, metavar="FILE.png", help=help_)
    add("--quiet", action="store_true", help="print the scores only")
    add("--version", action="version", version=f"skmdn {__version__}")
    return parser


def _predict_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="skmdn predict",
        description="Predict mean, std and quantiles of the rows of a CSV file.",
        allow_abbrev=False,
    )
    parser.set_defaults(command="predict")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.skops", help="written by --save")
    add("file", type=Path, metavar="FILE.csv", help="with the columns of the fit")
    add("--out", type=Path, required=True, metavar="FILE.csv", help="to be written")
    levels = [0.05, 0.5, 0.95]
    help_ = "levels between 0 and 1; default: 0.05 0.5 0.95"
    add("--quantiles", type=float, nargs="+", default=levels, metavar="Q", help=help_)
    _add_reading(parser)
    add("--quiet", action="store_true", help="print nothing")
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the file is written."""
    add = parser.add_argument_group("reading, by default detected").add_argument
    add("--sep", metavar="';'", help="separator of cells; tab for a tabulator")
    add("--decimal", metavar="','", choices=[".", ","], help="decimal sign")
    add("--encoding", metavar="latin-1", help="encoding of the file")
    add(
        "--missing",
        action="append",
        default=[],
        metavar="TEXT",
        help="text that means a missing value; may be repeated",
    )


def _with_bounds(arguments: list[str]) -> list[str]:
    """Put a space before the bounds of --support: argparse takes -inf for an option."""
    arguments = list(arguments)
    for place, argument in enumerate(arguments):
        if argument == "--support":
            for after in range(place + 1, min(place + 3, len(arguments))):
                if _is_number(arguments[after]):
                    arguments[after] = f" {arguments[after]}"
    return arguments


def _bound(text: str) -> float:
    """Convert a bound of --support."""
    if not _is_number(text) or math.isnan(float(text)):
        raise argparse.ArgumentTypeError(
            "bounds must be numbers, or inf and -inf for no bound, got "
            f"{text.strip()!r}"
        )
    return float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# -- checks --------------------------------------------------------------------------


def _check_reading(options: argparse.Namespace) -> None:
    if options.sep is not None:
        options.sep = TABS.get(options.sep, options.sep)
        if len(options.sep) != 1 or options.sep in '"\r\n':
            raise CommandError(
                f"--sep must be one character, got {options.sep!r}. Pass --sep ';' or "
                "--sep tab."
            )
    if options.sep is not None and options.sep == options.decimal:
        raise CommandError(
            f"--sep and --decimal are both {options.sep!r}. Leave one of them out."
        )
    if options.encoding is not None:
        try:
            "a".encode(options.encoding)  # base64 is known, but is no text encoding
        except (LookupError, ValueError):
            raise CommandError(
                f"--encoding {options.encoding!r} is unknown. Pass --encoding latin-1, "
                "utf-8 or utf-16."
            ) from None
    if options.file is not None and not options.file.is_file():
        raise CommandError(
            f"There is no file {options.file}. Pass the path of a CSV file."
        )


def _check_fit(options: argparse.Namespace) -> None:
    if options.file is None:
        for name in (
            "target",
            "drop",
            "group",
            "sep",
            "decimal",
            "encoding",
            "missing",
        ):
            if getattr(options, name):
                raise CommandError(
                    f"--{name} needs a file. Type skmdn FILE.csv --target COLUMN."
                )
    elif not options.target:
        raise CommandError("Name the column to predict: pass --target COLUMN.")
    options.target = list(dict.fromkeys(options.target))
    for option, names in (("--drop", options.drop), ("--group", [options.group])):
        for name in set(names) & set(options.target):
            raise CommandError(
                f"{name!r} is both --target and {option}. Leave out one of them."
            )
    if options.support is not None:
        _check_support(*options.support)
    if not 0 <= options.seed < 2**32:
        raise CommandError(
            f"--seed must be between 0 and {2**32 - 1}, got {options.seed}."
        )
    _check_outputs(
        options.file,
        {
            "--json": (options.json, (".json",)),
            "--save": (options.save, (".skops",)),
            "--picture": (options.picture, PICTURES),
        },
    )


def _check_support(low: float, high: float) -> None:
    if math.isinf(low) and math.isinf(high):
        raise CommandError(
            "--support needs at least one bound that is a finite number. Pass for "
            "example --support 0 inf, or leave it out."
        )
    if not low < high:
        raise CommandError(
            f"--support needs LOW < HIGH, got {low:g} {high:g}. Pass for example "
            "--support 0 inf."
        )


def _check_predict(options: argparse.Namespace) -> None:
    for level in options.quantiles:
        if not 0 < level < 1:
            raise CommandError(
                f"--quantiles must be between 0 and 1, got {level:g}. Pass for example "
                "--quantiles 0.05 0.5 0.95."
            )
    options.quantiles = list(dict.fromkeys(options.quantiles))
    if not options.model.is_file():
        raise CommandError(
            f"There is no model {options.model}. Pass the file that skmdn --save wrote."
        )
    if zipfile.is_zipfile(options.file) and not zipfile.is_zipfile(options.model):
        raise CommandError(
            f"The model comes first, and {options.file} looks like one. Type skmdn "
            f"predict {options.file} {options.model} --out {options.out}."
        )
    _check_outputs(options.file, {"--out": (options.out, (".csv",))})


def _check_outputs(source: Path | None, outputs: dict[str, Any]) -> None:
    """Check that files can be written, and are not the one that is read."""
    for option, (path, suffixes) in outputs.items():
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise CommandError(
                f"{option} must end in {' or '.join(suffixes)}, got {str(path)!r}."
            )
        if source is not None and path.resolve() == source.resolve():
            raise CommandError(
                f"{option} {path} is the file that is read. Pass another {option}."
            )
        place = path if path.exists() else path.parent
        is_right = path.is_file() if path.exists() else path.parent.is_dir()
        if not is_right or not os.access(place, os.W_OK):
            raise CommandError(
                f"{option} {path} cannot be written. Pass a file in a folder that "
                "exists and is yours."
            )
