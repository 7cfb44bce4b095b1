"""A server that a model starts for itself, and one elsewhere: what they answer, and how they end."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import unittest

import material
import numpy as np
import signalbox
from signalbox import transport

question = {"messages": [{"role": "user", "content": "Question: What is the capital of Beltri?"}]}
worst = [{"op": "misroute", "policy": "worst", "tokens": {"phase": "generated"}}]


def reproduce(command):
    """What the lines of a shell print, one dict a line."""
    folder = pathlib.Path("reproduce")
    folder.mkdir(exist_ok=True)
    text = command.replace("signalbox ", f"{material.program()} ", 1) if command.startswith("signalbox") else command
    text = re.sub(r"^signalbox ", f"{material.program()} ", text, flags=re.MULTILINE)
    printed = subprocess.run(["sh", "-ec", text], cwd=folder, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = signalbox.Model("builtin", progress=False)

    @classmethod
    def tearDownClass(cls):
        cls.model.close()

    def test_commands_reproduce_texts_and_scores(self):
        for records, how in (
            ("Once upon a time", {}),
            ({"id": "prompt", "prompt": "It's 'quoted'\n$HOME"}, {"temperature": 1.2, "seed": 5, "samples": 2, "top_k": 9, "ignore_eos": True}),
            ([question, {"id": "b", "tokens": [1, 2, 3]}], {"edits": worst, "stop": ["a", "\n"], "top_p": 0.8, "temperature": 0.5}),
        ):
            found = self.model.generate(records, max_tokens=6, logprobs=True, **how)
            lines = reproduce(found.command())
            self.assertEqual([line["logits_hash"] for line in lines], found.logits_hash)
            self.assertEqual([line["tokens"] for line in lines], found.tokens)
            self.assertEqual([line["text"] for line in lines], found.text)
            for one in found:
                self.assertEqual(len(one.logprobs), len(one.tokens))
                self.assertIn(one.logits_hash, [line["logits_hash"] for line in reproduce(one.command())])
        one = self.model.generate("Once", max_tokens=np.int64(3), temperature=None, seed=np.int64(2))
        self.assertEqual(one.tokens, self.model.generate("Once", max_tokens=3).tokens)
        scores = self.model.score([{"id": "a", "prompt": "Once", "target": " upon"}, {"id": "b", **question}], edits=[{"op": "top_k", "k": 2}])
        self.assertEqual([line["logprobs"] for line in reproduce(scores.command())], scores.logprobs)

    def test_branches_come_token_by_token_and_reproduce(self):
        with self.model.stream_branches(question, {"worst": worst}, max_tokens=8) as stream:
            with self.assertRaisesRegex(signalbox.Error, "expected its end"):
                stream.result
            tokens = list(stream)
        for branch in stream.result:
            mine = [token for token in tokens if token.branch == branch.branch]
            self.assertEqual([token.token for token in mine], branch.tokens)
            self.assertEqual([token.index for token in mine], list(range(len(mine))))
            (line,) = reproduce(branch.command())
            self.assertEqual((line["tokens"], line["logits_hash"]), (branch.tokens, branch.logits_hash))
        self.assertIs(stream.result["worst"], stream.result[1])
        self.assertEqual(self.model.branches(question, {"worst": worst}, max_tokens=8)[1].tokens, stream.result[1].tokens)
        with self.assertRaisesRegex(KeyError, "baseline, worst"):
            stream.result["best"]

    def test_routes_are_those_of_a_trace(self):
        two = [{"op": "top_k", "k": 2, "tokens": {"phase": "generated"}}]
        for record in (question, "Once upon a time"):
            found = self.model.routes(record, max_tokens=5, edits=two)
            trace = self.model.trace(record, generate=5, edits=two)
            np.testing.assert_array_equal(np.ma.filled(found.ids, -1), np.ma.filled(trace.ids, -1))
            np.testing.assert_array_equal(found.weights, trace.weights)
            np.testing.assert_array_equal(found.tokens, trace.tokens)
            self.assertTrue(np.ma.getmaskarray(found.ids).any())
            frame, expected = found.to_frame(), trace.frame()
            for name in ("sample", "position", "phase", "token", "layer", "slot", "expert", "weight"):
                self.assertEqual(frame[name].tolist(), expected[name].tolist(), name)
            (line,) = reproduce(found.command())
            self.assertEqual(line["logits_hash"], found.logits_hash)
            self.assertEqual(len(found.pieces), len(found.tokens))

    def test_files_of_edits_go_along_and_stay_named_in_the_command(self):
        pathlib.Path("ban.csv").write_bytes(pathlib.Path("out/trace/analysis/rd.csv").read_bytes())
        edits = [{"op": "deactivate", "mode": "ban", "experts": {"from": "ban.csv", "top": 3}}]
        found = self.model.generate("Once upon a time", max_tokens=4, edits=edits)
        self.assertIn(f'"from": "{os.getcwd()}/ban.csv"', found.command())
        self.assertEqual(reproduce(found.command())[0]["logits_hash"], found[0].logits_hash)
        inline = [{"op": "add", "point": "resid_out", "layers": "3", "vector": np.full(128, 0.5, dtype=np.float32), "scale": 2}]
        steered = self.model.generate("Once upon a time", max_tokens=4, edits=inline)
        self.assertEqual(reproduce(steered.command())[0]["logits_hash"], steered[0].logits_hash)

    def test_refusals_are_the_line_of_the_server(self):
        with self.assertRaises(signalbox.RequestError) as caught:
            self.model.stream("x", edits=[{"op": "nothing"}])
        self.assertRegex(str(caught.exception), r"^branches\[0\].edits\[0\].op: expected .* found \"nothing\"$")
        self.assertEqual((caught.exception.status, caught.exception.param), (400, "branches[0].edits[0].op"))
        with self.assertRaisesRegex(signalbox.RequestError, "at most 512 tokens"):
            self.model.generate("x", max_tokens=10**6)
        with self.assertRaisesRegex(signalbox.Error, "with a target"):
            self.model.engine.generate({"prompt": "a", "target": "b"})
        self.model.engine.check(worst)

    def test_a_stream_that_is_left_ends_the_generation(self):
        stream = self.model.stream("Once", max_tokens=450, ignore_eos=True)
        for token in stream:
            break
        stream.close()
        until = time.monotonic() + 20
        while time.monotonic() < until and "signalbox_requests_running 0" not in self.metrics():
            time.sleep(0.02)
        self.assertIn("signalbox_requests_running 0", self.metrics())

    def metrics(self):
        return self.model.engine.transport.bytes("GET", "/metrics").decode()


class Servers(unittest.TestCase):
    def test_it_is_private_and_goes_with_its_model(self):
        with signalbox.Model("builtin", threads=1) as model:
            engine = model.engine
            self.assertIs(model.engine, engine)
            folder = pathlib.Path(engine.transport.address.removeprefix("unix:")).parent
            self.assertEqual((folder.stat().st_mode & 0o777, (folder / "socket").stat().st_mode & 0o777), (0o700, 0o600))
            self.assertIn("--threads 1", model.generate("x", max_tokens=1).command())
        self.assertFalse(folder.exists())
        self.assertFalse(engine.alive)
        self.assertEqual(len(model.generate("x", max_tokens=1)), 1)  # another one
        folder = pathlib.Path(model.engine.transport.address.removeprefix("unix:")).parent
        del model
        self.assertFalse(folder.exists())

    def test_closing_ends_what_runs(self):
        model = signalbox.Model("builtin")
        found = []

        def read():
            try:
                list(stream)
            except signalbox.Error as error:
                found.append(error)

        stream = model.stream("Once", max_tokens=450, ignore_eos=True)
        thread = threading.Thread(target=read)
        thread.start()
        model.close()
        thread.join(20)
        self.assertFalse(thread.is_alive())

    def test_it_dies_with_a_process_that_is_killed(self):
        code = "import signalbox, time; m = signalbox.Model('builtin'); print(m.engine._server.process.pid, flush=True); time.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            pid = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        until = time.monotonic() + 20
        while time.monotonic() < until and running(pid):
            time.sleep(0.02)
        self.assertFalse(running(pid))

    def test_one_elsewhere(self):
        pathlib.Path("keys").write_text("0123456789abcdef-key\n")
        command = [material.program(), "serve", "builtin", "--port", "0", "--json", "--quiet", "--exit-with-parent", "--api-key-file", "keys"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            url = json.loads(process.stdout.readline())["url"]
            with self.assertRaises(signalbox.RequestError) as caught:
                signalbox.connect(url)
            self.assertEqual(caught.exception.status, 401)
            with signalbox.connect(url + "/v1", "0123456789abcdef-key") as engine:
                self.assertEqual((engine.name, engine.argument, engine.layers), ("builtin", "builtin", [1, 2, 3, 4, 5]))
                found = engine.chat("Question: What is the capital of Beltri?", edits=worst, max_tokens=6)
                self.assertEqual(reproduce(found.command())[0]["logits_hash"], found[0].logits_hash)
                with self.assertRaisesRegex(signalbox.RequestError, "asset:NAME"):
                    engine.generate("x", edits=[{"op": "deactivate", "mode": "ban", "experts": {"from": "ban.csv", "top": 3}}])
            process.stdin.close()
            process.wait()
        with self.assertRaisesRegex(signalbox.ConnectionFailed, f"^{re.escape(url)}: expected a server"):
            signalbox.connect(url)
        for wrong in ("localhost:80", "ftp://a", "http://user@a"):
            with self.assertRaisesRegex(ValueError, "url: expected"):
                signalbox.connect(wrong)

    def test_importing_costs_numpy_alone(self):
        code = "import numpy, sys; before = set(sys.modules); import signalbox; print(*(set(sys.modules) - before))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        self.assertEqual([name for name in found if name.split(".")[0] in ("pandas", "matplotlib", "xarray", "http", "concurrent", "anywidget")], [])


class Streams(unittest.TestCase):
    def test_what_is_cut_is_no_short_answer(self):
        def events(*lines):
            class Cut:
                def __init__(self):
                    self.lines = list(lines)

                def line(self):
                    return self.lines.pop(0) if self.lines else b""

                def close(self):
                    pass

            return list(transport.Events(Cut()))

        self.assertEqual(events(b": ping\n", b"\n", b'data: {"a":1}\n', b"\n", b"data: [DONE]\n"), ['{"a":1}'])
        with self.assertRaisesRegex(signalbox.ConnectionFailed, r"expected \[DONE\]"):
            events(b'data: {"a":1}\n')
        with self.assertRaisesRegex(signalbox.RequestError, "^stopping$"):
            events(b'data: {"error":{"message":"stopping"}}\n', b"data: [DONE]\n")


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
