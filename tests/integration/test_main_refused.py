"""CSV files and options that the command refuses, with one line."""

import pytest
from command_files import SIMPLE, SIZES, N, column_of, lines_of, read, texts, write

pytest.importorskip("pandas", reason="needs the extra 'cli'")

from skmdn import __main__ as command

TWO_DIGITS = column_of(["03/04/24", "05/06/24", "01/02/24"] * (N // 3))
AMBIGUOUS = column_of(["03/04/2024", "05/06/2024", "01/02/2024"] * (N // 3))
STRAY = lines_of("size,price", ["7", "broken", *texts(SIZES[2:])], texts(SIZES))
TWO_SIGNS = lines_of(
    "a;b;price", ["1,5"] * N, ["2.5"] * N, [f"{size},5" for size in SIZES], sep=";"
)
REFUSED = {
    "empty": ("", "is empty. Give it a header and rows"),
    "blank": ("\n \n", "is empty"),
    "header only": ("size,price\n", "has a header only. Give it rows"),
    "no header": (SIMPLE.split("\n", 1)[1], "has no header: its first record"),
    "two names": (SIMPLE.replace("size", "price"), "2 columns of the name 'price'"),
    "short record": (SIMPLE + "7\n", "record 14 has 1 cells, and the header 2"),
    "long record": (SIMPLE + '"7\n8",2,3\n', "record 14 has 3 cells"),
    "quoted blank": (SIMPLE + '""\n', "record 14 has 1 cells"),
    "open quote": (SIMPLE + '"7,8\n', "record 14 has 1 cells"),
    "NUL": (SIMPLE.encode("utf-16-le"), "Pass --encoding utf-16"),
    "no text": (b"a,b\n\x81\x8d,1\n", "Pass --encoding"),
    "stray word": (STRAY, "'broken' in record 3. Pass --missing 'broken'"),
    "infinity": (STRAY.replace("broken", "inf"), "or --drop 'size'"),
    "two signs": (TWO_SIGNS, "'b' has numbers such as '2.5', but the decimal sign"),
    "ambiguous dates": (AMBIGUOUS, "'03/04/2024' may be %d/%m/%Y or %m/%d/%Y"),
    "ambiguous years": (TWO_DIGITS, "'03/04/24' may be %d/%m/%y or %m/%d/%y"),
    "text": (
        SIMPLE.replace(".5", "x"),
        "Target 'price' contains text: '1x' in record 2",
    ),
    "dates": (
        lines_of("size,price", texts(SIZES), ["2024-01-01", "2024-01-02"] * 6),
        "Pass --target with a column of numbers",
    ),
    "few rows": ("size,price\n" + "1,2\n" * 9, "has 9 rows with a target"),
    "yes or no": (
        lines_of("size,price", texts(SIZES), ["yes", "no"] * 6),
        "'price' contains text: 'yes' in record 2 and 5 more, in 12 of 12 cells. Pass "
        "--target with",
    ),
    "stray word of the target": (
        lines_of("size,price", texts(SIZES), [*texts(SIZES[1:]), "soon"]),
        "but 'soon' in record 13. Pass --missing 'soon' if it means a missing value.\n",
    ),
    "points among commas": (
        lines_of(
            "a;price", ["0,5"] * N, [*(f"{s}.137" for s in SIZES[1:]), "1.6"], sep=";"
        ),
        "'price' has numbers such as '1.6', but the decimal sign of this file is ','. "
        "Write all numbers alike, or pass --decimal '.'.\n",
    ),
    "only text": (
        lines_of("a,price", [f"word {i}" for i in range(60)], texts(range(5, 65))),
        "and --group. a is left out: text, 60 of 60 differ.\n",
    ),
    "part of dates": (
        lines_of(
            "d,d [days],price",
            [f"2024-01-{s + 10}" for s in SIZES],
            texts(SIZES),
            texts(SIZES),
        ),
        "'d [days]' has the name of a part of the dates 'd'. Rename it, or pass --drop",
    ),
    "line break in a name": (
        lines_of('"a\nb",price', [f"word {i}" for i in range(60)], texts(range(5, 65))),
        "a b is left out: text",
    ),
    "thousandths": (
        lines_of("a;price", ["1,5", "2,5"] * 6, [f"0.0{s:02}" for s in SIZES], sep=";"),
        "has numbers such as '1,5', but the decimal sign of this file is '.'",
    ),
    "no features": ("price\n" + "1\n" * 12, "has no features besides"),
    "unknown target": (SIMPLE.replace("price", "cost"), "has no column 'price'. Pass"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_errors_are_one_line(tmp_path, capsys, content, message):
    assert command.main([str(write(tmp_path, content)), "--target", "price"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("skmdn: ")
    assert error.count("\n") == 1


GROUPED = lines_of(
    "size,shop,price", texts(SIZES), [*"abcde" * 2, "a", ""], texts(SIZES)
)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (GROUPED, ["--group", "shop"], "--group is empty in record 13"),
        (GROUPED, ["--group", "size "], "no column 'size '. Pass --group with one of"),
        (GROUPED, ["--drop", "cost"], "no column 'cost'. Pass --drop with one of"),
        (GROUPED, ["--drop", "size", "--drop", "shop"], "has no features besides"),
        (
            SIMPLE + "1,\n1,-5\n2,0\n",
            ["--support", "0", "inf"],
            "'price' is -5 in record 15 and 1 more, outside of --support 0 inf. ",
        ),
        (
            SIMPLE + "1,0\n",
            ["--support", "0", "inf"],
            "'price' is 0 in record 14, outside of --support 0 inf, which excludes its",
        ),
        (SIMPLE + "1,\n", ["--target", "other"], "no column 'other'"),
        (GROUPED, ["--encoding", "base64"], "--encoding 'base64' is unknown. Pass"),
        (GROUPED, ["--encoding", "rot13"], "--encoding 'rot13' is unknown. Pass"),
        (
            GROUPED.replace("b", "x"),
            ["--encoding", "utf-16"],
            "cannot be read as utf-16",
        ),
    ],
)
def test_errors_of_options(tmp_path, capsys, content, options, message):
    path = str(write(tmp_path, content))
    assert command.main([path, "--target", "price", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_remedy_that_an_error_names_works(tmp_path):
    table = read(tmp_path, STRAY, missing=("broken",))
    assert table.X["size"].isna().sum() == 1
