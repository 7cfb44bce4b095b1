"""The binary driven from Python: what it answers, and what its failures become."""
import contextlib
import io
import json
import os
import pathlib
import signal
import unittest
from unittest import mock

import material
import numpy as np
import pandas as pd
import signalbox
from signalbox import binary

question = {"messages": [{"role": "user", "content": "Question: What is the capital of Beltri?"}]}


def script(path, version, rest="exit 0"):
    """A program that says a version and does `rest`."""
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo \'{{"version":"{version}"}}\'; exit 0; fi\n{rest}\n')
    file.chmod(0o755)
    return file.resolve()


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = signalbox.Model("builtin", progress=False)

    def test_answers_are_those_of_the_command_line(self):
        lines = binary.call(pathlib.Path(material.program()), ["generate", "builtin", "--input", "records.jsonl", "--max-tokens", "8", "--json", "--quiet"])
        expected = [json.loads(line) for line in lines.splitlines()]
        records = [json.loads(line) for line in open("records.jsonl")]
        for given in (records, pd.DataFrame(records), pathlib.Path("records.jsonl"), iter(records)):
            found = self.model.generate(given, max_tokens=8)
            for one, line in zip(found, expected, strict=True):
                for name in ("id", "sample", "text", "tokens", "prompt_tokens", "finish_reason", "logits_hash"):
                    self.assertEqual(getattr(one, name), line[name])
        for name in ("id", "sample", "text", "tokens", "prompt_tokens", "finish_reason", "logits_hash"):
            self.assertEqual(getattr(found, name), [line[name] for line in expected])
            self.assertEqual(found[name], found.to_frame()[name].tolist())
        with self.assertRaisesRegex(KeyError, "expected one of id, sample, .* found 'words'"):
            found["words"]
        self.assertEqual(found.to_frame().columns.tolist()[:7], "id sample text tokens prompt_tokens finish_reason logits_hash".split())
        self.assertEqual(self.model.generate("One").id, ["0"])
        self.assertEqual(self.model.chat(["Question: Who?", "Question: What?"], max_tokens=2).id, ["0", "1"])

    def test_scores_add_up(self):
        found = self.model.score([{"id": "a", "prompt": "The capital of Beltri is", "target": " Pedkip."}, {"id": "b", "tokens": np.arange(9)}])
        for row in found:
            start = row.target_start or 1
            self.assertEqual(len(row.logprobs), len(row.tokens) - 1)
            self.assertAlmostEqual(sum(row.logprobs[start - 1 :]), row.sum_logprob, places=6)

    def test_a_temporary_trace_goes_with_its_object(self):
        trace = self.model.trace(question, generate=4)
        path, ids = trace.path, trace.ids
        self.assertTrue((path / "trace.safetensors").exists())
        del trace
        self.assertFalse(path.exists())
        self.assertEqual(ids.shape[1:], (5, 4))
        kept = self.model.trace(question, "out/kept", generate=4)
        np.testing.assert_array_equal(kept.ids, ids)

    def test_a_study_of_domains_is_that_of_the_command(self):
        records = [{"prompt": f"{i} + {i} =", "domain": "sums"} for i in range(4)] + [{"prompt": "Once" + " a" * i, "domain": "story"} for i in range(4)]
        study = self.model.domains(records, "out/domains", new_tokens=4, resamples=19, phase="generated")
        pathlib.Path("domains.jsonl").write_text("".join(json.dumps({"id": str(i), **one}) + "\n" for i, one in enumerate(records)))
        flags = "--new-tokens 4 --resamples 19 --phase generated --quiet --json".split()
        printed = json.loads(
            binary.call(pathlib.Path(material.program()), ["domains", "builtin", "--input", "domains.jsonl", "--out", "out/by-hand", *flags])
        )
        self.assertEqual((study.findings, study.values), (printed["findings"], printed["values"]))
        self.assertEqual(sorted(study.values["specialists"]), ["story", "sums"])
        self.assertTrue(study.panel.is_file())
        np.testing.assert_array_equal(study.trace.ids, signalbox.read_trace("out/by-hand/trace").ids)
        by_hand = signalbox.read_analysis("out/by-hand")
        self.assertEqual(sorted(study.tables), sorted(by_hand))
        for name, table in by_hand.items():
            pd.testing.assert_frame_equal(study.tables[name], table)
        again = self.model.domains(records, "out/domains", new_tokens=4, resamples=19, phase="generated")
        self.assertEqual(again.findings, study.findings)
        with self.assertRaisesRegex(signalbox.CommandError, "domain"):
            self.model.domains("no domain", new_tokens=4)
        brief = self.model.domains(records, new_tokens=1, resamples=1)
        path = brief.path
        self.assertTrue(path.exists())
        del brief
        self.assertFalse(path.exists())

    def test_nothing_stays_of_what_failed(self):
        pathlib.Path("scratch").mkdir(exist_ok=True)
        with mock.patch("tempfile.tempdir", os.path.abspath("scratch")):
            with self.assertRaises(signalbox.CommandError):
                self.model.trace(question, points="*.nothing", edits=[])
            with signalbox.Model("builtin", progress=False) as model:
                with self.assertRaises(signalbox.RequestError):
                    model.branches(question, {"a": [{"op": "nothing"}]})
                model.generate(question, edits=[], max_tokens=1)
                self.assertEqual(len(os.listdir("scratch")), 1)
            with self.assertRaises(signalbox.CommandError):
                signalbox.Model("/nowhere").generate("x")
        self.assertEqual(os.listdir("scratch"), [])

    def test_branches_are_what_generate_gives_under_the_same_edits(self):
        worst = [{"op": "misroute", "policy": "worst", "tokens": {"phase": "generated"}}]
        fewer = [{"op": "top_k", "k": 1}]
        for sampling in ({}, {"temperature": 1.5, "samples": 2, "seed": 7}):
            found = self.model.branches({"id": "x", **question}, {"worst": worst, "fewer": {"edits": fewer}}, max_tokens=6, **sampling).to_frame()
            self.assertEqual(list(dict.fromkeys(found.branch)), ["baseline", "worst", "fewer"])
            baseline = found[found.branch == "baseline"].set_index("sample").tokens
            for name, edits in (("baseline", None), ("worst", worst), ("fewer", fewer)):
                alone = self.model.generate({"id": "x", **question}, edits=edits, max_tokens=6, **sampling)
                branch = found[found.branch == name]
                self.assertEqual(branch.tokens.tolist(), alone.tokens)
                for row in branch.itertuples():
                    same = os.path.commonprefix([row.tokens, baseline[row.sample]])
                    if row.tokens == baseline[row.sample]:
                        self.assertTrue(np.isnan(row.diverges_at))
                    else:
                        self.assertEqual(row.diverges_at, len(same))
        self.assertGreater(found[found.branch == "worst"].edited_tokens.max(), 0)

    def test_files_of_edits_are_relative_to_the_working_directory(self):
        pathlib.Path("folder").mkdir(exist_ok=True)
        pathlib.Path("folder/top.csv").write_bytes(pathlib.Path("out/trace/analysis/rd.csv").read_bytes())
        from_file = {"op": "deactivate", "mode": "ban", "experts": {"from": "folder/top.csv", "top": 3}}
        rows = signalbox.read_table("folder/top.csv").query("rd > 0").sort_values(["rd", "layer", "expert"], ascending=[False, True, True])[:3]
        by_hand = {"op": "deactivate", "mode": "ban", "experts": rows.groupby("layer").expert.apply(list).rename(str).to_dict()}
        self.assertEqual(
            self.model.score("The capital", edits=[from_file]).logits_hash[0], self.model.score("The capital", edits=[by_hand]).logits_hash[0]
        )
        pathlib.Path("folder/edits.json").write_text(json.dumps({"edits": [{**from_file, "experts": {"from": "top.csv", "top": 3}}]}))
        for edits in (pathlib.Path("folder/edits.json"),):
            self.assertEqual(
                self.model.score("The capital", edits=edits).logits_hash[0], self.model.score("The capital", edits=[from_file]).logits_hash[0]
            )
            self.model.branches("The capital", {"file": edits}, max_tokens=2)
        with self.assertRaisesRegex(signalbox.CommandError, f"{os.getcwd()}/missing.csv"):
            self.model.score("The capital", edits=[{**from_file, "experts": {"from": "missing.csv", "top": 3}}])
        replay = [{"op": "replay", "trace": "out/trace", "sample": "beltri"}]
        self.assertEqual(len(self.model.generate(material.records[1], edits=replay, max_tokens=1)), 1)

    def test_an_experiment_from_a_dict_is_that_of_the_file(self):
        spec = {key: value for key, value in material.experiment.items() if key != "model"}
        run = self.model.run(spec, "out/again")
        pd.testing.assert_frame_equal(run.samples, signalbox.read_run("out/run").samples)
        pd.testing.assert_frame_equal(run.contrasts, signalbox.read_run("out/run").contrasts)
        again = self.model.run(pathlib.Path("experiment.json"), "out/run")
        self.assertFalse(again.partial)
        with self.assertRaisesRegex(ValueError, "expected no model beside"):
            self.model.run(material.experiment, "out/never")

    def test_a_failure_is_the_line_that_the_binary_prints(self):
        with self.assertRaises(signalbox.CommandError) as caught:
            self.model.generate([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}])
        self.assertRegex(str(caught.exception), r"^records\[1\]: .*expected .* found")
        self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(caught.exception.code, 1)
        with self.assertRaises(signalbox.CommandError) as caught:
            self.model.generate("x", temperatur=1)
        self.assertEqual(caught.exception.code, 2)
        self.assertIn("--temperatur", str(caught.exception))
        with self.assertRaisesRegex(signalbox.CommandError, "nowhere"):
            signalbox.Model("/nowhere").generate("x")
        with self.assertRaisesRegex(TypeError, "a pathlib.Path, found the text 'edits.json'"):
            self.model.generate("x", edits="edits.json")
        with self.assertRaisesRegex(TypeError, "^records: expected values that JSON has, found the set"):
            self.model.generate({"prompt": "x", "more": {1}})
        without_form = {"text": "x"}
        for call in (self.model.generate, self.model.trace, lambda record: self.model.branches(record, {}, samples=2)):
            with self.assertRaisesRegex(signalbox.CommandError, r"^records\[0\]: expected [^;]*, found 0$"):
                call(without_form)
        with self.assertRaisesRegex(signalbox.CommandError, '^spec: unknown key "bogus"'):
            self.model.run({"bogus": 1}, "out/never")

    def test_what_no_call_can_take_is_named(self):
        generate = self.model.generate
        for records, message in {"3": "^records: expected a prompt, .* found the int 3$", "None": "^records: .* found None$", "[3]": r"^records\[0\]: .* found the int 3$"}.items():
            with self.assertRaisesRegex(TypeError, message):
                generate(eval(records))
        for edits, message in {"3": "^edits: expected a list, .* found the int 3$", "{'edits': None}": "^edits: .* found None$", "{}": "^edits: .* found an empty one$",
                               "{1: 2}": "^edits: .* found the keys 1$", "[{'op': 'temperature', 'by': float('nan')}]": "^edits: expected finite numbers"}.items():  # fmt: skip
            with self.assertRaisesRegex((TypeError, ValueError), message):
                generate("x", edits=eval(edits))
        for call in (self.model.branches, self.model.stream_branches):
            for branches, message in {"3": "^branches: expected a dict of names and edits, found the int 3$", "{'a': 3}": "^branches: a: edits: expected a list, .* found the int 3$"}.items():
                with self.assertRaisesRegex(TypeError, message):
                    call("x", eval(branches))
            with self.assertRaisesRegex(ValueError, "^branches: expected names other than baseline"):
                call("x", {"baseline": []})
        with self.assertRaisesRegex(TypeError, "^stream: expected arguments among max_tokens, .*, found bogus$"):
            self.model.stream("x", bogus=1)
        with self.assertRaisesRegex(ValueError, "^record: expected one, found 2$"):
            self.model.routes(["x", "y"])
        with self.assertRaisesRegex(TypeError, "^path: expected a directory, .* found None$"):
            signalbox.Model(None)
        with self.assertRaisesRegex(signalbox.FileError, "^/nowhere/edits.json: expected a file that can be read"):
            generate("x", edits=pathlib.Path("/nowhere/edits.json"))
        pathlib.Path("torn.json").write_text("{")
        with self.assertRaisesRegex(signalbox.FileError, "^torn.json: expected JSON"):
            generate("x", edits=pathlib.Path("torn.json"))

    def test_progress_goes_to_stderr_and_errors_to_the_exception(self):
        program = script("programs/talks", signalbox.__version__, "echo half done >&2; echo 'signalbox: error: out: expected a, found b' >&2; exit 3")
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown), self.assertRaises(signalbox.Interrupted) as caught:
            signalbox.Model("builtin", binary=program).trace("x")
        self.assertEqual((shown.getvalue(), str(caught.exception)), ("half done\n", "out: expected a, found b"))
        program = script("programs/dies", signalbox.__version__, "kill -9 $$")
        with self.assertRaisesRegex(signalbox.CommandError, "expected exit code 0, found -9"):
            signalbox.Model("builtin", binary=program).trace("x")
        with self.assertRaisesRegex(signalbox.CommandError, "expected a server, found exit code -9"):
            signalbox.Model("builtin", binary=program).generate("x")

    def test_an_interrupt_is_passed_on(self):
        program = script("programs/waits", signalbox.__version__, "trap 'echo written >flushed; exit 3' TERM; while :; do sleep 0.02; done")

        def interrupt(*unused):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with self.assertRaises(KeyboardInterrupt):
                signalbox.Model("builtin", binary=program).trace("x")
        finally:
            signal.signal(signal.SIGALRM, before)
        self.assertTrue(pathlib.Path("flushed").exists())


class Binaries(unittest.TestCase):
    def test_it_is_looked_for_in_order(self):
        version = signalbox.__version__
        given, named, older, beside, on_path, built = (
            script(f"places/{name}/signalbox", version) for name in ("given", "named", "older", "beside", "path", "check/build")
        )
        pathlib.Path("places/check/tools/python").mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, SIGNALBOX_BINARY=str(named), SIGNALBOX=str(older), PATH=f"{on_path.parent}:/usr/bin:/bin"))
            stack.enter_context(mock.patch("sysconfig.get_path", lambda name, *scheme, **variables: str(beside.parent)))
            stack.enter_context(mock.patch.object(binary, "_checkout", lambda: built.parent.parent))
            self.assertEqual(signalbox.find_binary(given), given)
            self.assertEqual(signalbox.find_binary(), named)
            del os.environ["SIGNALBOX_BINARY"]
            self.assertEqual(signalbox.find_binary(), older)
            del os.environ["SIGNALBOX"]
            self.assertEqual(signalbox.find_binary(), beside)
            beside.unlink()
            self.assertEqual(signalbox.find_binary(), on_path)
            on_path.unlink()
            self.assertEqual(signalbox.find_binary(), built)
            built.unlink()
            with self.assertRaisesRegex(signalbox.BinaryError, "expected the binary in the variable SIGNALBOX_BINARY, in .*found none"):
                signalbox.find_binary()
        with self.assertRaisesRegex(signalbox.BinaryError, "as given.: expected the signalbox binary, found no program"):
            signalbox.find_binary("places")

    def test_another_version_is_refused(self):
        other = script("programs/older", "0.0.1")
        with self.assertRaisesRegex(signalbox.BinaryError, f"older .as given.: expected version {signalbox.__version__}, .* found 0.0.1"):
            signalbox.Model("builtin", binary=other)
        strange = pathlib.Path("programs/strange")
        strange.write_text("#!/bin/sh\necho hello\n")
        strange.chmod(0o755)
        with self.assertRaisesRegex(signalbox.BinaryError, "does not say its version"):
            signalbox.find_binary(strange)

    def test_the_version_is_that_of_the_build(self):
        line = next(line for line in (material.root / "CMakeLists.txt").read_text().splitlines() if line.startswith("project("))
        self.assertIn(f"project(signalbox VERSION {signalbox.__version__} ", line)

    def test_the_checkout_is_known_from_where_pip_installed(self):
        self.assertEqual(binary._checkout(), material.root)
