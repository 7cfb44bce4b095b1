"""A running server and what can be asked of it: one model in memory, any number of calls."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .binary import Flag, flags_of
from .commands import Command
from .errors import Error
from .given import Edits, Record, Records, branch_lists, edit_list, listed_records, named_files, one_record, plain, refuse_unknown
from .json_lines import is_array, is_mapping
from .results import Branch, Branches, Generation, Generations, Routes, Score, Scores, Token, masked, score_of, together
from .server import Server
from .tensor_file import numpy_type
from .transport import Events, Transport

_WATCHED = "*.router.ids,*.router.weights,*.router.margin"
_AT_ONCE = 8
# What streams take beside a record and edits, and what it is unless given; `top`: alternatives listed with each token.
STREAMED: dict[str, Any] = {"max_tokens": 64, "temperature": 0, "top_p": 1, "top_k": 0, "seed": 0, "ignore_eos": False, "top": 0}
_T = TypeVar("_T")


def connect(url: str, key: str | None = None) -> Engine:
    """An engine elsewhere: `signalbox serve` at `http://HOST:PORT`, or `unix:PATH`. `key`: one of its `--api-key-file`.

    Edits name files there only as `asset:NAME`, of the server's `--assets`.
    """
    engine = Engine(Transport(url, key))
    engine.info  # a wrong address or key shows here
    return engine


class Engine:
    """A model on a server. Answers are the command line's, bit by bit, whatever else the server does.

    Records are a prompt, a dict with `prompt`, `messages` or `tokens`, a list or a data frame of them. Edits are a list of
    dicts (docs/edits.md), a dict with the key `edits`, or a `pathlib.Path` of such a file.
    """

    def __init__(self, transport: Transport, server: Server | None = None, *, argument: str | None = None, flags: Sequence[str] = ()) -> None:
        self.transport = transport
        self._server = server
        self._argument = argument
        self._flags = list(flags)
        self._lock = threading.Lock()
        self._info: dict[str, Any] | None = None
        self._name: str | None = None

    # ---- the model

    @property
    def info(self) -> dict[str, Any]:
        """What the model is, as `signalbox inspect --json` says."""
        if self._info is None:
            self._info = dict(self.transport.get("/signalbox/v1/model"))
        return self._info

    @property
    def name(self) -> str:
        """The served name, which requests give as `model`."""
        if self._name is None:
            self._name = str(self.transport.get("/v1/models")["data"][0]["id"])
        return self._name

    @property
    def argument(self) -> str:
        """MODEL as commands name it."""
        return self._argument or str(self.info["model"])

    @property
    def n_experts(self) -> int:
        return max((int(layer["router"]["n_experts"]) for layer in self.info["layers"] if layer.get("router")), default=0)

    @property
    def layers(self) -> list[int]:
        """Absolute indices of the layers with a router."""
        return [int(layer["layer"]) for layer in self.info["layers"] if layer.get("router")]

    # ---- texts

    def generate(
        self,
        records: Records,
        *,
        max_tokens: int = 64,
        edits: Edits = None,
        temperature: float = 0,
        top_p: float = 1,
        top_k: int = 0,
        seed: int = 0,
        samples: int = 1,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        logprobs: bool = False,
    ) -> Generations:
        """Generates `samples` texts of each record. Several records run at once, in the server's batches."""
        listed, wanted = listed_records(records), edit_list(edits)
        stops = [stop] if isinstance(stop, str) else list(stop)
        sampling = {
            "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed, "n": samples,
            **({"stop": stops} if stops else {}), **({"ignore_eos": True} if ignore_eos else {}),
        }  # fmt: skip
        flags = self._sampling_flags(sampling, wanted)
        sent = self.sent(wanted)

        def ask(record: Record) -> list[Generation]:
            path, body = self._request(record, sampling, sent, logprobs)
            answer = self.transport.post(path, body)
            asked = Command("generate", self.argument, [record], wanted, flags)
            return [_generation(choice, asked) for choice in answer["choices"]]

        rows = [row for rows in self._each(listed, ask) for row in rows]
        return Generations(rows, Command("generate", self.argument, listed, wanted, flags).text)

    def chat(self, text: str | Sequence[str], **sampling: Any) -> Generations:
        """As `generate`, of one user message, or of several questions by themselves."""
        texts = [text] if isinstance(text, str) else text
        return self.generate([{"messages": [{"role": "user", "content": one}]} for one in texts], **sampling)

    def score(self, records: Records, *, edits: Edits = None, seed: int = 0) -> Scores:
        """Log-probabilities of given text."""
        listed, wanted = listed_records(records), edit_list(edits)
        sent = self.sent(wanted)
        flags = [*(["--seed", str(seed)] if seed else []), *self._flags]

        def ask(record: Record) -> Score:
            body = {"record": record, "seed": seed, **({"edits": sent} if sent else {})}
            line = self.transport.post("/signalbox/v1/score", body)
            return score_of(line, Command("score", self.argument, [record], wanted, flags))

        return Scores(self._each(listed, ask), Command("score", self.argument, listed, wanted, flags).text)

    def branches(
        self,
        record: str | Record,
        branches: Mapping[str, Edits],
        *,
        max_tokens: int = 64,
        temperature: float = 0,
        top_p: float = 1,
        top_k: int = 0,
        seed: int = 0,
        ignore_eos: bool = False,
    ) -> Branches:
        """One record continued without edits (`baseline`) and under each list of edits, side by side: the prompt runs once."""
        with self.stream_branches(
            record, branches, max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, ignore_eos=ignore_eos
        ) as stream:
            for _ in stream:
                pass
            return stream.result

    def stream(self, record: str | Record, *, edits: Edits = None, **sampling: Any) -> Stream:
        """The tokens of one text as they are generated: an iterator of `Token`. Leaving it ends the generation.

        >>> "".join(token.text for token in model.stream("Once upon a time", max_tokens=4))
        ' a young crow'
        """
        return self._stream("stream", record, {"": edit_list(edits)}, sampling)

    def stream_branches(self, record: str | Record, branches: Mapping[str, Edits], **sampling: Any) -> Stream:
        """As `branches`, token by token: an iterator of `Token`, whose `result` is there at its end."""
        return self._stream("stream_branches", record, {"baseline": [], **branch_lists(branches)}, sampling)

    def versions(self, record: str | Record, branches: Mapping[str, Edits], **sampling: Any) -> Stream:
        """As `stream_branches`, with the first of the branches as what the others are compared with."""
        return self._stream("versions", record, branch_lists(branches, baseline=False), sampling)

    def command(self, record: str | Record, edits: Edits = None, **sampling: Any) -> Command:
        """What gives a text of `generate` at the command line."""
        whole, wanted = one_record(record), edit_list(edits)
        return Command("generate", self.argument, [whole], wanted, self._sampling_flags(sampling, wanted))

    def routes(
        self,
        record: str | Record,
        *,
        max_tokens: int = 64,
        edits: Edits = None,
        temperature: float = 0,
        top_p: float = 1,
        seed: int = 0,
        ignore_eos: bool = False,
    ) -> Routes:
        """One text, and the experts that each of its tokens went through, without a file."""
        whole, wanted = one_record(record), edit_list(edits)
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, **({"ignore_eos": True} if ignore_eos else {})}
        # By ids: so that the prompt's words and log-probabilities come with it, of messages too.
        ids = self.prompt_ids(whole)
        own = {"id": whole["id"], "points": _WATCHED, "rows": "all", "format": "base64"}
        sent = self.sent(wanted)
        answer = self.transport.post(
            "/v1/completions",
            {"model": self.name, "prompt": ids, "echo": True, "logprobs": 0, **sampling, "signalbox": {**own, **({"edits": sent} if sent else {})}},
        )
        asked = Command("generate", self.argument, [whole], wanted, self._sampling_flags({**sampling, "top_k": 0, "n": 1}, wanted))
        return self._routes_of(answer["choices"][0], len(ids), str(whole["id"]), asked)

    def prompt_ids(self, record: Record) -> list[int]:
        """The token ids that a record's prompt or messages become."""
        if "tokens" in record:
            return [int(token) for token in record["tokens"]]
        if "prompt" in record:
            return list(self.transport.post("/tokenize", {"prompt": record["prompt"], "add_special_tokens": True})["tokens"])
        path, body = self._request(record, {"max_tokens": 1, "temperature": 0}, [], False)
        return list(self.transport.post(path, body)["choices"][0]["signalbox"]["prompt_token_ids"])

    def check(self, edits: Edits) -> None:
        """Raises RequestError where the edits are not valid for this model."""
        self.transport.post("/signalbox/v1/check", {"edits": self.sent(edit_list(edits))})

    # ---- end

    def close(self) -> None:
        """Ends what runs, and the server where it is our own."""
        self.transport.drop()
        if self._server:
            self._server.close()

    @property
    def alive(self) -> bool:
        """Does a server of our own still run? One elsewhere counts as running."""
        return self._server is None or self._server.alive

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self.transport.address}>"

    # ---- requests

    def sent(self, edits: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Edits as a request may hold them: files of this machine become assets of our own server."""
        return [self._staged(edit) for edit in edits]

    def _staged(self, value: Any, key: str = "") -> Any:
        if is_mapping(value):
            return {name: self._staged(one, name) for name, one in value.items()}
        if is_array(value) or self._server is None:
            return value
        for file in named_files(value, key):
            return f"asset:{self._stage(file)}{value.removeprefix(str(file))}"
        return value

    def _stage(self, file: Path) -> str:
        assert self._server
        if not file.is_file():
            raise Error(f"{file}: expected a file that edits may name, found none")
        with self._lock:
            return self._server.stage(file)

    def _request(self, record: Record, sampling: Mapping[str, Any], edits: Sequence[Any], logprobs: bool) -> tuple[str, dict[str, Any]]:
        own: dict[str, Any] = {"id": record["id"], **({"edits": list(edits)} if edits else {})}
        if "messages" in record:
            messages = record["messages"]
            prefilled = bool(messages) and messages[-1].get("role") == "assistant"
            more: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False} if prefilled else {}
            body = {"model": self.name, "messages": messages, **sampling, **more, "signalbox": {**own, "reasoning": "keep"}}
            return "/v1/chat/completions", {**body, "logprobs": True} if logprobs else body
        if "target" in record:
            raise Error(f"record {record['id']}: expected none with a target, which texts would go on after, found one")
        if "prompt" not in record and "tokens" not in record:
            raise Error(f"record {record['id']}: expected prompt, messages or tokens, found {', '.join(record)}")
        prompt = record["prompt"] if "prompt" in record else record["tokens"]
        body = {"model": self.name, "prompt": prompt, **sampling, "signalbox": own}
        return "/v1/completions", {**body, "logprobs": 0} if logprobs else body

    def _stream(self, call: str, record: str | Record, branches: Mapping[str, list[Any]], sampling: Mapping[str, Any]) -> Stream:
        refuse_unknown(call, sampling, STREAMED)
        whole = one_record(record)
        how = {**STREAMED, **sampling}
        top = how.pop("top")
        sent = [{"name": name, **({"edits": self.sent(edits)} if edits else {})} for name, edits in branches.items()]
        body = {"record": whole, "generate": how, "branches": sent, **({"top": top} if top else {})}
        commands = {
            name: Command("generate", self.argument, [whole], edits, self._sampling_flags({**how, "n": 1}, edits)) for name, edits in branches.items()
        }
        return Stream(self.transport.events("/signalbox/v1/branches", json.dumps(body, default=plain)), commands)

    def _sampling_flags(self, sampling: Mapping[str, Any], edits: Sequence[Mapping[str, Any]]) -> list[str]:
        shown: dict[str, Flag] = {"max_tokens": sampling["max_tokens"]}
        for name, flag, neutral in (("temperature", "temperature", 0), ("top_p", "top_p", 1), ("top_k", "top_k", 0), ("n", "samples", 1), ("seed", "seed", 0)):
            if sampling.get(name, neutral) != neutral:
                shown[flag] = sampling[name]
        shown["stop"] = sampling.get("stop")
        shown["ignore_eos"] = bool(sampling.get("ignore_eos"))
        return [*flags_of(shown), *self._flags]

    def _each(self, records: Sequence[Record], ask: Callable[[Record], _T]) -> list[_T]:
        """`ask` of each record, some at once, in order."""
        if len(records) < 2:
            return [ask(record) for record in records]
        pool = ThreadPoolExecutor(min(_AT_ONCE, len(records)))
        try:
            futures = [pool.submit(ask, record) for record in records]
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            self.transport.drop()
            raise
        finally:
            pool.shutdown()

    def _routes_of(self, choice: Mapping[str, Any], given: int, id: str, asked: Command) -> Routes:
        own, words = choice["signalbox"], choice["logprobs"]
        points = {name.rpartition("router.")[2]: array_of(point) for name, point in own["points"].items()}
        tokens = np.array([*own["prompt_token_ids"], *own["token_ids"]], dtype=np.int32)
        margin = points.get("margin")
        pieces = [_piece(text) for text in words["tokens"]]
        return Routes(
            id, tokens, pieces, np.array([np.nan if value is None else value for value in words["token_logprobs"]]), given,
            np.array(own["layers"], dtype=np.int32), masked(points["ids"]), points["weights"].astype(np.float32),
            margin.astype(np.float32) if margin is not None else np.full(points["ids"].shape[:2], np.nan, dtype=np.float32),
            self.n_experts, str(own["stopped_by"]), str(own["logits_hash"]), asked,
        )  # fmt: skip


class Stream:
    """Tokens as they come: iterate it once. `result`: the whole texts, at its end. `close()`, or leaving a `with`, ends it."""

    def __init__(self, events: Events, commands: Mapping[str, Command]) -> None:
        self._events = events
        self._commands = commands
        self._result: Branches | None = None

    def __iter__(self) -> Iterator[Token]:
        for text in self._events:
            event = json.loads(text)
            if "branches" in event:
                self._take(event["branches"])
            else:
                top = [(str(one["text"]), float(one["logprob"])) for one in event["top"]]
                yield Token(event["branch"], event["index"], event["position"], event["token"], event["text"], event["logprob"], top)

    def _take(self, lines: Iterable[Mapping[str, Any]]) -> None:
        rows: list[Branch] = []
        for line in lines:
            asked = self._commands[line["branch"]]
            at = line["diverges_at"]
            rows.append(
                Branch(line["branch"], 0, line["text"], line["token_ids"], line["stopped_by"],
                       None if at is None else at - len(line["prompt_token_ids"]), line["logits_hash"],
                       edits=[dict(edit) for edit in asked.edits], asked=asked)
            )  # fmt: skip
        self._result = Branches(rows, lambda: together(rows))

    @property
    def result(self) -> Branches:
        if self._result is None:
            raise Error("stream: expected its end before its result is asked for, found it going on, or left")
        return self._result

    def close(self) -> None:
        self._events.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def array_of(point: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """An array of an answer: little-endian base64."""
    raw = np.frombuffer(base64.b64decode(point["data"]), dtype=numpy_type(point["dtype"])).reshape(point["shape"])
    return (raw.astype(np.uint32) << 16).view(np.float32) if point["dtype"] == "BF16" else raw


def _generation(choice: Mapping[str, Any], asked: Command) -> Generation:
    own = choice["signalbox"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    found = choice.get("logprobs")
    values = None
    if found:
        values = [one["logprob"] for one in found["content"]] if "content" in found else list(found["token_logprobs"])
    return Generation(own["id"], own["sample"], text, own["token_ids"], len(own["prompt_token_ids"]), own["stopped_by"], own["logits_hash"],
                      own["seed"], values, asked)  # fmt: skip


def _piece(text: str) -> str:
    """A fragment of a character comes as `bytes:\\xe2\\x80`."""
    return text[6:] if re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", text) else text
