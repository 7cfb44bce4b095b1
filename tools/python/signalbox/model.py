"""Driving the binary: a model that generates, scores and records, and the commands that make tables and runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .analysis import Analysis, read_analysis
from .binary import Flag, call, find_binary, flags_of, json_lines
from .commands import Command
from .domains import DomainStudy, read_domains
from .errors import CommandError
from .given import Edits, Record, Records, absolute, branch_lists, edit_list, is_frame, lines_of, listed_records, named_files, plain
from .json_lines import is_array, is_mapping
from .results import Branch, Branches, Generation, Generations, Routes, Scores, score_of, together
from .run import Run, read_run
from .trace import Trace, read_trace

if TYPE_CHECKING:
    from .engine import Engine, Stream

# Flags that a server takes, for all that it answers.
_SERVED = {"device", "threads", "isa", "numerics", "generation_config", "adapter", "adapter_unmerged", "batch", "chunk", "template_variables", "date"}
_SAMPLING = {"temperature", "top_p", "top_k", "seed", "samples", "stop", "ignore_eos", "logprobs"}


class Model:
    """A model, and what Signalbox can do with it.

    >>> model = signalbox.Model("builtin")
    >>> model
    <Model builtin>
    >>> model.chat("Question: What is the capital of Beltri?").text[0]
    ' Pedkip.'

    `path`: a directory in Hugging Face layout, `org/name` in the local Hugging Face cache, or `builtin`. `binary`: where the
    binary is (else as `find_binary` says). `progress`: print the progress of long commands. Further arguments are flags of
    every call: `device="cpu"`, `threads=8`, `isa="avx2"`.

    The first text, score or branch starts `signalbox serve` on a socket of its own, which keeps the model in memory until
    `close()`, the end of a `with`, or the end of this process, however that comes. Traces, studies and runs are commands,
    and so is what a server does not take: a file of records, spans in edits, flags of a command alone. The bits are the
    same.

    Records are a prompt, a record (a dict with `prompt`, `messages` or `tokens`; docs/data.md), a list or a data frame of
    them, or a `pathlib.Path` of a JSONL file. Those without an `id` get "0", "1", … Edits are a list of edits
    (docs/edits.md), a dict with the key `edits`, or a `pathlib.Path` of such a file; files that they name are relative to the
    working directory, or to that file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, binary: str | os.PathLike[str] | None = None, progress: bool = True, **flags: Flag
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance]: callers without types
            raise TypeError(f"path: expected a directory, org/name or builtin, found {path!r}")
        self.path = os.fspath(path)
        self.binary = find_binary(binary)
        self.progress = progress
        self.flags = flags
        self._engine: Engine | None = None
        self._starting = threading.Lock()

    @property
    def engine(self) -> Engine:
        """The server with the model in memory, started where none runs."""
        with self._starting:
            if self._engine is None or not self._engine.alive:
                from .engine import Engine  # what speaks HTTP is imported when it is needed
                from .server import Server
                from .transport import Transport

                flags = flags_of(self.flags)
                server = Server(self.binary, self.path, flags)
                self._engine = Engine(Transport(f"unix:{server.socket}"), server, argument=self.path, flags=flags)
            return self._engine

    def close(self) -> None:
        """Ends the server, and what runs there; the next call starts another."""
        with self._starting:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    @property
    def info(self) -> dict[str, Any]:
        """What the model is, as `signalbox inspect --json` says.

        >>> model.info["n_layers"]
        6
        """
        out: dict[str, Any] = json.loads(self._call(["inspect", self.path, "--json"]))
        return out

    def generate(self, records: Records, *, max_tokens: int | None = 64, edits: Edits = None, **flags: Any) -> Generations:
        """Generates: a list of `Generation` with id, sample, text, tokens (generated), prompt_tokens, finish_reason and
        logits_hash, each with `command()`; `to_frame()` is the table, a row for every sample.

        Flags are those of the command: `temperature=0.8, samples=4, seed=1, top_p=0.9, stop=["\\n"], ignore_eos=True`; and
        `logprobs=True` for those of the generated tokens.

        >>> beltri = {"messages": [{"role": "user", "content": "Question: What is the capital of Beltri?"}]}
        >>> model.generate(beltri, edits=[{"op": "top_k", "k": 1}], max_tokens=8)[0].text
        ' Pedkip.'
        >>> print(model.generate({"id": "prompt", "prompt": "Once upon a time"}, max_tokens=4).command(), end="")
        signalbox generate builtin --prompt 'Once upon a time' --max-tokens 4 --json
        """
        records, wanted, flags = _once(records), edit_list(edits), _given_flags(flags)
        if max_tokens is not None and self._served(records, wanted, flags, _SAMPLING, goes_on=True):
            return self.engine.generate(records, max_tokens=max_tokens, edits=wanted, **flags)
        asked, lines = self._records_command("generate", records, wanted, edits, max_tokens=max_tokens, **flags)
        rows = [
            Generation(one["id"], one["sample"], one["text"], one["tokens"], one["prompt_tokens"], one["finish_reason"], one["logits_hash"], asked=asked)
            for one in lines
        ]
        return Generations(rows, asked.text)

    def chat(self, text: str | Sequence[str], *, max_tokens: int | None = 64, edits: Edits = None, **flags: Any) -> Generations:
        """As `generate`, of one user message, or of several questions by themselves."""
        if not hasattr(text, "__iter__"):
            raise TypeError(f"text: expected one, or several, found {text!r}")
        texts = [text] if isinstance(text, str) else text
        messages = [{"messages": [{"role": "user", "content": one}]} for one in texts]
        return self.generate(messages, max_tokens=max_tokens, edits=edits, **flags)

    def stream(self, record: str | Record, *, edits: Edits = None, **sampling: Any) -> Stream:
        """The tokens of one text as they are generated: an iterator of `Token`. Leaving it ends the generation.

        >>> "".join(token.text for token in model.stream("Once upon a time", max_tokens=4))
        ' a young crow'
        """
        return self.engine.stream(record, edits=edits, **sampling)

    def stream_branches(self, record: str | Record, branches: Mapping[str, Edits], **sampling: Any) -> Stream:
        """As `branches`, token by token: an iterator of `Token`, each with its branch, whose `result` is there at its end."""
        return self.engine.stream_branches(record, branches, **sampling)

    def routes(self, record: str | Record, *, max_tokens: int = 64, edits: Edits = None, **sampling: Any) -> Routes:
        """One text and the experts that each of its tokens went through, without a file.

        >>> routes = model.routes("Once upon a time", max_tokens=4)
        >>> routes.text, routes.ids.shape
        (' a young crow', (9, 5, 4))
        """
        return self.engine.routes(record, max_tokens=max_tokens, edits=edits, **sampling)

    def score(self, records: Records, *, edits: Edits = None, **flags: Any) -> Scores:
        """Log-probabilities of given text: a list of `Score` with id, tokens, logprobs (natural; `logprobs[i]` is that of
        `tokens[i + 1]`), target_start, sum_logprob and logits_hash; `to_frame()` is the table.

        >>> scores = model.score([{"prompt": "The capital of Beltri is", "target": " Pedkip."},
        ...                       {"prompt": "The capital of Beltri is", "target": " Monsul."}])
        >>> scores.sum_logprob[0] > scores.sum_logprob[1]
        True
        """
        records, wanted, flags = _once(records), edit_list(edits), _given_flags(flags)
        if self._served(records, wanted, flags, {"seed"}):
            return self.engine.score(records, edits=wanted, **flags)
        asked, lines = self._records_command("score", records, wanted, edits, **flags)
        return Scores([score_of(line, asked) for line in lines], asked.text)

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
            with _given(records, edits) as given:
                self._call(["trace", self.path, "--out", str(folder), *given,
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
            with _given(records, edits) as given:
                printed = self._call(["domains", self.path, "--out", str(folder), "--json", *given,
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
        **flags: Any,
    ) -> Branches:
        """One prompt, continued without edits (`baseline`) and under each list of edits, side by side in one batch that
        shares the prompt: a list of `Branch` with branch, sample, text, tokens, finish_reason and diverges_at, the first
        generated token that is not the baseline's (None where all are). `branches["worst"]` is one by its name.

        `generate`: further keys of an experiment's `generate` (docs/experiments.md).

        >>> question = {"messages": [{"role": "user", "content": "Question: What is the capital of Beltri?"}]}
        >>> found = model.branches(question, {"worst": [{"op": "misroute", "policy": "worst"}]}, max_tokens=4)
        >>> [(one.branch, one.diverges_at) for one in found]
        [('baseline', None), ('worst', 0)]
        """
        lists = branch_lists(branches)
        every = [edit for edits in lists.values() for edit in edits]
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, **_given_flags(generate or {})}
        if samples == 1 and self._served([record], every, {**sampling, **flags}, {"max_tokens", "temperature", "top_p", "top_k", "seed", "ignore_eos"}):
            return self.engine.branches(record, lists, **sampling, **flags)
        interventions: list[dict[str, Any]] = [{"name": "baseline"}, *({"name": name, "edits": edits} for name, edits in lists.items())]
        spec = {
            "data": "records.jsonl",
            "generate": {"max_tokens": max_tokens, "temperature": temperature, "samples": samples, **(generate or {})},
            "interventions": interventions,
            "controls": {"random": 0, "bottom": False},
            "metrics": ["repetition"],
            "seeds": [seed],
        }
        with _our_files("signalbox-branches-") as folder:
            (folder / "records.jsonl").write_text(lines_of(record), encoding="utf-8")
            table = self._run(spec, folder / "run", folder, flags).samples
        found = {(str(row["intervention"]), int(row["sample"])): row for row in table.to_dict("records")}
        how = flags_of({"max_tokens": max_tokens, "temperature": temperature or None, "samples": samples, "seed": seed or None, **(generate or {}), **self.flags})
        rows: list[Branch] = []
        for name in ("baseline", *lists):
            edits = lists.get(name, [])
            asked = Command("generate", self.path, listed_records(record), edits, how)
            for sample in range(samples):
                row, base = found[name, sample], found["baseline", sample]
                rows.append(
                    Branch(name, sample, row["text"], row["tokens"], row["finish_reason"], _diverges_at(row["tokens"], base["tokens"]),
                           edited_tokens=int(row["edited_tokens"]), edits=edits, asked=asked)
                )  # fmt: skip
        return Branches(rows, lambda: together(rows))

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
        with _our_files("signalbox-spec-") as folder:
            file = folder / "experiment.json"
            file.write_text(json.dumps({"model": model, **absolute(spec, base)}, ensure_ascii=False, default=plain))
            self._call(["run", str(file), *more])
        return read_run(out)

    def __repr__(self) -> str:
        return f"<Model {self.path}>"

    def _call(self, arguments: Sequence[str]) -> str:
        return call(self.binary, arguments, progress=self.progress)

    def _served(self, records: Records, edits: list[Any], flags: Mapping[str, Any], known: set[str], goes_on: bool = False) -> bool:
        """Can a server answer this? What it cannot take is a command, whose errors name the place in the records."""
        if isinstance(records, os.PathLike) or not set(flags) <= known or not set(self.flags) <= _SERVED:
            return False
        listed = listed_records(records)
        if len({json.dumps(record["id"]) for record in listed}) < len(listed):
            return False
        for record in listed:
            one_of = [key for key in ("prompt", "messages", "tokens") if record.get(key)]
            if len(one_of) != 1 or not isinstance(record["id"], str):
                return False
            if goes_on and ("target" in record or (record.get("spans") and _names_spans(edits))):
                return False
        return all(file.is_file() for file in named_files(edits))

    def _records_command(self, command: str, records: Records, wanted: list[Any], edits: Edits, **flags: Flag) -> tuple[Command, list[dict[str, Any]]]:
        more = flags_of({**self.flags, **flags})
        with _given(records, edits if isinstance(edits, os.PathLike) else wanted or None) as given:
            printed = self._call([command, self.path, "--json", *given, *more])
        return Command(command, self.path, listed_records(records), wanted, more), json_lines(printed)


def _once(records: Records) -> Records:
    """What can be read but once as a list."""
    again = isinstance(records, (str, os.PathLike)) or is_mapping(records) or is_frame(records) or not hasattr(records, "__iter__")
    return records if again else list(cast("Iterable[str | Record]", records))


def _given_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are None, which is as if they were not there."""
    return {name: value for name, value in flags.items() if value is not None}


def _names_spans(value: Any) -> bool:
    if is_mapping(value):
        return any(key in ("span", "spans") or _names_spans(one) for key, one in value.items())
    return is_array(value) and any(map(_names_spans, value))


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


@contextlib.contextmanager
def _given(records: Records | None, edits: Edits) -> Generator[list[str], None, None]:
    """Flags that name records, where there are any, and edits as the files that a command reads, for as long as it runs."""
    with _our_files("signalbox-") as folder:
        flags: list[str] = []
        if isinstance(records, os.PathLike):
            flags += ["--input", os.fspath(records)]
        elif records is not None:
            file = folder / "records.jsonl"
            file.write_text(lines_of(records), encoding="utf-8")
            flags += ["--input", str(file)]
        if isinstance(edits, os.PathLike):
            flags += ["--edits", os.fspath(edits)]
        elif edits is not None:
            file = folder / "edits.json"
            file.write_text(json.dumps({"edits": edit_list(edits)}, ensure_ascii=False))
            flags += ["--edits", str(file)]
        yield flags


@contextlib.contextmanager
def _our_files(prefix: str) -> Generator[Path, None, None]:
    """A folder for the files of one command, whose errors name what was given, and not these files: they will be gone."""
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        try:
            yield Path(folder)
        except CommandError as error:
            first, *more = str(error).split("; ")
            text = "; ".join([first, *(part for part in more if folder not in part)])
            text = re.sub(re.escape(f"{folder}/records.jsonl") + r":(\d+)", lambda found: f"records[{int(found[1]) - 1}]", text)
            for file, name in (("records.jsonl", "records"), ("edits.json: ", ""), ("edits.json", "edits"), ("experiment.json", "spec")):
                text = text.replace(f"{folder}/{file}", name)
            error.args = (text,)
            raise


def _diverges_at(tokens: list[int], baseline: list[int]) -> int | None:
    for i, (one, other) in enumerate(zip(tokens, baseline)):
        if one != other:
            return i
    return None if len(tokens) == len(baseline) else min(len(tokens), len(baseline))


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
