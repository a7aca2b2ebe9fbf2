"""CSV files as text, and what the command and the Python that it prints read."""

import numpy as np

N = 12
ROWS = range(N)
# Integers that neither rise nor fall.
SIZES = [(7 * i) % N + 1 for i in ROWS]


def lines_of(header, *columns, sep=","):
    """Return the text of a file, of columns of text."""
    return "\n".join([header, *map(sep.join, zip(*columns, strict=True))]) + "\n"


def texts(values):
    return [str(value) for value in values]


SIMPLE = lines_of("size,price", texts(SIZES), texts(i * i + 0.5 for i in SIZES))


def write(folder, content):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder, content, targets=("price",), drop=(), group=None, **hints):
    """Read a file, and check that the printed Python makes the same of it."""
    import pandas as pd

    from skmdn._command.reading import Hints
    from skmdn._command.table import read_table

    path = write(folder, content)
    table = read_table(path, list(targets), list(drop), group, Hints(**hints))
    names = {"pd": pd}
    exec("\n".join(table.code), names)
    theirs = names["X"].reset_index(drop=True)
    assert list(theirs.columns) == list(table.X.columns)
    for name, ours in table.X.items():
        is_category = ours.dtype == "category"
        assert (theirs[name].dtype == "category") == is_category, name
        kind = object if is_category else float
        np.testing.assert_array_equal(
            theirs[name].astype(kind).where(theirs[name].notna(), None),
            ours.astype(kind).where(ours.notna(), None),
        )
    np.testing.assert_allclose(np.asarray(names["y"], float), np.asarray(table.y))
    return table


def column_of(values, **options):
    """Return a file with a column of given cells beside the sizes and the prices."""
    sep = options.pop("sep", ",")
    quoted = [f'"{value}"' if sep in value else value for value in values]
    price = [f"{size}{options.get('point', '.')}5" for size in SIZES]
    price = [f'"{cell}"' if sep in cell else cell for cell in price]
    return lines_of(
        sep.join(["size", "extra", "price"]), texts(SIZES), quoted, price, sep=sep
    )
