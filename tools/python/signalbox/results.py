"""What a model answers: texts, scores, branches and routes, each with the command that gives it again and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from .commands import Command

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray[Any, Any]
Row = TypeVar("Row")


class Rows(Sequence[Row], Generic[Row]):
    """Answers in order, as a list of them and as a table."""

    _optional: tuple[str, ...] = ()  # columns that are left out where no row has a value

    def __init__(self, rows: Sequence[Row], command: Callable[[], str]) -> None:
        self._rows = list(rows)
        self._command = command

    def command(self) -> str:
        """The lines of a shell that give the same again, bit by bit."""
        return self._command()

    def to_frame(self) -> pd.DataFrame:
        """A row for each, a column for each of their values."""
        import pandas as pd

        table = pd.DataFrame([_columns_of(row) for row in self._rows])
        return table.drop(columns=[name for name in self._optional if name in table and table[name].isna().all()])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    @overload
    def __getitem__(self, index: str) -> Any: ...
    def __getitem__(self, index: int | slice | str) -> Any:
        """A row, several, or by its name a value of all of them."""
        if not isinstance(index, str):
            return self._rows[index]
        found = [_columns_of(row) for row in self._rows]
        if found and index not in found[0]:
            raise KeyError(f"{type(self).__name__}: expected one of {', '.join(found[0])}, found {index!r}")
        return [row[index] for row in found]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)}>"


def _columns_of(row: Any) -> dict[str, Any]:
    hidden = {one.name for one in dataclasses.fields(row) if not one.metadata.get("column", True)}
    values = {one.name: getattr(row, one.name) for one in dataclasses.fields(row) if one.name not in hidden}
    more = values.pop("more", {})
    return {**values, **more}


def _hidden(default: Any = None) -> Any:
    return field(default=default, repr=False, compare=False, metadata={"column": False})


@dataclass(frozen=True)
class Generation:
    """A generated text.

    `tokens`: the generated ids, an end token too. `prompt_tokens`: how many were given. `finish_reason`: `eos`, `stop` or
    `length`. `logits_hash`: equal hashes mean equal bits. `logprobs`: of each generated token, where they were asked for.
    """

    id: str
    sample: int
    text: str
    tokens: list[int]
    prompt_tokens: int
    finish_reason: str
    logits_hash: str
    seed: int | None = None
    logprobs: list[float] | None = None
    asked: Command | None = _hidden()

    def command(self) -> str:
        """The lines of a shell that give this text again, bit by bit."""
        return _text_of(self.asked)


class Generations(Rows[Generation]):
    """Generated texts, prompt after prompt, and of each its samples."""

    _optional = ("seed", "logprobs")

    @property
    def id(self) -> list[str]:
        return [row.id for row in self]

    @property
    def sample(self) -> list[int]:
        return [row.sample for row in self]

    @property
    def prompt_tokens(self) -> list[int]:
        return [row.prompt_tokens for row in self]

    @property
    def finish_reason(self) -> list[str]:
        return [row.finish_reason for row in self]

    @property
    def text(self) -> list[str]:
        return [row.text for row in self]

    @property
    def tokens(self) -> list[list[int]]:
        return [row.tokens for row in self]

    @property
    def logits_hash(self) -> list[str]:
        return [row.logits_hash for row in self]


@dataclass(frozen=True)
class Score:
    """Log-probabilities of a given text: `logprobs[i]`, natural, is that of `tokens[i + 1]`. `target_start`: where the
    record's target begins in `tokens`; None without one, and `sum_logprob` is of all then. `more`: further values that the
    command gives."""

    id: str
    tokens: list[int]
    logprobs: list[float]
    target_start: int | None
    sum_logprob: float
    logits_hash: str
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: Command | None = _hidden()

    def command(self) -> str:
        """The lines of a shell that give these numbers again, bit by bit."""
        return _text_of(self.asked)


class Scores(Rows[Score]):
    """Scores, a record after the other."""

    @property
    def id(self) -> list[str]:
        return [row.id for row in self]

    @property
    def tokens(self) -> list[list[int]]:
        return [row.tokens for row in self]

    @property
    def target_start(self) -> list[int | None]:
        return [row.target_start for row in self]

    @property
    def logprobs(self) -> list[list[float]]:
        return [row.logprobs for row in self]

    @property
    def sum_logprob(self) -> list[float]:
        return [row.sum_logprob for row in self]

    @property
    def logits_hash(self) -> list[str]:
        return [row.logits_hash for row in self]


@dataclass(frozen=True)
class Branch:
    """One version of a text. `diverges_at`: the first generated token, from 0, that is not the first branch's; None where
    all are."""

    branch: str
    sample: int
    text: str
    tokens: list[int]
    finish_reason: str
    diverges_at: int | None
    logits_hash: str | None = None
    edited_tokens: int | None = None
    edits: list[dict[str, Any]] = _hidden()
    asked: Command | None = _hidden()

    def command(self) -> str:
        """The lines of a shell that give this branch again, bit by bit."""
        return _text_of(self.asked)


class Branches(Rows[Branch]):
    """Versions of one text, by name: `branches["worst"].text`."""

    _optional = ("edited_tokens", "logits_hash")

    @overload
    def __getitem__(self, index: int) -> Branch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Branch]: ...
    @overload
    def __getitem__(self, index: str) -> Branch: ...
    def __getitem__(self, index: int | slice | str) -> Any:
        """A row, several, or the first of a branch's name."""
        if not isinstance(index, str):
            return self._rows[index]
        for row in self._rows:
            if row.branch == index:
                return row
        raise KeyError(f"branches: expected one of {', '.join(dict.fromkeys(row.branch for row in self._rows))}, found {index!r}")

    @property
    def branch(self) -> list[str]:
        return [row.branch for row in self]

    @property
    def text(self) -> list[str]:
        return [row.text for row in self]

    @property
    def tokens(self) -> list[list[int]]:
        return [row.tokens for row in self]

    @property
    def diverges_at(self) -> list[int | None]:
        return [row.diverges_at for row in self]

    def to_frame(self) -> pd.DataFrame:
        """A row for each branch and sample; `diverges_at` is NaN where the texts are the same."""
        return super().to_frame().astype({"diverges_at": float})


@dataclass(frozen=True)
class Token:
    """One token of a text as it is generated: its branch, its place among the generated ones and in the whole text, its id,
    the text that it adds, its natural log-probability, and the most probable ones there, (text, log-probability)."""

    branch: str
    index: int
    position: int
    token: int
    text: str
    logprob: float
    top: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])


@dataclass(frozen=True)
class Routes:
    """A text and the experts that each of its tokens went through, as applied.

    T tokens, given and generated; L layers with a router; k slots. `ids` [T, L, k] (masked where a slot is unused),
    `weights` [T, L, k], `margin` [T, L] (NaN where the router gave none), `layers` [L] absolute, `tokens` [T], `pieces` the
    text that each adds, `logprobs` [T] (NaN for the first), `given` how many were given.
    """

    id: str
    tokens: Array
    pieces: list[str]
    logprobs: Array
    given: int
    layers: Array
    ids: Array
    weights: Array
    margin: Array
    n_experts: int
    finish_reason: str
    logits_hash: str
    asked: Command | None = _hidden()

    @property
    def text(self) -> str:
        """What was generated."""
        return "".join(self.pieces[self.given :])

    def command(self) -> str:
        """The lines of a shell that give this text again, bit by bit."""
        return _text_of(self.asked)

    def to_frame(self) -> pd.DataFrame:
        """A row for every token, layer and used slot, with the columns of `Trace.frame`: sample, position, phase, token, text,
        layer, slot, expert, weight."""
        import pandas as pd

        n_tokens, n_layers, n_slots = map(int, self.ids.shape)
        per_token = n_layers * n_slots
        codes, names = pd.factorize(np.array(self.pieces, dtype=object))
        phase = (np.arange(n_tokens) >= self.given).astype(np.int8)
        table = pd.DataFrame(
            {
                "sample": pd.Categorical.from_codes(np.zeros(n_tokens * per_token, dtype=np.int8), categories=pd.Index([self.id])),
                "position": np.repeat(np.arange(n_tokens), per_token),
                "phase": pd.Categorical.from_codes(np.repeat(phase, per_token), categories=pd.Index(["given", "generated"])),
                "token": np.repeat(self.tokens, per_token),
                "text": pd.Categorical.from_codes(np.repeat(codes, per_token), categories=pd.Index(names)),
                "layer": np.tile(np.repeat(self.layers, n_slots), n_tokens),
                "slot": np.tile(np.arange(n_slots), n_tokens * n_layers),
                "expert": np.ma.getdata(self.ids).reshape(-1).astype(np.int32),
                "weight": self.weights.reshape(-1).astype(np.float32),
            }
        )
        mask = np.ma.getmaskarray(self.ids).reshape(-1)
        return table[~mask].reset_index(drop=True) if mask.any() else table

    def __repr__(self) -> str:
        return f"<Routes {self.id}: {len(self.tokens)} tokens, {len(self.layers)} layers, {self.ids.shape[2]} of {self.n_experts} experts>"


def _text_of(asked: Command | None) -> str:
    if asked is None:
        raise ValueError("command: expected an answer of a model, found one that was made otherwise")
    return asked.text()


def together(rows: Sequence[Generation] | Sequence[Score] | Sequence[Branch]) -> str:
    """Commands one after the other, each once."""
    return "\n".join(dict.fromkeys(row.command() for row in rows))


def score_of(line: Mapping[str, Any], asked: Command) -> Score:
    """A line of `score --json`."""
    known = ("id", "tokens", "logprobs", "target_start", "sum_logprob", "logits_hash")
    more = {name: value for name, value in line.items() if name not in (*known, "timings")}
    return Score(line["id"], line["tokens"], line["logprobs"], line.get("target_start"), line["sum_logprob"], line["logits_hash"], more, asked)


def masked(raw: Array) -> Array:
    """Ids whose unused slots (the largest value of their type) are masked; as they are where there are none."""
    unused = raw == np.iinfo(raw.dtype).max
    if not unused.any():
        return raw
    signed = raw.astype(np.int16 if raw.dtype == np.uint8 else np.int32)
    signed[unused] = -1
    return np.ma.MaskedArray(signed, mask=unused, fill_value=-1)
