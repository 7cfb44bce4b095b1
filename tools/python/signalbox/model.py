"""Driving the binary: a model that generates, scores and records, and the commands that make tables and runs."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .analysis import Analysis, read_analysis
from .binary import Flag, call, find_binary, flags_of, json_lines
from .domains import DomainStudy, read_domains
from .run import Run, read_run
from .trace import Trace, read_trace

if TYPE_CHECKING:
    import pandas as pd

Record: TypeAlias = Mapping[str, Any]
Records: TypeAlias = "str | Record | Iterable[str | Record] | pd.DataFrame | os.PathLike[str]"
Edits: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any]] | os.PathLike[str] | None"


class Model:
    """A model, and what Signalbox can do with it. Each call runs the binary once; nothing stays in memory between calls.

    >>> model = signalbox.Model("builtin")
    >>> model
    <Model builtin>
    >>> model.chat("Question: What is the capital of Beltri?").text[0]
    ' Pedkip.'

    `path`: a directory in Hugging Face layout, `org/name` in the local Hugging Face cache, or `builtin`. `binary`: where the
    binary is (else as `find_binary` says). `progress`: print the progress of long commands. Further arguments are flags of
    every call: `device="cpu"`, `threads=8`, `isa="avx2"`.

    Records are a prompt, a record (a dict with `prompt`, `messages` or `tokens`; docs/data.md), a list or a data frame of
    them, or a `pathlib.Path` of a JSONL file. Those without an `id` get "0", "1", … Edits are a list of edits
    (docs/edits.md), a dict with the key `edits`, or a `pathlib.Path` of such a file; files that they name are relative to the
    working directory, or to that file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, binary: str | os.PathLike[str] | None = None, progress: bool = True, **flags: Flag
    ) -> None:
        self.path = os.fspath(path)
        self.binary = find_binary(binary)
        self.progress = progress
        self.flags = flags

    @property
    def info(self) -> dict[str, Any]:
        """What the model is, as `signalbox inspect --json` says.

        >>> model.info["n_layers"]
        6
        """
        out: dict[str, Any] = json.loads(self._call(["inspect", self.path, "--json"]))
        return out

    def generate(self, records: Records, *, max_tokens: int = 64, edits: Edits = None, **flags: Flag) -> pd.DataFrame:
        """Generates, a row for every sample: id, sample, text, tokens (generated), prompt_tokens, finish_reason, logits_hash.

        Flags are those of the command: `temperature=0.8, samples=4, seed=1, top_p=0.9, stop=["\\n"], ignore_eos=True`.

        >>> beltri = {"messages": [{"role": "user", "content": "Question: What is the capital of Beltri?"}]}
        >>> model.generate(beltri, edits=[{"op": "top_k", "k": 1}], max_tokens=8).text[0]
        ' Pedkip.'
        """
        return self._records_command("generate", records, edits, max_tokens=max_tokens, **flags)

    def chat(self, text: str | Sequence[str], *, max_tokens: int = 64, edits: Edits = None, **flags: Flag) -> pd.DataFrame:
        """As `generate`, of one user message, or of several questions by themselves."""
        texts = [text] if isinstance(text, str) else text
        messages = [{"messages": [{"role": "user", "content": one}]} for one in texts]
        return self.generate(messages, max_tokens=max_tokens, edits=edits, **flags)

    def score(self, records: Records, *, edits: Edits = None, **flags: Flag) -> pd.DataFrame:
        """Log-probabilities of given text, a row for every record: id, tokens, logprobs (natural; `logprobs[i]` is that of
        `tokens[i + 1]`), target_start, sum_logprob, logits_hash.

        >>> scores = model.score([{"prompt": "The capital of Beltri is", "target": " Pedkip."},
        ...                       {"prompt": "The capital of Beltri is", "target": " Monsul."}])
        >>> bool(scores.sum_logprob[0] > scores.sum_logprob[1])
        True
        """
        return self._records_command("score", records, edits, **flags)

    def trace(
        self,
        records: Records,
        out: str | os.PathLike[str] | None = None,
        *,
        generate: int | None = None,
        points: str | Sequence[str] | None = None,
        edits: Edits = None,
        **flags: Flag,
    ) -> Trace:
        """Records routes, and the other `points`, over the given tokens and `generate` new ones.

        `out`: the trace's directory; without it a temporary one, which is removed with the trace.

        >>> trace = model.trace("The capital of Beltri is", points="router.*,layer.3.resid_out")
        >>> trace["layer.3.resid_out"].shape[0] == len(trace.tokens)
        True
        """
        folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="signalbox-trace-"))
        wanted = ",".join(points) if points is not None and not isinstance(points, str) else points
        try:
            with _Given(records, edits) as given:
                self._call(["trace", self.path, "--out", str(folder), *given.flags,
                            *flags_of({"generate": generate, "points": wanted, **self.flags, **flags})])  # fmt: skip
            trace = read_trace(folder)
        except BaseException:
            if out is None:
                _remove(folder)
            raise
        if out is None:
            weakref.finalize(trace, _remove, folder)
        return trace

    def domains(
        self,
        records: Records | None = None,
        out: str | os.PathLike[str] | None = None,
        *,
        new_tokens: int = 100,
        edits: Edits = None,
        **flags: Flag,
    ) -> DomainStudy:
        """Do domains of prompts use experts of their own, and do tokens stay with an expert? Runs `signalbox domains`, and goes
        on with it where `out` has a part of the same study.

        `records` have a key `domain`; None: fifty prompts of the binary's own. `out`: the study's directory; without it a
        temporary one, which is removed with the study. Flags are those of the command: `resamples=199, phase="generated"`.

        >>> texts = [{"prompt": f"{i} + {i} =", "domain": "sums"} for i in range(2)] + [{"prompt": "Once", "domain": "story"}]
        >>> study = model.domains(texts, new_tokens=2, resamples=19)
        >>> len(study.trace.samples), study.findings[0][:29]
        (3, 'Domains use different experts')
        """
        folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="signalbox-domains-"))
        try:
            with _Given(records, edits) as given:
                printed = self._call(["domains", self.path, "--out", str(folder), "--json", *given.flags,
                                      *flags_of({"new_tokens": new_tokens, **self.flags, **flags})])  # fmt: skip
            study = read_domains(folder, json.loads(printed))
        except BaseException:
            if out is None:
                _remove(folder)
            raise
        if out is None:
            weakref.finalize(study, _remove, folder)
        return study

    def branches(
        self,
        record: str | Record,
        branches: Mapping[str, Edits],
        *,
        max_tokens: int = 64,
        temperature: float = 0,
        samples: int = 1,
        seed: int = 0,
        generate: Mapping[str, Any] | None = None,
        **flags: Flag,
    ) -> pd.DataFrame:
        """One prompt, continued without edits (`baseline`) and under each list of edits, side by side in one batch that
        shares the prompt. A row for every branch and sample: branch, sample, text, tokens, finish_reason, edited_tokens, and
        diverges_at: the first generated token that is not the baseline's (NaN where all are).

        `generate`: further keys of an experiment's `generate` (docs/experiments.md).

        >>> question = {"messages": [{"role": "user", "content": "Question: What is the capital of Beltri?"}]}
        >>> model.branches(question, {"worst": [{"op": "misroute", "policy": "worst"}]}, max_tokens=4)[
        ...     ["branch", "diverges_at"]].to_dict("list")
        {'branch': ['baseline', 'worst'], 'diverges_at': [nan, 0.0]}
        """
        if "baseline" in branches:
            raise ValueError("branches: expected names other than baseline, which is the branch without edits, found it")
        interventions: list[dict[str, Any]] = [{"name": "baseline"}, *({"name": name, "edits": _edit_list(edits)} for name, edits in branches.items())]
        spec = {
            "data": "records.jsonl",
            "generate": {"max_tokens": max_tokens, "temperature": temperature, "samples": samples, **(generate or {})},
            "interventions": interventions,
            "controls": {"random": 0, "bottom": False},
            "metrics": ["repetition"],
            "seeds": [seed],
        }
        with tempfile.TemporaryDirectory(prefix="signalbox-branches-") as folder:
            _write_records(record, Path(folder) / "records.jsonl")
            table = self._run(spec, Path(folder) / "run", Path(folder), flags).samples
        table = table.rename(columns={"intervention": "branch"})
        names = [one["name"] for one in interventions]
        table = table.sort_values(by="branch", key=lambda column: column.map(names.index), kind="stable").reset_index(drop=True)
        baseline = {row.sample: row.tokens for row in table[table.branch == "baseline"].itertuples()}
        table["diverges_at"] = [_diverges_at(row.tokens, baseline[row.sample]) for row in table.itertuples()]
        return table[["branch", "sample", "text", "tokens", "finish_reason", "edited_tokens", "diverges_at"]]

    def run(self, spec: Mapping[str, Any] | os.PathLike[str], out: str | os.PathLike[str], **flags: Flag) -> Run:
        """Runs an experiment (docs/experiments.md) on this model, or goes on with it, and reads what it wrote.

        `spec`: the experiment as a dict, without `model`, whose files are relative to the working directory; or a
        `pathlib.Path` of a spec, as it stands. Flags are those of the command: `limit=20, shard="0/2"`.
        """
        return self._run(spec, Path(out), Path.cwd(), flags)

    def _run(self, spec: Mapping[str, Any] | os.PathLike[str], out: Path, base: Path, flags: Mapping[str, Flag]) -> Run:
        more = ["--out", str(out), *flags_of({**self.flags, **flags})]
        if isinstance(spec, os.PathLike):
            self._call(["run", os.fspath(spec), *more])
            return read_run(out)
        if "model" in spec:
            raise ValueError(f"spec: expected no model beside {self!r}, found {spec['model']!r}")
        model = str(Path(self.path).resolve()) if Path(self.path).exists() else self.path
        with tempfile.TemporaryDirectory(prefix="signalbox-spec-") as folder:
            file = Path(folder) / "experiment.json"
            file.write_text(json.dumps({"model": model, **_absolute(spec, base)}, ensure_ascii=False, default=_plain))
            self._call(["run", str(file), *more])
        return read_run(out)

    def __repr__(self) -> str:
        return f"<Model {self.path}>"

    def _call(self, arguments: Sequence[str]) -> str:
        return call(self.binary, arguments, progress=self.progress)

    def _records_command(self, command: str, records: Records, edits: Edits, **flags: Flag) -> pd.DataFrame:
        import pandas as pd

        with _Given(records, edits) as given:
            printed = self._call([command, self.path, "--json", *given.flags, *flags_of({**self.flags, **flags})])
        return pd.DataFrame(json_lines(printed)).drop(columns="timings", errors="ignore")


def analyze(
    *traces: str | os.PathLike[str] | Trace,
    contrast: tuple[str, str] | None = None,
    out: str | os.PathLike[str] | None = None,
    binary: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **flags: Flag,
) -> Analysis:
    """Makes the tables of traces (`signalbox analyze`) and reads them. `contrast`: two values of the records' `condition`.

    Flags are those of the command: `span="question", phase="generated", tables="transitions,balance", seed=1`.

    >>> signalbox.analyze("out/trace", tables="balance", out="out/balance", progress=False)["balance"].columns[:3].tolist()
    ['layer', 'domain', 'entropy']
    """
    folders = [trace.path if isinstance(trace, Trace) else Path(trace) for trace in traces]
    more = {"contrast": ":".join(contrast) if contrast else None, "out": out, **flags}
    call(find_binary(binary), ["analyze", *map(str, folders), *flags_of(more)], progress=progress)
    return read_analysis(out if out is not None else folders[0])


class _Given:
    """Records, where there are any, and edits as the files that a command reads, for as long as it runs."""

    def __init__(self, records: Records | None, edits: Edits) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="signalbox-")
        self.flags: list[str] = []
        try:
            if isinstance(records, os.PathLike):
                self.flags += ["--input", os.fspath(records)]
            elif records is not None:
                file = Path(self._folder.name) / "records.jsonl"
                _write_records(records, file)
                self.flags += ["--input", str(file)]
            if isinstance(edits, os.PathLike):
                self.flags += ["--edits", os.fspath(edits)]
            elif edits is not None:
                file = Path(self._folder.name) / "edits.json"
                file.write_text(json.dumps({"edits": _absolute(_edit_list(edits), Path.cwd())}, ensure_ascii=False))
                self.flags += ["--edits", str(file)]
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> _Given:
        return self

    def __exit__(self, *unused: object) -> None:
        self._folder.cleanup()


def _write_records(records: Records, file: Path) -> None:
    if isinstance(records, (str, Mapping)):
        listed: Iterable[Any] = [records]
    elif hasattr(records, "to_dict"):
        listed = [{key: value for key, value in row.items() if not _is_missing(value)} for row in records.to_dict("records")]
    else:
        listed = records  # type: ignore[assignment]
    lines = []
    for i, record in enumerate(listed):
        whole = {"prompt": record} if isinstance(record, str) else dict(record)
        lines.append(json.dumps({"id": str(i), **whole}, ensure_ascii=False, default=_plain) + "\n")
    file.write_text("".join(lines), encoding="utf-8")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"records: expected values that JSON has, found {type(value).__name__}")


def _edit_list(edits: Edits) -> list[Any]:
    if edits is None:
        return []
    if isinstance(edits, str):
        raise TypeError(f"edits: expected a list, a dict or a pathlib.Path, found the text {edits!r}")
    if isinstance(edits, os.PathLike):
        file = Path(edits)
        return list(_absolute(json.loads(file.read_text())["edits"], file.resolve().parent))
    if isinstance(edits, Mapping):
        if "edits" not in edits:
            raise ValueError(f"edits: expected a list, or a dict with the key edits, found the keys {', '.join(edits)}")
        return list(edits["edits"])
    return list(edits)


# Keys of edits and experiments whose texts name a file, and those with FILE:tensor.
_FILES = {"data", "trace", "rates", "mean_of", "from"}
_TENSORS = {"vector", "value"}


def _absolute(value: Any, base: Path, key: str = "") -> Any:
    """The same, with names of files that hold wherever the spec lies. `detect:contrast` and `zero` name none."""
    if isinstance(value, Mapping):
        return {name: _absolute(one, base, name) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_absolute(one, base, key) for one in value]
    if not isinstance(value, (str, os.PathLike)):
        return value
    text = os.fspath(value)
    if key in _TENSORS and ":" in text:
        file, _, tensor = text.rpartition(":")
        return f"{(base / file).resolve()}:{tensor}"
    if key in _FILES and (":" not in text or (base / text).exists()):
        return str((base / text).resolve())
    return text


def _diverges_at(tokens: list[int], baseline: list[int]) -> float:
    for i, (one, other) in enumerate(zip(tokens, baseline)):
        if one != other:
            return i
    return float("nan") if len(tokens) == len(baseline) else min(len(tokens), len(baseline))


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
