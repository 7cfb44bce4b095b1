"""Run directories: what an experiment wrote (docs/run-directory.md)."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError
from .json_lines import is_array, is_object, read_json, read_lines
from .trace import Trace, read_traces

if TYPE_CHECKING:
    import pandas as pd

_RUN_SCHEMA = "signalbox.run/1"
_METRICS_SCHEMA = "signalbox.metrics/1"


def read_run(path: str | os.PathLike[str]) -> Run:
    """The experiment in a run directory, finished or not.

    >>> run = signalbox.read_run("out/run")
    >>> run
    <Run out/run: complete, metrics em, ppl>
    >>> run.contrasts.query("condition.isna() and intervention == 'off'")[["metric", "diff", "ci_lo", "ci_hi"]].shape
    (2, 4)
    >>> run.samples.groupby("intervention").em.mean().round(2).to_dict()["baseline"]
    1.0

    Raises FileError where there is no run or one of another schema, and names file and line of what is wrong.
    """
    return Run(path)


class Run:
    """One run directory. `manifest`: what was run, on what; `status`; `partial`: whether samples are missing yet."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        file = self.path / "manifest.json"
        if not file.exists():
            raise FileError(f"{file}: expected a run directory, found no manifest")
        self.manifest: dict[str, Any] = _object(file, _RUN_SCHEMA)
        self.status = str(self.manifest.get("status", ""))
        self.partial = self.status != "complete"

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as it was given."""
        spec: dict[str, Any] = self.manifest["spec_given"]
        return spec

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row for every sample: seed, intervention, id, sample, text, tokens, keys of the record, and a column for each
        metric (NaN where it is undefined). Of a run that is not finished, all samples there are, in the order of the finished
        file; `samples.attrs["partial"]` says so.
        """
        import pandas as pd

        # The last line of a run that is going on may be half written.
        lines = read_lines(self._file("samples.jsonl"), torn_end=self.partial)
        journal = self.path / "journal.jsonl"
        if journal.exists():
            waiting: dict[int, dict[str, Any]] = {}
            for number, line in enumerate(read_lines(journal, torn_end=True), 1):
                if not (is_array(line) and len(line) == 2 and isinstance(line[0], int) and is_object(line[1])):
                    raise FileError(f"{journal}:{number}: expected [line number, sample], found {str(line)[:60]}")
                waiting[line[0]] = line[1]
            lines += [waiting[number] for number in sorted(waiting) if number >= len(lines)]
        for number, line in enumerate(lines, 1):
            if not is_object(line) or "intervention" not in line or "id" not in line:
                raise FileError(f"{self.path}/samples.jsonl:{number}: expected a sample, found {str(line)[:60]}")
        table = pd.DataFrame([_flat(line) for line in lines])
        for metric in self._metrics_of(lines):
            table[metric] = pd.to_numeric(table[metric])
        table.attrs["partial"] = self.partial
        return table

    @cached_property
    def records(self) -> pd.DataFrame:
        """The records that were tested."""
        import pandas as pd

        return pd.DataFrame(read_lines(self._file("records.jsonl")))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The mean of each metric under each intervention: intervention, metric, condition (NaN: all records together; these
        rows come first), mean, ci_lo, ci_hi, n, control_of, control, and `grid.KEY` for each key of a grid."""
        return self._table(
            (name, metric, condition, estimate)
            for condition, part in self._parts()
            for name, by_metric in part["interventions"].items()
            for metric, estimate in by_metric.items()
            if metric in self.findings["metrics"]
        )

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """What each intervention changed against the baseline: intervention, metric, condition (NaN: all records together;
        these rows come first), diff, ci_lo, ci_hi, p, q, control_mean, control_lo, control_hi, control_rank, n_controls, n, mde,
        vs_controls_diff, vs_controls_ci_lo, …, control_of, control, `grid.KEY`."""
        return self._table(
            (name, metric, condition, {key: value for key, value in contrast.items() if key not in ("versus", "by_condition")})
            for condition, part in self._parts()
            for name, by_metric in part["contrasts"].items()
            for metric, contrast in by_metric.items()
        )

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Interventions with each other, and conditions with each other: kind (`versus`, `by_condition`), intervention, metric,
        other (the other intervention, or `A - B`), condition, diff, ci_lo, ci_hi, p."""
        return self._table(
            (name, metric, condition, {"kind": kind, "other": other, **values})
            for condition, part in self._parts()
            for name, by_metric in part["contrasts"].items()
            for metric, contrast in by_metric.items()
            for kind in ("versus", "by_condition")
            for other, values in contrast.get(kind, {}).items()
        )

    @cached_property
    def findings(self) -> dict[str, Any]:
        """metrics.json as it stands."""
        if self.partial:
            raise FileError(
                f"{self.path}: expected a finished run, found status {self.status!r} (signalbox analyze {self.path} --out DIR gives "
                "what there is so far)"
            )
        return _object(self._file("metrics.json"), _METRICS_SCHEMA)

    @property
    def traces(self) -> dict[str, Trace]:
        """The traces of interventions, where the run has them, by the folder below `traces/`."""
        folder = self.path / "traces"
        files = sorted(folder.rglob("trace.safetensors"))
        return read_traces({str(file.parent.relative_to(folder)): file.parent for file in files})

    @property
    def deals(self) -> dict[str, Run]:
        """The runs of a cross-fitted run, by the folder below `deals/`; they hold its samples."""
        return {file.parent.name: Run(file.parent) for file in sorted((self.path / "deals").glob("*/manifest.json"))}

    def __repr__(self) -> str:
        state = f"partial ({self.status})" if self.partial else self.status
        metrics = ", ".join(self.manifest.get("spec", {}).get("metrics", []))
        return f"<Run {self.path}: {state}, metrics {metrics}>"

    def _file(self, name: str) -> Path:
        file = self.path / name
        if not file.exists():
            why = "it stands in the runs of `deals`" if self.deals else f"status {self.status!r}"
            raise FileError(f"{file}: expected a file of the run, found none ({why})")
        return file

    def _parts(self) -> list[tuple[str | float, dict[str, Any]]]:
        return [(float("nan"), self.findings), *self.findings.get("conditions", {}).items()]

    def _table(self, rows: Any) -> pd.DataFrame:
        import pandas as pd

        about = self.findings["about"]
        out: list[dict[str, Any]] = []
        for name, metric, condition, values in rows:
            one: dict[str, Any] = {"intervention": name, "metric": metric, "condition": condition}
            for key, value in values.items():
                if is_object(value):
                    one |= {f"{key}_{inner}": number for inner, number in value.items()}
                else:
                    one[key] = float("nan") if value is None else value
            one |= {"control_of": about[name]["control_of"], "control": about[name]["control"]}
            one |= {f"grid.{key}": value for key, value in about[name]["grid"].items()}
            out.append(one)
        return pd.DataFrame(out)

    @staticmethod
    def _metrics_of(lines: list[dict[str, Any]]) -> list[str]:
        return list(dict.fromkeys(_column(metric, line) for line in lines for metric in line.get("scores", {})))


def _column(metric: str, line: dict[str, Any]) -> str:
    """A score's column; `scores.METRIC` where the record has a key of that name."""
    return f"scores.{metric}" if metric in line else metric


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "scores"} | {
        _column(metric, line): value for metric, value in line.get("scores", {}).items()
    }


def _object(file: Path, schema: str) -> dict[str, Any]:
    value = read_json(file)
    found = value.get("schema") if is_object(value) else None
    if found != schema:
        raise FileError(f"{file}: expected the schema {schema}, found {found}")
    assert is_object(value)
    return value
