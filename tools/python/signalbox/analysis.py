"""Tables that `signalbox analyze` and other commands write as CSV beside a summary.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError
from .json_lines import read_json

if TYPE_CHECKING:
    import pandas as pd

# Columns of text: a domain named "1" or a token "NA" stays what it is.
_TEXT = frozenset(
    "answer class condition condition_a condition_b direction domain id intervention kind label method metric part pair pipeline plan "
    "point program records sample scope split text token_text unit_name variant".split()
)  # fmt: skip
# Of these an empty cell is an empty text, not an undefined value.
_MAY_BE_EMPTY = frozenset({"text"})
# What the tables must have, so that another file of that name is not taken for one.
_COLUMNS = {
    "usage": "layer expert domain count tokens share mean_weight",
    "rd": "layer expert a1_n d1_n a2_n d2_n rd ci_lo ci_hi p q rd_example rd_weight log_odds",
    "domains": "layer chi2 df p cramers_v p_permutation",
    "persistence": "layer expert rate p_stay lag1 lag1_p lag1_q dwell_mean",
    "transitions": "layer from to count probability",
    "coactivation": "layer expert_a expert_b count p_b_given_a p_a_given_b lift",
    "vocabulary": "layer expert token text count share pmi",
    "across_layers": "layer_a expert_a layer_b expert_b jaccard phi p q",
    "balance": "layer domain entropy entropy_normalised load_balance",
    "autocorrelation": "layer expert lag r",
    "similarity": "condition_a condition_b layer jaccard jaccard_weighted instability",
}


class Analysis(dict[str, Any]):
    """Data frames by the name of their file without `.csv`; `summary`: what summary.json says of tests, resampling and
    seed; `path`: the directory."""

    def __init__(self, path: Path, tables: dict[str, pd.DataFrame], summary: dict[str, Any]) -> None:
        super().__init__(tables)
        self.path = path
        self.summary = summary

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"{self.path}: expected one of {', '.join(self) or 'no tables'}, found {name!r}")

    def __repr__(self) -> str:
        return f"<Analysis {self.path}: {', '.join(f'{name} ({len(table)})' for name, table in self.items())}>"


def read_analysis(path: str | os.PathLike[str]) -> Analysis:
    """The tables of a directory with `analysis/`, or of a directory of tables itself.

    >>> tables = signalbox.read_analysis("out/trace")
    >>> sorted(tables)[:3]
    ['across_layers', 'autocorrelation', 'balance']
    >>> usage = tables["usage"]
    >>> everything = usage[usage.domain.isna()]        # an empty cell: all domains together
    >>> bool((everything.groupby("layer").share.sum().round(9) == 4).all())    # each token selects four
    True

    Column names are those of the files. An empty cell is NaN: an undefined value, or, in `domain`, all records.
    Raises FileError where there is no table, or one lacks its columns.
    """
    given = Path(path)
    directory = given / "analysis" if (given / "analysis").is_dir() else given
    files = sorted(directory.glob("*.csv")) if directory.is_dir() else []
    if not files:
        raise FileError(f"{directory}: expected a directory with tables (signalbox analyze makes one), found none")
    summary: dict[str, Any] = read_json(directory / "summary.json") if (directory / "summary.json").exists() else {}
    return Analysis(directory, {file.stem: read_table(file) for file in files}, summary)


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """One table. Undefined values are NaN, columns of text stay text."""
    import pandas as pd

    file = Path(path)
    try:
        names = [str(name) for name in pd.read_csv(file, nrows=0, encoding="utf-8")]
        table = pd.read_csv(
            file,
            dtype={name: str for name in names if name in _TEXT},
            keep_default_na=False,
            na_values={name: ["", "nan", "NaN"] for name in names if name not in _TEXT}
            | {name: [""] for name in names if name in _TEXT - _MAY_BE_EMPTY},
            float_precision="round_trip",
            skip_blank_lines=False,
            encoding="utf-8",
        )
    except OSError as error:
        raise FileError(f"{file}: expected a file that can be read, found: {error.strerror}") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise FileError(f"{file}: expected a table, found: {str(error).splitlines()[0]}") from None
    missing = [name for name in _COLUMNS.get(file.stem, "").split() if name not in names]
    if missing:
        raise FileError(f"{file}: expected the columns {', '.join(missing)}, found {', '.join(names)}")
    return table
