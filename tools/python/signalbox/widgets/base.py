"""What the widgets share: one text of a model, the messages between the browser and the engine, and what is shown of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

try:
    import anywidget
    import traitlets
except ImportError:
    raise ImportError("signalbox.widgets: expected the package anywidget (pip install 'signalbox[widgets]'), found none") from None

from ..commands import Command
from ..engine import Engine
from ..errors import Error, FileError, RequestError
from ..given import Edits, Record, edit_list, kind_of, one_record
from ..json_lines import is_array, is_object
from ..model import Model
from ..results import Routes
from ..transport import Events

if TYPE_CHECKING:
    import pandas as pd

# What a view may ask of the engine.
_ASKED = {
    "/v1/models", "/signalbox/v1/model", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize",
    "/signalbox/v1/score", "/signalbox/v1/branches",
}  # fmt: skip
_COLOURS = ["logprob", "entropy", "margin", "expert", "delta", "none"]
_KEPT = 32


@cache
def _module() -> str:
    file = Path(__file__).resolve().parent.parent / "static/widget.js"
    if not file.is_file():
        raise FileError(f"{file}: expected the widgets' module, which installing the package makes (tools/python/bundle.py), found none")
    return file.read_text(encoding="utf-8")


class TextWidget(anywidget.AnyWidget):
    """One text of a model, given and generated.

    `layer`, `position` and `colour` are what the view's controls say, and can be set. `forks` is the tree of texts as the
    page's export has it.
    """

    kind = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int(-1).tag(sync=True)
    position = traitlets.Int(None, allow_none=True).tag(sync=True)
    colour = traitlets.Enum(_COLOURS, default_value="expert").tag(sync=True)
    forks: traitlets.Dict[str, Any] = traitlets.Dict().tag(sync=True)
    recording = traitlets.Bytes(b"").tag(sync=True)
    pieces: traitlets.List[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        model: Model | Engine | None,
        record: str | Record,
        *,
        max_tokens: int = 48,
        temperature: float = 0,
        top_p: float = 1,
        seed: int = 0,
        ignore_eos: bool = False,
        edits: Edits = None,
        **more: Any,
    ) -> None:
        self._model = model
        self._texts: dict[str, Routes] = {}
        self._asked: dict[str, Events | None] = {}
        self._lock = threading.Lock()
        forks: dict[str, Any] = {}
        if "recording" not in more:
            if not isinstance(model, (Model, Engine)):
                raise TypeError(f"{type(self).__name__}: expected a signalbox.Model, or what signalbox.connect gives, found {kind_of(model)}")
            engine = self._engine
            whole = one_record({"id": "prompt", "prompt": record} if isinstance(record, str) else record)
            given: dict[str, Any] = {key: whole[key] for key in ("prompt", "messages", "tokens") if key in whole}
            if len(given) != 1:
                raise ValueError(f"record: expected one of prompt, messages and tokens, found {', '.join(given) or 'none'}")
            how = {"maxTokens": max_tokens, "temperature": temperature, "topP": top_p, "seed": seed, "ignoreEos": ignore_eos}
            base = fork("base", None, given, how, edit_list(edits))
            forks = {"schema": "signalbox.forks/1", "selected": "base", "compared": None, "nodes": [base]}
            more.setdefault("layer", engine.layers[0])
        super().__init__(_esm=_module(), kind=type(self).__name__, forks=forks, **more)
        self.on_msg(self._hear)  # pyright: ignore[reportUnknownMemberType]: ipywidgets leaves it without types

    # ---- the text

    @property
    def _engine(self) -> Engine:
        if self._model is None:
            raise Error(f"{type(self).__name__}: expected one of a model, found that of a recorded trace, which runs nothing")
        return self._model.engine if isinstance(self._model, Model) else self._model

    @property
    def record(self) -> dict[str, Any]:
        """The record that the text begins with; draws of edits are those of the id `prompt`."""
        return {"id": "prompt", **self._node()["record"]}

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits that hold now: those of the selected text."""
        return self._given_form(self._node()["edits"])

    def spec(self) -> dict[str, Any]:
        """The edits as `edits.json` has them (docs/edits.md); any call takes it as `edits=`."""
        return {"edits": self.edits}

    def command(self) -> str:
        """The lines of a shell that give the shown text again, bit by bit."""
        return self._command(self.edits).text()

    @property
    def text(self) -> str:
        """What the engine generates under `edits`."""
        return self._routes(self._node(), self.edits).text

    def to_frame(self) -> pd.DataFrame:
        raise NotImplementedError

    def snapshot(self) -> Any:
        """What is shown now as HTML that needs no network, no kernel and no widget; the last line of a cell shows it."""
        import IPython.display

        show: Any = IPython.display.HTML
        return show(self._snapshot())

    def _snapshot(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        found: Any = cast(Any, super())._repr_mimebundle_(**kwargs)
        pair = cast("tuple[dict[str, Any], dict[str, Any]]", found if isinstance(found, tuple) else (found or {}, {}))
        data, metadata = {**pair[0], "text/plain": repr(self)}, pair[1]
        try:
            data["text/html"] = self._snapshot()
        except Error as error:  # the view says it too; a notebook's output must not fail
            data["text/plain"] = f"{self!r}: {error}"
        return data, metadata

    def __repr__(self) -> str:
        if self._model is None:
            return f"<{type(self).__name__} {len(self.pieces)} recorded tokens>"
        words = json.dumps(next(iter(self._node()["record"].values())), ensure_ascii=False)
        return f"<{type(self).__name__} {words if len(words) <= 60 else words[:59] + '…'}>"

    # ---- nodes of the tree

    def _node(self, name: str | None = None) -> dict[str, Any]:
        """A text of the tree; the selected one."""
        if self._model is None:
            raise Error(f"{type(self).__name__}: expected one of a model, found that of a recorded trace, which has no edits")
        name = name if name is not None else self.forks["selected"]
        for node in self.forks["nodes"]:
            if node["id"] == name:
                return dict(node)
        raise Error(f"forks: expected a text {name}, found none")

    def _root(self) -> dict[str, Any]:
        node = self._node()
        while node["parent"] is not None:
            node = self._node(node["parent"])
        return node

    def _sampling(self, node: Mapping[str, Any]) -> dict[str, Any]:
        how = node["generate"]
        return {
            "max_tokens": int(how["maxTokens"]), "temperature": how["temperature"], "top_p": how["topP"],
            "seed": int(how.get("seed") or 0), "ignore_eos": bool(how.get("ignoreEos")),
        }  # fmt: skip

    def _command(self, edits: list[dict[str, Any]], node: Mapping[str, Any] | None = None) -> Command:
        node = node if node is not None else self._node()
        return self._engine.command({"id": "prompt", **node["record"]}, edits, **self._sampling(node))

    def _routes(self, node: Mapping[str, Any], edits: list[dict[str, Any]]) -> Routes:
        """A text with its routes; the engine gives the same bits each time, so it is asked once."""
        record, how = {"id": "prompt", **node["record"]}, self._sampling(node)
        key = json.dumps([record, how, edits], sort_keys=True)
        with self._lock:
            found = self._texts.get(key)
        if found is None:
            found = self._engine.routes(record, edits=edits, **how)
            with self._lock:
                self._texts[key] = found
                while len(self._texts) > _KEPT:
                    del self._texts[next(iter(self._texts))]
        return found

    # ---- edits, here and at the browser

    def _given_form(self, edits: list[Any]) -> list[dict[str, Any]]:
        """Edits of the browser as the user would write them."""
        return [dict(edit) for edit in edits]

    def _sent_form(self, edits: list[Any]) -> list[Any]:
        """Edits of the browser as the engine takes them."""
        return self._engine.sent(self._given_form(edits))

    # ---- messages

    def _say(self, message: Mapping[str, Any]) -> None:
        self.send(message)  # pyright: ignore[reportUnknownMemberType]: as on_msg

    def _hear(self, _: object, content: Mapping[str, Any], buffers: object) -> None:
        name = str(content.get("id"))
        if content.get("kind") == "cancel":
            with self._lock:
                events = self._asked.pop(name, None)
            if events is not None:
                events.cancel()
        elif content.get("kind") == "ask":
            with self._lock:
                self._asked[name] = None
            # Not here: this thread takes the next message, which may be a cancel.
            threading.Thread(target=self._answer, args=(name, content), daemon=True).start()

    def _answer(self, name: str, content: Mapping[str, Any]) -> None:
        try:
            path = str(content.get("path"))
            if path not in _ASKED:
                raise Error(f"{path}: expected an endpoint that a widget asks, found another")
            body = None if content.get("body") is None else json.dumps(self._forwarded(json.loads(content["body"])))
            engine = self._engine
            if content.get("stream"):
                with engine.transport.exchange("POST", path, body or "{}") as exchange:
                    events = Events(exchange)
                    with self._lock:
                        if name not in self._asked:
                            return
                        self._asked[name] = events
                    for text in events:
                        self._say({"id": name, "kind": "event", "text": text})
                text = ""
            else:
                text = engine.transport.bytes("GET" if body is None else "POST", path, body).decode()
            self._say({"id": name, "kind": "answer", "text": text})
        except Exception as error:  # whatever it is, the view waits for an answer
            self._say({"id": name, "kind": "error", "text": str(error), "status": error.status if isinstance(error, RequestError) else 0})
        finally:
            with self._lock:
                self._asked.pop(name, None)

    def _forwarded(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request of the browser with the files and vectors that its edits name."""
        for holder in (body, body.get("signalbox"), *body.get("branches", [])):
            for key in ("edits", "baseline"):
                if is_object(holder) and is_array(holder.get(key)):
                    holder[key] = self._sent_form(holder[key])
        return body


def fork(name: str, parent: str | None, record: Mapping[str, Any], how: Mapping[str, Any], edits: list[Any], words: str = "") -> dict[str, Any]:
    """A text of the tree, as the page's export has it."""
    return {
        "id": name, "parent": parent, "name": words, "note": "", "created": 0, "record": dict(record), "generate": dict(how), "edits": edits,
    }  # fmt: skip
