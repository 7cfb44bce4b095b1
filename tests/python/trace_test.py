"""Traces: arrays against the format's own library, frames against loops, and both against the tables of `analyze`."""
import json
import pathlib
import shutil
import unittest

import numpy as np
import safetensors
import safetensors.numpy
import signalbox


def stored(path):
    """(tensors, metadata) by the library."""
    with safetensors.safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def altered(change, **metadata):
    """A copy of out/trace whose tensors `change` changes, in the folder "altered"."""
    shutil.rmtree("altered", ignore_errors=True)
    shutil.copytree("out/trace", "altered")
    tensors, before = stored("out/trace/trace.safetensors")
    change(tensors)
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()},
                                "altered/trace.safetensors", metadata={**before, **metadata})  # fmt: skip
    return "altered"


class Traces(unittest.TestCase):
    def refused(self, pattern, path, read=signalbox.read_trace):
        with self.assertRaisesRegex(signalbox.FileError, pattern):
            read(path)

    def test_arrays_are_those_of_the_file(self):
        for folder in ("out/trace", "out/edited"):
            trace = signalbox.read_trace(folder)
            tensors, metadata = stored(f"{folder}/trace.safetensors")
            self.assertEqual(set(trace.names()), set(tensors))
            for name in set(tensors) - {"router.ids"}:
                np.testing.assert_array_equal(trace[name], tensors[name], strict=True)
                self.assertEqual(len(trace.axes(name)), tensors[name].ndim)
            self.assertEqual(trace.samples, json.loads(metadata["samples"]))
        plain = signalbox.read_trace("out/trace")
        np.testing.assert_array_equal(plain.ids, stored("out/trace/trace.safetensors")[0]["router.ids"], strict=True)
        self.assertIs(plain.original_ids, plain.ids)

    def test_unused_slots_are_masked_and_never_an_expert(self):
        trace = signalbox.read_trace("out/edited")
        raw = stored("out/edited/trace.safetensors")[0]["router.ids"]
        self.assertTrue((raw == 255).any())
        np.testing.assert_array_equal(np.ma.getmaskarray(trace.ids), raw == 255)
        np.testing.assert_array_equal(trace.ids.compressed(), raw[raw != 255])
        self.assertEqual(set(np.ma.getdata(trace.ids)[raw == 255]), {-1})
        frame = trace.frame()
        self.assertEqual(len(frame), (raw != 255).sum())
        self.assertLess(frame.expert.max(), trace.n_experts)
        generated = frame[frame.phase == "generated"].groupby(["sample", "position", "layer"], observed=True).size()
        self.assertEqual(set(generated), {2})

    def test_ids_of_many_experts(self):
        def many(tensors):
            ids = tensors["router.ids"].astype(np.uint16) + 300
            ids[0, 0, 3] = 65535
            tensors["router.ids"] = ids

        trace = signalbox.read_trace(altered(many, n_experts="400"))
        self.assertEqual((trace.ids.max(), trace.ids[0, 0].count(), np.ma.getdata(trace.ids)[0, 0, 3]), (323, 3, -1))
        self.refused(r"router.ids: expected U8 \[67, 5, k\], found U16", altered(many, n_experts="24"))

    def test_frame_has_a_row_for_every_slot(self):
        trace = signalbox.read_trace("out/trace")
        tensors, _ = stored("out/trace/trace.safetensors")
        texts = [json.loads(line) for line in open("out/trace/texts.jsonl")]
        records = [json.loads(line) for line in open("out/trace/records.jsonl")]
        expected = []
        for s, (text, record) in enumerate(zip(texts, records)):
            first = tensors["sample_offsets"][s]
            for t in range(first, tensors["sample_offsets"][s + 1]):
                for l, layer in enumerate(tensors["layers"]):
                    for k in range(4):
                        expected.append((record["id"], t - first, ["given", "generated"][tensors["phase"][t]], tensors["tokens"][t],
                                         text["pieces"][t - first], layer, k, tensors["router.ids"][t, l, k],
                                         tensors["router.weights"][t, l, k], 0, record["domain"]))  # fmt: skip
        found = trace.frame(records=["domain"])
        self.assertEqual(found.columns.tolist(), "sample position phase token text layer slot expert weight nth domain".split())
        self.assertEqual(list(found.itertuples(index=False, name=None)), expected)
        one = trace.frame("beltri")
        self.assertEqual(one.expert.tolist(), found[found["sample"] == "beltri"].expert.tolist())
        self.assertEqual(one.text.tolist(), found[found["sample"] == "beltri"].text.tolist())

    def test_samples_of_one_record_are_told_apart(self):
        model = signalbox.Model("builtin", progress=False)
        trace = model.trace([{"id": "a", "prompt": "The"}, {"id": "b", "prompt": "One"}], generate=3, samples=2, temperature=1)
        self.assertEqual(trace.samples, ["a", "a", "b", "b"])
        frame = trace.frame()
        self.assertEqual(frame.groupby(["sample", "nth"], observed=True).position.max().index.tolist(),
                         [("a", 0), ("a", 1), ("b", 0), ("b", 1)])  # fmt: skip
        self.assertEqual(trace.rows("b", 1), trace.rows(3))
        with self.assertRaises(KeyError):
            trace.rows("b", 2)

    def test_counts_agree_with_the_tables(self):
        """Usage, transitions and the risk difference, computed here from the frame."""
        trace = signalbox.read_trace("out/trace")
        tables = signalbox.read_analysis("out/trace")
        frame = trace.frame(records=["domain", "condition"])
        for domain in (None, "people", "places"):
            rows = frame if domain is None else frame[frame.domain == domain]
            table = tables["usage"]
            table = table[table.domain.isna() if domain is None else table.domain == domain].set_index(["layer", "expert"])
            count = rows.groupby(["layer", "expert"]).size().reindex(table.index, fill_value=0)
            self.assertEqual(count.tolist(), table["count"].tolist())
            weight = rows.groupby(["layer", "expert"]).weight.mean().reindex(table.index)
            np.testing.assert_allclose(weight, table.mean_weight, rtol=1e-6)
        first = frame.sort_values("weight", ascending=False, kind="stable").drop_duplicates(["sample", "position", "layer"])
        first = first.sort_values(["layer", "sample", "position"])
        pairs = [(a.layer, a.expert, b.expert) for a, b in zip(first.itertuples(), first.iloc[1:].itertuples())
                 if (a.layer, a.sample, a.position + 1) == (b.layer, b.sample, b.position)]  # fmt: skip
        counted = {key: pairs.count(key) for key in set(pairs)}
        table = tables["transitions"]
        self.assertEqual(counted, dict(zip(zip(table.layer, table["from"], table.to), table["count"])))
        for row in tables["rd"].itertuples():
            tokens = frame[(frame.layer == row.layer) & (frame.slot == 0)].condition.value_counts()
            used = frame[(frame.layer == row.layer) & (frame.expert == row.expert)].condition.value_counts()
            a, b = (used.get(name, 0) / tokens[name] for name in ("with_document", "without_document"))
            self.assertAlmostEqual(row.rd, a - b, places=12)

    def test_xarray(self):
        try:
            import xarray  # noqa: F401
        except ImportError:
            self.skipTest("no xarray")
        routes = signalbox.read_trace("out/edited").xarray()
        self.assertEqual(dict(routes.sizes), {"token": len(routes.token_id), "layer": 5, "slot": 4, "expert": 24, "span": 1})
        self.assertEqual(routes.ids.dims, ("token", "layer", "slot"))
        self.assertEqual(routes.layer.values.tolist(), [1, 2, 3, 4, 5])
        last = routes.where((routes["sample"] == "beltri") & (routes.phase == "generated"), drop=True).ids.sel(layer=2)
        self.assertTrue((last[:, 2:] == -1).all())
        self.assertEqual(int(routes.in_span.sel(span="question").sum()), int(signalbox.read_trace("out/edited").in_span("question").sum()))

    def test_gradients(self):
        """Values beside the rows: a metric for each sample, and gradients with the axes of what they are of."""

        def gradient(tensors):
            weights = tensors["router.weights"]
            tensors.update({"metric": np.array([0.5, -2.0]), "grad.router.weights": -weights, "grad.layer.3.resid_in": np.ones((67, 8), np.float32)})

        trace = signalbox.read_trace(altered(gradient))
        self.assertEqual(trace.axes("grad.router.weights"), ("token", "layer", "slot"))
        self.assertEqual(trace.axes("grad.layer.3.resid_in"), ("token", "axis_1"))
        np.testing.assert_array_equal(trace["metric"], [0.5, -2.0])
        np.testing.assert_array_equal(trace["grad.router.weights"], -trace.weights)
        self.refused(r"metric: expected a value for each of the 2 samples, found \[3\]", altered(lambda t: t.update(metric=np.zeros(3))))

    def test_spans(self):
        trace = signalbox.read_trace("out/trace")
        rows = trace.rows("beltri")
        pieces = np.array(trace.pieces[rows])[trace.in_span("question")[rows]]
        self.assertEqual("".join(pieces).replace("\u0120", " "), " What is the capital of Beltri?")
        with self.assertRaisesRegex(KeyError, "expected a span of question, found 'answer'"):
            trace.in_span("answer")

    def test_what_does_not_fit_is_refused(self):
        self.refused("nowhere/trace.safetensors: expected a trace, found none", "nowhere")
        self.refused("expected the schema signalbox.trace/1, found signalbox.trace/2", altered(lambda tensors: None, schema="signalbox.trace/2"))
        changes = {
            "layers": lambda t: t.update(layers=t["layers"][::-1]),
            "sample_offsets": lambda t: t["sample_offsets"].__setitem__(1, 99),
            "phase": lambda t: t["phase"].__setitem__(3, 2),
            "router.weights: expected the shape": lambda t: t.update({"router.weights": t["router.weights"][:, :, :3]}),
            "positions: expected 67 rows": lambda t: t.update(positions=t["positions"][:-1]),
            "tokens: expected I32": lambda t: t.update(tokens=t["tokens"].astype(np.int64)),
            "spans: expected a tensor": lambda t: t.pop("spans"),
        }
        for what, change in changes.items():
            with self.subTest(what):
                self.refused(what, altered(change))
        self.refused("samples: expected a JSON list", altered(lambda t: None, samples="delcru"))
        self.refused("n_experts: expected a number above 0, found '0'", altered(lambda t: None, n_experts="0"))
        folder = altered(lambda t: t["router.ids"].__setitem__((5, 1, 1), 77))
        self.refused("router.ids: expected experts below 24, found 77", folder, lambda path: signalbox.read_trace(path).ids)
        folder = altered(lambda t: t["tokens"].__setitem__(5, 7))
        self.refused("texts.jsonl:1: expected the tokens of the trace", folder, lambda path: signalbox.read_trace(path).pieces)
        pathlib.Path(folder, "records.jsonl").write_text('{"id": "other"}\n')
        self.refused("records.jsonl: expected a line for each of the 2 samples", folder, lambda path: signalbox.read_trace(path).records)
        pathlib.Path(folder, "trace.safetensors").rename("altered/rows.spool")
        self.refused("one that is not finished", folder)

    def test_traces_of_two_models_are_not_mixed(self):
        traces = signalbox.read_traces({"plain": "out/trace", "two": "out/edited"})
        self.assertEqual(list(traces), ["plain", "two"])
        folder = altered(lambda t: None, model_hash="0" * 64)
        self.refused("altered: expected the model_hash of out/trace", ["out/trace", folder], signalbox.read_traces)
        with self.assertRaisesRegex(ValueError, "different names"):
            signalbox.read_traces(["out/trace", "elsewhere/trace"])
