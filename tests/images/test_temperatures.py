"""Tables of temperatures that the programs of thermal cameras export."""

from __future__ import annotations

import numpy as np
import pytest

from napari_busref import read_image

CELSIUS = np.round(np.random.default_rng(0).uniform(-5, 35, (12, 16)), 2)


def table(values, mark=",", decimal="."):
    return [mark.join(f"{x:.4f}".replace(".", decimal) for x in row) for row in values]


@pytest.mark.parametrize(
    ("text", "encoding", "unit"),
    [
        ("\n".join(table(CELSIUS)), "utf-8", None),
        ("\n".join(["Emissivity,0.95", "Celsius", "", *table(CELSIUS)]), "utf-8-sig", "°C"),
        ("\r\n".join(["File;a b.jpg", "T [°C]", *table(CELSIUS, ";", ",")]), "latin-1", "°C"),
        ("\n".join(["sep=;", *(f"{x};" for x in table(CELSIUS, ";", ","))]), "utf-16", None),
        ("\n".join(["Kelvin", *table(CELSIUS + 273.15, "\t")]), "utf-8", "°C"),
        ("\n".join(["Unit (F)", *table(CELSIUS * 1.8 + 32, "\t")]), "utf-8", "°C"),
        (
            "\n".join(
                [
                    ";" + ";".join(map(str, range(1, 17))),
                    *(f"{n};{row}" for n, row in enumerate(table(CELSIUS, ";"), 1)),
                ]
            ),
            "utf-8",
            None,
        ),
    ],
    ids=["plain", "commas", "semicolons", "excel", "kelvin", "fahrenheit", "numbered"],
)
def test_each_program_writes_the_same_image(tmp_path, text, encoding, unit):
    path = tmp_path / "frame.csv"
    path.write_bytes(text.encode(encoding))
    found = read_image(path)
    np.testing.assert_allclose(found.data, CELSIUS, atol=1e-3)
    assert found.data.dtype == np.float32
    assert found.metadata.get("value_unit") == unit


def test_empty_cells_are_missing_pixels(tmp_path):
    lines = table(CELSIUS, ";")
    lines[3] = ";".join(["", "---", *lines[3].split(";")[2:]])
    (tmp_path / "frame.csv").write_text("\n".join(lines))
    missing = np.isnan(read_image(tmp_path / "frame.csv").data)
    assert [tuple(at) for at in np.argwhere(missing)] == [(3, 0), (3, 1)]


@pytest.mark.parametrize("text", ["", "row,col\n1,2\n3,4\n", "words\n" * 20])
def test_other_tables_are_no_images(tmp_path, text):
    (tmp_path / "frame.csv").write_text(text)
    with pytest.raises(ValueError, match=r"frame.csv: a table of temperatures has at least 8"):
        read_image(tmp_path / "frame.csv")
