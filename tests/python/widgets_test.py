"""The widgets without a browser: what they say of what was set, and what they forward. Only where anywidget is installed,
which the continuous integration does without; tests/clients/widgets runs these tests too."""
import importlib.util
import json
import pathlib
import re
import subprocess
import threading
import time
import unittest

import docs_test
import material
import numpy as np
import signalbox
from engine_test import reproduce

prompt = "The capital of Rulfar is"
worst = [{"op": "misroute", "policy": "worst", "tokens": {"phase": "generated"}}]


class Bundle(unittest.TestCase):
    """Of the module that a browser gets; what is in it was installed with the package."""

    def test_it_is_one_module_that_asks_for_nothing(self):
        text = (pathlib.Path(signalbox.__file__).parent / "static/widget.js").read_text()
        self.assertEqual(len(re.findall(r"^export ", text, re.MULTILINE)), 1)
        self.assertEqual(len(re.findall(r"^import ", text, re.MULTILINE)), 0)
        self.assertNotRegex(text, r"https?://(?!www\.w3\.org)")
        names = re.findall(r"^(?:async )?(?:const|let|class|function) (\w+)", text, re.MULTILINE)
        self.assertEqual(len(names), len(set(names)))
        self.assertNotIn("indexedDB", text)  # what is not used is not in it
        self.assertLess(len(text), 220_000)


@unittest.skipUnless(importlib.util.find_spec("anywidget"), "anywidget is not installed")
class Widgets(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from signalbox import widgets

        cls.widgets = widgets
        cls.model = signalbox.Model("builtin", progress=False)

    @classmethod
    def tearDownClass(cls):
        cls.model.close()

    def agrees(self, widget):
        """The text is the engine's under the widget's edits, and its command gives it again."""
        (line,) = reproduce(widget.command())
        self.assertEqual(line["text"], widget.text)
        record = {"id": "prompt", "prompt": prompt}
        self.assertEqual(self.model.generate(record, max_tokens=6, edits=widget.spec())[0].logits_hash, line["logits_hash"])
        return line

    def test_a_selector_is_the_engine_under_its_switches(self):
        selector = self.widgets.ExpertSelector(self.model, prompt, max_tokens=6)
        before = selector.text
        self.agrees(selector)
        selector.ban(5, 11)
        selector.force(2, 7, 3)
        selector.scale(4, 10, by=0.5)
        self.assertEqual(selector.switches["5:11"], {"op": "ban"})
        self.assertEqual([edit["experts"] for edit in selector.edits], [{"2": [3, 7]}, {"4": [10]}, {"5": [11]}])
        self.assertNotEqual(selector.text, before)
        self.agrees(selector)
        table = selector.to_frame()
        self.assertEqual(table[table.switch == "ban"].usage.tolist(), [0])
        self.assertEqual(table[table.layer == 3].base.sum().round(6), 4)
        selector.scope = "generated"
        self.assertEqual({json.dumps(edit["tokens"]) for edit in selector.edits}, {'{"phase": "generated"}'})
        self.agrees(selector)
        selector.clear()
        self.assertEqual((selector.edits, selector.text), ([], before))
        for wrong in ({"0:1": {"op": "ban"}}, {"3:24": {"op": "ban"}}, {"3": {"op": "ban"}}, {"3:1": {"op": "scale"}}, {"3:1": {"op": "x"}}):
            with self.assertRaisesRegex(Exception, "switches: "):
                selector.switches = wrong

    def test_steering_is_five_branches_of_its_vector(self):
        vector = np.random.default_rng(1).normal(size=128)
        steering = self.widgets.Steering(self.model, prompt, {"up": vector, "down": -vector}, scale=4, layers=3, max_tokens=6)
        self.assertEqual(steering.doses, [-8, -4, 0, 4, 8])
        table = steering.to_frame()
        self.assertEqual(table.dose.tolist(), steering.doses)
        for dose, text in zip(table.dose, table.text):
            edits = [] if dose == 0 else [{"op": "add", "point": "resid_out", "layers": "3", "vector": vector.astype(np.float32), "scale": dose}]
            self.assertEqual(self.model.generate({"id": "prompt", "prompt": prompt}, max_tokens=6, edits=edits)[0].text, text)
        self.assertEqual(steering.text, table.text[3])
        self.agrees(steering)
        steering.set(vector="down", scale=8)
        self.assertEqual(steering.text, table.text[0])
        sent = steering._forwarded({"branches": [{"name": "x", "edits": [{"op": "add", "vector": "asset:down"}, {"op": "top_k", "k": 1}]}]})
        self.assertEqual(sent["branches"][0]["edits"][0]["vector"], (-vector).astype(np.float32).tolist())
        for wrong in (dict(vectors={}), dict(vectors={"a": "file"}), dict(vectors={"a": [[1.0]]}), dict(vectors={"a/b": vector})):
            with self.assertRaisesRegex(ValueError, "vectors: "):
                self.widgets.Steering(self.model, prompt, **wrong)
        with self.assertRaisesRegex(TypeError, "found scales"):
            steering.set(scales=1)

    def test_a_tree_forks_and_selects(self):
        tree = self.widgets.ForkTree(self.model, prompt, {"worst": worst}, max_tokens=6)
        self.assertEqual((tree.names, tree.edits), ({"base": prompt, "fork-1": "worst"}, []))
        tree.select("worst")
        self.agrees(tree)
        tree.fork("worst, one expert", [{"op": "top_k", "k": 1}])
        self.assertEqual([edit["op"] for edit in tree.edits], ["misroute", "top_k"])
        self.agrees(tree)
        table = tree.to_frame()
        self.assertEqual(table.parent.tolist()[1:], ["base", "fork-1"])
        self.assertEqual(table.text.tolist()[2], tree.text)
        self.assertGreaterEqual(table.diverges_at[1], 7)
        with self.assertRaises(signalbox.RequestError):
            tree.fork("wrong", [{"op": "nothing"}])
        with self.assertRaisesRegex(KeyError, f"{prompt}, worst"):
            tree.select("none")

    def test_a_recorded_text_is_shown_as_it_was_recorded(self):
        trace = signalbox.read_trace("out/edited")
        view = self.widgets.RouteView(trace, sample="beltri")
        self.assertEqual(view.to_frame().expert.tolist(), trace.frame("beltri").expert.tolist())
        self.assertEqual(view.edits, material.two_experts)
        folder = pathlib.Path("recording")
        folder.mkdir(exist_ok=True)
        (folder / "x.safetensors").write_bytes(view.recording)
        file = signalbox.TensorFile(folder / "x.safetensors")
        rows = trace.rows("beltri")
        np.testing.assert_array_equal(file["router.weights"], trace.weights[rows])
        self.assertEqual(file["router.ids"].max(), 255)  # unused, as the page knows it
        self.assertEqual(view.pieces[0], "<bos>")
        self.assertIn("recorded tokens", repr(view))
        with self.assertRaisesRegex(signalbox.Error, "that of a trace"):
            view.command()
        for source, more in ((trace, {"record": "x"}), (self.model, {}), (3, {"record": "x"}), (None, {"record": "x"})):
            with self.assertRaisesRegex(TypeError, "^RouteView: expected "):
                self.widgets.RouteView(source, **more)
        for widget, more in ((self.widgets.ExpertSelector, {}), (self.widgets.ForkTree, {}), (self.widgets.Steering, {"vectors": {"up": [1.0]}})):
            for source in ("builtin", None):
                with self.assertRaisesRegex(TypeError, f"^{widget.__name__}: expected a signalbox.Model, .*, found "):
                    widget(source, "x", **more)
        with self.assertRaisesRegex(TypeError, "^branches: expected a dict of names and edits, found the int 3$"):
            self.widgets.ForkTree(self.model, "x", 3)
        with self.assertRaisesRegex(TypeError, "^vectors: expected a dict of names and vectors, found the int 3$"):
            self.widgets.Steering(self.model, "x", 3)

    def test_snapshots_need_nothing_else(self):
        selector = self.widgets.ExpertSelector(self.model, {"prompt": "<b>bold</b> & more"}, max_tokens=3, switches={"3:5": {"op": "ban"}})
        view = self.widgets.RouteView(self.model, prompt, max_tokens=6)
        for widget in (selector, view, self.widgets.RouteView(signalbox.read_trace("out/trace")),
                       self.widgets.ForkTree(self.model, "<b>x</b>", {"<i>": worst}, max_tokens=3),
                       self.widgets.Steering(self.model, prompt, {"up": np.ones(128)}, max_tokens=3)):  # fmt: skip
            data, _ = widget._repr_mimebundle_()
            self.assertIn("application/vnd.jupyter.widget-view+json", data)
            self.assertEqual(data["text/plain"], repr(widget))
            self.assertNotRegex(data["text/html"], r"<b>|<i>|<script|url\(|https?://(?!www\.w3\.org/2000/svg)")
            self.assertIn("</svg>" if widget in (selector, view) else "</", data["text/html"])
        self.assertIn(view.text.split()[0], data["text/html"])

    def test_colours_are_the_page_s(self):
        code = ("import {textureTable, sizeTable, hexOf} from %s; const t = textureTable(24, false), s = sizeTable(false), out = [];"
                "for (let i = 0; i < 24; ++i) out.push(hexOf([...t.slice(3 * i, 3 * i + 3)]));"
                "for (const i of [0, 64, 130, 255]) out.push(hexOf([...s.slice(3 * i, 3 * i + 3)])); console.log(JSON.stringify(out));"
                ) % json.dumps((material.root / "tools/serve/page/logic/colours.js").as_uri())  # fmt: skip
        found = json.loads(subprocess.run(["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=True).stdout)
        from signalbox.widgets import pictures

        self.assertEqual(found[:24], [pictures.colour(e, 24) for e in range(24)])
        self.assertEqual(found[24:], [pictures._ramp(i / 255) for i in (0, 64, 130, 255)])

    def test_files_of_edits_go_along(self):
        edits = [{"op": "deactivate", "mode": "ban", "experts": {"from": "out/trace/analysis/rd.csv", "top": 9}}]
        view = self.widgets.RouteView(self.model, prompt, max_tokens=6, edits=edits)
        self.agrees(view)
        self.assertTrue(view.edits[0]["experts"]["from"].startswith("/"))
        sent = view._forwarded({"signalbox": {"edits": view.forks["nodes"][0]["edits"]}})
        self.assertRegex(sent["signalbox"]["edits"][0]["experts"]["from"], r"^asset:[0-9a-f]{24}\.csv$")

    def test_requests_of_a_view_are_answered_streamed_and_cancelled(self):
        view = self.widgets.RouteView(self.model, prompt, max_tokens=6)
        sent, answered = [], threading.Event()

        def send(content, buffers=None):
            sent.append(content)
            if content["kind"] != "event" or content["id"] == "c":
                answered.set()

        view.send = send

        def ask(**content):
            answered.clear()
            view._hear(view, {"kind": "ask", "body": None, "stream": False, **content}, [])
            self.assertTrue(answered.wait(20))
            return sent[-1]

        self.assertEqual(json.loads(ask(id="a", path="/v1/models")["text"])["data"][0]["id"], "builtin")
        body = {"model": "builtin", "prompt": "x", "max_tokens": 3, "temperature": 0, "stream": True}
        self.assertEqual(ask(id="b", path="/v1/completions", body=json.dumps(body), stream=True)["kind"], "answer")
        events = [json.loads(one["text"]) for one in sent if one["id"] == "b" and one["kind"] == "event"]
        self.assertEqual("".join(one["choices"][0]["text"] for one in events), self.model.generate("x", max_tokens=3).text[0])
        self.assertRegex(ask(id="d", path="/v1/completions", body="{}")["text"], "model|prompt")
        self.assertEqual(sent[-1]["status"], 400)
        self.assertRegex(ask(id="e", path="/metrics")["text"], "expected an endpoint that a widget asks")
        body = {**body, "max_tokens": 400, "ignore_eos": True}
        ask(id="c", path="/v1/completions", body=json.dumps(body), stream=True)
        view._hear(view, {"kind": "cancel", "id": "c"}, [])
        until = time.monotonic() + 20
        while "signalbox_requests_running 0" not in self.model.engine.transport.bytes("GET", "/metrics").decode():
            self.assertLess(time.monotonic(), until)
            time.sleep(0.02)
        self.assertLess(len([one for one in sent if one["kind"] == "event" and one["id"] == "c"]), 400)

    def test_the_page_of_the_widgets(self):
        docs_test.Pages("test_the_readme").run_page("notebooks.md")
