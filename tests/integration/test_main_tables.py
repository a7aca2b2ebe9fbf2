"""Awkward CSV files: read as pandas reads them by the printed code."""

import codecs

import numpy as np
import pytest
from command_files import ROWS, SIMPLE, SIZES, N, column_of, lines_of, read, texts
from hypothesis import given
from hypothesis import strategies as st

pd = pytest.importorskip("pandas", reason="needs the extra 'cli'")

from skmdn._command import numerals
from skmdn._command.errors import CommandError
from skmdn._command.reading import Hints
from skmdn._command.table import read_table

# -- encodings and separators ----------------------------------------------------


def test_german_spreadsheet_is_read_without_options(tmp_path):
    content = lines_of(
        "Größe;Straße;Preis",
        [f"{size},25" for size in SIZES],
        ["Süd", "Nord"] * (N // 2),
        [f"{size}.234,5" for size in SIZES],
        sep=";",
    )
    table = read(tmp_path, content.encode("latin-1"), ["Preis"])
    np.testing.assert_array_equal(table.X["Größe"], np.array(SIZES) + 0.25)
    assert list(table.X["Straße"].cat.categories) == ["Nord", "Süd"]
    np.testing.assert_array_equal(table.y, np.array(SIZES) * 1000 + 234.5)
    assert table.notes == [
        "The file is not UTF-8 and is read as cp1252; pass --encoding if letters are "
        "wrong.",
        "Numbers have the decimal sign ',', '.' between thousands.",
        "Straße is a category of 2 levels.",
    ]


@pytest.mark.parametrize(
    ("before", "encoding", "hint"),
    [
        (b"", "utf-8", None),
        (codecs.BOM_UTF8, "utf-8", None),
        (b"", "utf-16", None),
        (codecs.BOM_UTF16_BE, "utf-16-be", None),
        (b"", "utf-16-le", "utf-16-le"),
        (b"", "latin-1", "latin-1"),
        (b"", "mac-roman", "mac-roman"),
    ],
)
def test_encodings(tmp_path, before, encoding, hint):
    content = before + SIMPLE.replace("size", "Größe").encode(encoding)
    assert list(read(tmp_path, content, encoding=hint).X.columns) == ["Größe"]


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
@pytest.mark.parametrize("point", [".", ","])
def test_separators_are_detected(tmp_path, sep, point):
    extra = [f"a{sep}b", "c\nd"] * (N // 2)
    quoted = [f'"{value}"' for value in extra]
    price = [f'"{size}{point}5"' for size in SIZES]
    header = sep.join(["size", "extra", "price"])
    table = read(tmp_path, lines_of(header, texts(SIZES), quoted, price, sep=sep))
    assert set(table.X["extra"]) == {f"a{sep}b", "c\nd"}
    np.testing.assert_array_equal(table.y, np.array(SIZES) + 0.5)


def test_first_line_of_excel_names_the_separator(tmp_path):
    content = "sep=;\r\n" + SIMPLE.replace(",", ";")
    assert list(read(tmp_path, content).X.columns) == ["size"]


def test_given_separator_wins(tmp_path):
    content = SIMPLE.replace(",", ":")
    assert list(read(tmp_path, content, sep=":").X.columns) == ["size"]


@pytest.mark.parametrize("header", ["size;price", "size;price;"])
def test_separator_at_the_end_makes_no_column(tmp_path, header):
    rows = SIMPLE.replace(",", ";").splitlines()[1:]
    table = read(tmp_path, "\n".join([header, *(f"{row};" for row in rows)]))
    assert list(table.X.columns) == ["size"]
    assert table.notes == ["Column 3 has no name and is empty: left out."] * (
        header[-1] == ";"
    )


def test_records_that_begin_with_a_hash_are_kept(tmp_path):
    content = lines_of("code,price", ["#1", "2"] * (N // 2), texts(SIZES))
    assert set(read(tmp_path, content).X["code"]) == {"#1", "2"}


def test_blank_lines_and_spaces_do_not_matter(tmp_path):
    rows = [f" {size} , {'red ' if size % 2 else 'blue'} , {size}.5 " for size in SIZES]
    table = read(tmp_path, "\n\n".join([" size , colour , price ", *rows]))
    assert list(table.X.columns) == ["size", "colour"]
    assert set(table.X["colour"]) == {"red", "blue"}


# -- numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "sep", "values"),
    [
        (["1,5", "2", "-3,25"], ";", [1.5, 2, -3.25]),
        (["1.234,5", "7", "1.234.567"], ";", [1234.5, 7, 1234567]),
        (["1,234.5", "7", "12,345"], ",", [1234.5, 7, 12345]),
        (["1,234", "7", "12,345"], ",", [1234, 7, 12345]),
        (["1 234", "7", "12 345.5"], ",", [1234, 7, 12345.5]),
        (["1\u00a0234", "7", "12\u202f345,5"], ";", [1234, 7, 12345.5]),
        (["1'234", "7", "12'345.5"], ",", [1234, 7, 12345.5]),
        (["€ 5", "7 €", "-€1.5"], ",", [5, 7, -1.5]),
        (["5%", "7 %", "1.5 %"], ",", [5, 7, 1.5]),
        (["$1,234.50", "7", "$2"], ",", [1234.5, 7, 2]),
        (["\u22125", ".5", "1e3"], ",", [-5, 0.5, 1000]),
        (["TRUE", "False", "false"], ",", [1, 0, 0]),
    ],
)
def test_numbers_as_people_write_them(tmp_path, cells, sep, values):
    point = "," if any(cell.endswith(",5") for cell in cells) else "."
    table = read(tmp_path, column_of(cells * (N // 3), sep=sep, point=point))
    np.testing.assert_array_equal(table.X["extra"], values * (N // 3))
    np.testing.assert_array_equal(table.y, np.array(SIZES) + 0.5)


def test_ignored_signs_are_noted(tmp_path):
    table = read(tmp_path, column_of(["5 €", "7", "8"] * (N // 3)))
    assert "extra: € ignored in 4 of 12 cells." in table.notes


@pytest.mark.parametrize(("decimal", "value"), [(None, 1.25), (",", 1250.0)])
def test_ambiguous_thousands_are_noted_and_can_be_told(tmp_path, decimal, value):
    content = lines_of(
        "size;price", ["1.250", "8", "6"] * (N // 3), texts(SIZES), sep=";"
    )
    table = read(tmp_path, content, decimal=decimal)
    assert table.X["size"][0] == value
    hint = "'1.250' is read as 1.25; pass --decimal ',' if it has thousands."
    assert (hint in table.notes) == (decimal is None)


@pytest.mark.parametrize(
    ("cells", "sep", "values"),
    [
        (["0,125", "1,125", "0"], ",", [0.125, 1.125, 0]),
        (["0,013", "12,500", "-0,027"], ";", [0.013, 12.5, -0.027]),
        (["0.125", "1.125", "-0.250"], ";", [0.125, 1.125, -0.25]),
        (["€ 0,125", "€ 7,250", "0"], ",", [0.125, 7.25, 0]),
    ],
)
def test_decimals_after_a_zero_are_no_thousands(tmp_path, cells, sep, values):
    quoted = [f'"{cell}"' for cell in cells]
    content = lines_of(f"size{sep}price", quoted * 4, texts(SIZES), sep=sep)
    table = read(tmp_path, content)
    np.testing.assert_array_equal(table.X["size"], values * 4)
    assert not any("is read as" in note for note in table.notes)


@pytest.mark.parametrize("convention", numerals.CONVENTIONS)
@given(number=st.integers(-999_999, 999_999))
def test_three_digits_after_a_sign(convention, number):
    """A number of thousands has one spelling, and so has one of thousandths."""
    sign = "-" if number < 0 else ""
    whole, rest = divmod(abs(number), 1000)
    text = f"{sign}{whole}{convention.decimal}{rest:03}"
    assert convention.number(text) == number / 1000
    if convention.thousands:
        text = f"{sign}{whole}{convention.thousands}{rest:03}"
        assert convention.number(text) == (number if whole else None)


@pytest.mark.parametrize(
    ("cells", "others", "sep", "hint"),
    [
        (["1.137", "2.456", "5"], "1,5", ";", "'2.456' is read as 2456.0; pass --dec"),
        (["1.137 €", "5", "6"], "1,5", ";", "'1.137 €' is read as 1137.0; pass"),
        (["1,137", "5", "6"], "1.5", ",", "--decimal ',' if it has decimals."),
        (["1.137", "2.456,5", "5"], "1,5", ";", None),
        (["1.137", "2.456.789", "5"], "1,5", ";", None),
    ],
)
def test_ambiguous_groups_are_noted(tmp_path, cells, others, sep, hint):
    quoted = [f'"{cell}"' for cell in cells]
    columns = [quoted * 4, [f'"{others}"'] * N, texts(SIZES)]
    table = read(tmp_path, lines_of(sep.join(["a", "b", "price"]), *columns, sep=sep))
    notes = [note for note in table.notes if "is read as" in note]
    assert len(notes) == (hint is not None)
    assert all(hint in note for note in notes)


@pytest.mark.parametrize(
    "text", ["", "1,2", "12,34.5", "1.2.3", "inf", "nan", "1e999", "0x1", "1_000", "٣"]
)
def test_other_text_is_no_number(text):
    assert numerals.POINT.number(text) is None


@pytest.mark.parametrize("number", [0.0, -1.5, 1234567.25, 1e-7, 12345678901.0])
@pytest.mark.parametrize("convention", numerals.CONVENTIONS)
def test_numbers_are_read_back_in_every_convention(number, convention):
    text = f"{number:,}".translate({44: convention.thousands, 46: convention.decimal})
    assert convention.number(text) == number


@given(
    numbers=st.lists(
        st.decimals(-(10**6), 10**6, places=2).map(float), min_size=N, max_size=N
    ),
    words=st.lists(st.text("ab ;,\"'\n\té€", max_size=4), min_size=N, max_size=N),
    sep=st.sampled_from(",;\t|"),
    decimal=st.sampled_from(".,"),
)
def test_files_that_pandas_writes_are_read_back(
    tmp_path_factory, numbers, words, sep, decimal
):
    frame = pd.DataFrame({"number": numbers, "word": words, "price": SIZES})
    frame["word"] = "w" + frame["word"]
    path = tmp_path_factory.mktemp("files") / "table.csv"
    frame.to_csv(path, sep=sep, decimal=decimal, index=False)
    hints = Hints(sep, decimal)
    table = read_table(path, ["price"], hints=hints)
    if "number" in table.X:  # it is left out if it numbers the rows
        np.testing.assert_array_equal(table.X["number"], frame["number"])
    assert table.X["word"].tolist() == frame["word"].str.strip().tolist()


# -- missing values --------------------------------------------------------------


MARKERS = ["?", "-", "--", "n.a.", "N/A", "Missing", ".", "NULL", "", "  ", "none"]


@pytest.mark.parametrize("known", [["5", "7.5"], ["red", "blue"]])
def test_markers_of_missing_values(tmp_path, known):
    table = read(tmp_path, column_of([*MARKERS, known[0]]))
    assert table.X["extra"].isna().tolist() == [True] * len(MARKERS) + [False]
    counts = ", ".join(f"1 of {marker!r}" for marker in MARKERS if marker.strip())
    assert f"Cells counted as missing: {counts}, 2 empty." in table.notes


def test_empty_cells_need_no_note(tmp_path):
    table = read(tmp_path, column_of(["5", "", "7.5"] * (N // 3)))
    assert not any("missing" in note for note in table.notes)


def test_further_marker(tmp_path):
    table = read(tmp_path, column_of(["5", "-999", "7"] * (N // 3)), missing=("-999",))
    assert table.X["extra"].isna().sum() == N // 3


@pytest.mark.parametrize("marker", ["-999", "-999.0", " -999.00"])
@pytest.mark.parametrize(
    "cells",
    [
        ["-999", "7"],
        ["-999.0", "7.5"],
        ["-999.00", "$7"],
        ["-9.99e2", "a"],
        [" -999.0 ", "$7"],
    ],
)
def test_markers_that_are_numbers_are_compared_as_numbers(tmp_path, cells, marker):
    cells = [*cells, "8", "9"] * (N // 4)
    table = read(tmp_path, column_of(cells), missing=(marker,))
    assert table.X["extra"].isna().tolist() == [True, False, False, False] * (N // 4)


@pytest.mark.parametrize("marker", ["-999", "-999.0"])
def test_markers_are_numbers_in_text_too(tmp_path, marker):
    """A point in a marker does not depend on the decimal sign of the file."""
    extra = ["-999.0", "a", "b"] * (N // 3)
    content = column_of(extra, sep=";", point=",").replace(";2,5", ";-999")
    table = read(tmp_path, content, missing=(marker,))
    assert table.X["extra"].isna().sum() == N // 3
    assert len(table.y) == N - 1  # without the row whose target is -999


def test_markers_with_a_decimal_comma(tmp_path):
    content = column_of(["-999,00", "7,5", "1.250,0"] * (N // 3), sep=";", point=",")
    table = read(tmp_path, content, missing=("-999",))
    np.testing.assert_array_equal(table.X["extra"], [np.nan, 7.5, 1250] * (N // 3))


def test_rows_without_a_target_are_left_out(tmp_path):
    content = SIMPLE + "99,\n98,?\n"
    table = read(tmp_path, content)
    assert len(table.X) == len(table.y) == N
    assert "2 rows without a target are left out." in table.notes


def test_one_of_several_targets_may_be_missing(tmp_path):
    second = ["", *texts(SIZES[1:])]
    content = lines_of("size,price,cost", texts(SIZES), texts(SIZES), second)
    table = read(tmp_path, content + "1,,\n", ["price", "cost"])
    assert table.targets == ["price", "cost"]
    assert table.y.isna().sum().tolist() == [0, 1]


# -- dates -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "parts"),
    [
        ("%Y-%m-%d", 3),
        ("%Y-%m-%dT%H:%M:%SZ", 4),
        ("%Y-%m-%d %H:%M:%S.%f", 4),
        ("%Y%m%d", 3),
        ("%Y/%m/%d", 3),
        ("%d.%m.%Y", 3),
        ("%d.%m.%y %H:%M", 4),
        ("%d/%m/%Y", 3),
        ("%m/%d/%Y %H:%M:%S", 4),
        ("%d-%b-%Y", 3),
        ("%B %d, %Y", 3),
        ("%m/%d/%y", 3),
        ("%d/%m/%y", 3),
        ("%d-%b-%y", 3),
        ("%m/%d/%Y %I:%M %p", 4),
        ("%d.%m.%Y %I:%M:%S %p", 4),
    ],
)
def test_dates_become_numbers(tmp_path, format, parts):
    times = pd.Timestamp("2024-01-20 06:00") + pd.to_timedelta(
        [35.25 * size for size in SIZES], unit="D"
    )
    table = read(tmp_path, column_of([*times.strftime(format)[:-1], ""]))
    names = ["days", "day of year", "weekday", "hour"][:parts]
    assert list(table.X.columns) == ["size", *(f"extra [{name}]" for name in names)]
    times = times[:-1] if parts == 4 else times[:-1].normalize()
    made = table.X.iloc[:-1]
    days = (times - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    np.testing.assert_allclose(made["extra [days]"], days, rtol=1e-12)
    np.testing.assert_array_equal(made["extra [day of year]"], times.day_of_year)
    assert made["extra [weekday]"].tolist() == times.strftime("%a").tolist()
    if parts == 4:
        np.testing.assert_allclose(made["extra [hour]"], times.hour)
    assert table.X.iloc[-1, 1:].isna().all()


@pytest.mark.parametrize("format", ["%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p"])
def test_times_alone_become_hours(tmp_path, format):
    times = pd.Timestamp("2024-01-20") + pd.to_timedelta(
        [1.25 * size for size in SIZES], unit="h"
    )
    table = read(tmp_path, column_of([*times.strftime(format)[:-1], "?"]))
    assert list(table.X.columns) == ["size", "extra [hour]"]
    expected = [1.25 * size for size in SIZES[:-1]]
    np.testing.assert_allclose(table.X["extra [hour]"][:-1], expected, rtol=1e-12)
    assert np.isnan(table.X["extra [hour]"].iloc[-1])
    note = f"extra is a time ({format}), replaced by extra [hour]."
    assert note in table.notes


# -- columns that are left out ---------------------------------------------------


def test_row_numbers_names_and_empty_columns_are_left_out(tmp_path):
    n = 60
    size = texts((7 * i) % 60 for i in range(n))
    content = lines_of(
        ",id,name,empty,size,price",
        texts(range(n)),
        texts(range(1000, 1000 - n, -1)),
        [f"person {i}" for i in range(n)],
        [""] * n,
        size,
        size,
    )
    table = read(tmp_path, content)
    assert list(table.X.columns) == ["size"]
    assert table.notes == [
        "Unnamed: 0 is left out: it numbers the rows.",
        "id is left out: it numbers the rows.",
        "name is left out: text, 60 of 60 differ.",
        "empty is left out: it is empty.",
    ]


@pytest.mark.parametrize("first", [0, 1, 100])
def test_the_index_of_shuffled_rows_is_left_out(tmp_path, first):
    index = [(5 * i) % N + first for i in ROWS]
    size = ["3", "1"] * (N // 2)
    table = read(tmp_path, lines_of(",size,price", texts(index), size, texts(SIZES)))
    assert list(table.X.columns) == ["size"]
    assert table.notes == ["Unnamed: 0 is left out: it numbers the rows."]
    table = read(tmp_path, lines_of(",size,price", size, texts(index), texts(SIZES)))
    assert list(table.X.columns) == ["Unnamed: 0", "size"]


def test_a_rising_column_is_kept_if_it_is_the_only_one(tmp_path):
    content = lines_of("year,price", texts(range(2000, 2000 + N)), texts(SIZES))
    assert list(read(tmp_path, content).X.columns) == ["year"]


def test_dropped_columns_and_groups_are_no_features(tmp_path):
    content = lines_of(
        "size,shop,town,price",
        texts(SIZES),
        list("ab") * 6,
        list(" x y")[::1] * 3,
        texts(SIZES),
    ).replace(", ,", ",z ,")
    table = read(tmp_path, content, drop=["shop"], group="town")
    assert list(table.X.columns) == ["size"]
    assert set(table.groups) == {"x", "y", "z"}


@pytest.mark.parametrize("n_levels", [12, 60])
def test_words_among_numbers_are_noted(tmp_path, n_levels):
    values = [str(100 + i % n_levels) for i in range(60)]
    values[2::5] = [f"w{i // 2}" for i in range(12)]
    size = texts((7 * i) % 60 for i in range(60))
    content = lines_of("size,extra,price", size, values, size)
    (note,) = read(tmp_path, content).notes
    what = "is left out: text, 54 of 60" if n_levels == 60 else "is a category"
    assert note.startswith(f"extra {what}")
    assert "It has 48 numbers, but 'w0' in record 4 and 1 more. Pass --missing" in note
    options = ("w0", "w1", "w2", "w3", "w4")
    assert note.count("--missing") == len(options)
    with pytest.raises(CommandError, match="but 'w5' in record 54 and 1 more"):
        read(tmp_path, content, missing=options)
