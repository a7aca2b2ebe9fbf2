"""The command without a subcommand: fit, score, draw and save."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from skmdn._command.errors import without_breaks
from skmdn._command.evaluation import evaluate, fit
from skmdn._command.pictures import draw
from skmdn._command.reading import Hints
from skmdn._command.report import equivalent_python, table_of_scores, write_json
from skmdn._command.storing import save, skops_io
from skmdn._command.table import Table, geyser, read_table
from skmdn._data.supports import Support


def run_fit(options: argparse.Namespace) -> None:
    """Fit a file, and print, draw and write what was asked for."""
    start = time.perf_counter()
    if options.save is not None:
        skops_io()
    table = _table(options)
    table.notes += _notes_of_bounds(table)
    n_rows, n_features = table.X.shape

    def say(*lines: str) -> None:
        if lines and not options.quiet:
            print(*lines, sep="\n", flush=True)

    targets = without_breaks(", ".join(table.targets))
    say(f"{n_rows} rows, {n_features} features; target: {targets}.")
    say(*map(without_breaks, table.notes))
    n_said = len(table.notes)
    say("Fitting; the scores are of rows that the networks did not see.")
    estimator = fit(table, options.seed)
    say(*map(without_breaks, table.notes[n_said:]))
    n_said = len(table.notes)
    # Before scores and pictures: if one of these fails, the fit is not lost.
    if options.save is not None:
        save(estimator, table.date_formats, options.save)
        say(f"Model: {options.save}")
    evaluation = evaluate(estimator, table, options.seed)
    say(*map(without_breaks, table.notes[n_said:]))
    print(*table_of_scores(evaluation, len(table.targets)), sep="\n", flush=True)
    say("")
    if options.json is not None:
        seconds = time.perf_counter() - start
        write_json(options.json, table, evaluation, seconds, options.seed)
        say(f"Scores: {options.json}")
    say(draw(table, evaluation, options.picture, options.seed))
    say("", "The same in Python:", "")
    say(equivalent_python(table, options.seed, options.save))


def _table(options: argparse.Namespace) -> Table:
    support = None if options.support is None else Support(*options.support)
    if options.file is None:
        return replace(geyser(), support=support)
    hints = Hints(
        options.sep, options.decimal, options.encoding, tuple(options.missing)
    )
    return read_table(
        options.file, options.target, options.drop, options.group, hints, support
    )


def _notes_of_bounds(table: Table) -> list[str]:
    """Return what --support does, or could do for positive targets."""
    if table.support is not None:
        low, high = table.support.ends
        return [
            f"Densities are zero outside of ({low:g}, {high:g}), those of the "
            "baselines too."
        ]
    if (table.points <= 0).any():
        return []
    verb, whose = ("is", "its") if len(table.targets) == 1 else ("are", "their")
    return [
        f"{' and '.join(table.targets)} {verb} always positive: --support 0 inf keeps "
        f"{whose} predictions positive."
    ]
