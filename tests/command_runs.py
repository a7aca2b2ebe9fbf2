"""Runs of the command in this process, and the table that they read."""

import numpy as np

from skmdn.__main__ import main

SMALL = {"n_estimators": 4, "hidden_layer_sizes": (8,), "max_iter": 5, "device": "cpu"}


def make_table(n=60, seed=0):
    """Return a frame with all that a table has."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    size = rng.normal(10, 2, size=n).round(2)
    frame = pd.DataFrame(
        {
            "size": size,
            "colour": rng.choice(["red", "blue"], size=n),
            "sold": pd.Timestamp("2024-01-01")
            + pd.to_timedelta(rng.integers(0, 500, size=n), unit="D"),
            "is new": rng.random(n) < 0.5,
            "shop": rng.choice(list("abcdefgh"), size=n),
            "price": (3 * size + rng.normal(size=n)).round(3),
            "cost": (size + rng.normal(size=n)).round(3),
        }
    )
    frame.loc[::9, ["size", "colour", "sold"]] = None
    return frame


def run(*arguments):
    """Run the command, which has to succeed."""
    assert main(list(arguments)) == 0


def error_of(capsys, *arguments):
    """Run the command, which has to fail with one line."""
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("skmdn: ")
    assert error.count("\n") == 1
    return error


def python_in(printed):
    """Return the code that the command prints at its end."""
    return printed.split("The same in Python:\n\n")[1]


def command_frame(printed):
    """Return what the printed Python makes before it fits."""
    names = {}
    code = python_in(printed).split("mdn = ")[0]
    exec(code, names)
    return names
