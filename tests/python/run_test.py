"""Run directories, finished and not, and analyses."""
import csv
import json
import math
import pathlib
import shutil
import unittest

import numpy as np
import signalbox


def unfinished(n_lines, journal=(), torn=""):
    """out/run as if it had been killed: some lines in samples.jsonl, others waiting in the journal."""
    shutil.rmtree("killed", ignore_errors=True)
    shutil.copytree("out/run", "killed")
    folder = pathlib.Path("killed")
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:n_lines]))
    (folder / "journal.jsonl").write_text("".join(f"[{i}, {lines[i].strip()}]\n" for i in journal) + torn)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    (folder / "metrics.json").unlink()
    return lines


class Runs(unittest.TestCase):
    def test_tables_hold_what_metrics_json_says(self):
        run = signalbox.read_run("out/run")
        written = json.loads(pathlib.Path("out/run/metrics.json").read_text())
        parts = {None: written, **written["conditions"]}
        self.assertEqual(len(run.contrasts), sum(len(by) for part in parts.values() for by in part["contrasts"].values()))
        for table, section in ((run.metrics, "interventions"), (run.contrasts, "contrasts")):
            for row in table.to_dict("records"):
                condition = None if row["condition"] != row["condition"] else row["condition"]
                expected = parts[condition][section][row["intervention"]][row["metric"]]
                for key, value in expected.items():
                    if isinstance(value, (int, float)):
                        self.assertEqual(row[key], value)
                    elif value is None:
                        self.assertTrue(math.isnan(row[key]), key)
                if "vs_controls" in expected:
                    self.assertEqual(row["vs_controls_diff"], expected["vs_controls"]["diff"])
        self.assertEqual(run.metrics.columns[:6].tolist(), ["intervention", "metric", "condition", "mean", "ci_lo", "ci_hi"])
        self.assertTrue(run.contrasts.condition.isna()[:10].all())
        self.assertEqual(sorted(set(run.contrasts["grid.fraction"].dropna())), [0.5, 1])
        row = run.comparisons.query("kind == 'versus' and intervention == 'off' and other == 'mis/fraction=1' and metric == 'ppl'").iloc[0]
        self.assertEqual(row["diff"], written["contrasts"]["off"]["ppl"]["versus"]["mis/fraction=1"]["diff"])

    def test_samples_and_means_agree(self):
        run = signalbox.read_run("out/run")
        lines = [json.loads(line) for line in open("out/run/samples.jsonl")]
        self.assertEqual(run.samples.text.tolist(), [line["text"] for line in lines])
        self.assertEqual(run.samples.ppl.tolist(), [line["scores"]["ppl"] for line in lines])
        self.assertFalse(run.partial or run.samples.attrs["partial"])
        mean = run.samples.groupby(["intervention"]).ppl.mean()
        for row in run.metrics[run.metrics.condition.isna() & (run.metrics.metric == "ppl")].itertuples():
            self.assertAlmostEqual(mean[row.intervention], row.mean, places=9)

    def test_of_a_killed_run_everything_that_is_there_is_read(self):
        lines = unfinished(4, journal=[2, 7, 5], torn='[6, {"seed"')
        run = signalbox.read_run("killed")
        expected = [json.loads(lines[i]) for i in (0, 1, 2, 3, 5, 7)]
        self.assertTrue(run.partial and run.samples.attrs["partial"])
        self.assertEqual(run.samples.id.tolist(), [line["id"] for line in expected])
        self.assertEqual(run.samples.ppl.tolist(), [line["scores"]["ppl"] for line in expected])
        self.assertIn("partial (interrupted), metrics", repr(run))
        with self.assertRaisesRegex(signalbox.FileError, "expected a finished run, found status 'interrupted'"):
            run.contrasts
        path = pathlib.Path("killed/samples.jsonl")
        path.write_text(path.read_text() + '{"seed": 0, "interv')
        self.assertEqual(len(signalbox.read_run("killed").samples), 6)
        path.write_text('{"seed": 0, "interv\n')
        with self.assertRaisesRegex(signalbox.FileError, "killed/samples.jsonl:1: expected a line of JSON"):
            signalbox.read_run("killed").samples

    def test_undefined_scores_and_keys_of_records_named_as_scores(self):
        unfinished(0)
        line = {"intervention": "baseline", "id": "a", "em": "mine", "scores": {"em": None, "ppl": 2}}
        pathlib.Path("killed/samples.jsonl").write_text(json.dumps(line) + "\n")
        row = signalbox.read_run("killed").samples.iloc[0]
        self.assertEqual((row["em"], row["ppl"]), ("mine", 2))
        self.assertTrue(math.isnan(row["scores.em"]))

    def test_deals(self):
        shutil.rmtree("dealt", ignore_errors=True)
        shutil.copytree("out/run", "dealt/deals/1")
        shutil.copy("out/run/manifest.json", "dealt")
        run = signalbox.read_run("dealt")
        self.assertEqual(len(run.deals["1"].samples), 12)
        with self.assertRaisesRegex(signalbox.FileError, "found none .it stands in the runs of `deals`"):
            run.samples

    def test_what_is_no_run_is_refused(self):
        with self.assertRaisesRegex(signalbox.FileError, "out/trace/manifest.json: expected the schema signalbox.run/1, found signalbox.recorded/1"):
            signalbox.read_run("out/trace")
        with self.assertRaisesRegex(signalbox.FileError, "nowhere/manifest.json: expected a run directory"):
            signalbox.read_run("nowhere")
        unfinished(2)
        pathlib.Path("killed/manifest.json").write_text('{"schema": "signalbox.run/1", "status": "complete"}')
        with self.assertRaisesRegex(signalbox.FileError, "killed/metrics.json: expected a file of the run, found none"):
            signalbox.read_run("killed").metrics


class Analyses(unittest.TestCase):
    def test_tables_hold_what_the_files_say(self):
        tables = signalbox.read_analysis("out/trace")
        self.assertEqual(set(tables), {path.stem for path in pathlib.Path("out/trace/analysis").glob("*.csv")})
        self.assertEqual(tables.summary["contrast"]["a"], "with_document")
        for name, table in tables.items():
            with open(f"out/trace/analysis/{name}.csv", newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.assertEqual(len(rows), len(table))
            for column in table:
                for expected, found in zip((row[column] for row in rows), table[column]):
                    if column == "text":
                        self.assertEqual(found, expected)
                    elif expected == "":
                        self.assertTrue(found != found, (name, column))
                    else:
                        self.assertEqual(type(found)(expected), found)
        self.assertEqual(tables["usage"].layer.dtype.kind, "i")
        with self.assertRaisesRegex(KeyError, "expected one of across_layers, .*, found 'regimes'"):
            tables["regimes"]

    def test_texts_stay_texts(self):
        folder = pathlib.Path("texts")
        folder.mkdir(exist_ok=True)
        (folder / "vocabulary.csv").write_bytes(
            b'layer,expert,token,text,count,share,pmi\n1,0,5,NA,3,0.1,\n1,0,6,"a\nb",3,1e-17,inf\n1,1,7,,3,0.30000000000000004,2\n'
            b'1,1,8,"\r",3,1,2\n1,1,9,"say ""no"", null",3,1,2\n1,1,10,007,3,1,2\n'
        )
        (folder / "usage.csv").write_bytes(b"layer,expert,domain,count,tokens,share,mean_weight\n1,0,,0,9,0,\n1,0,1,0,9,0,\n1,0,null,0,9,0,\n")
        tables = signalbox.read_analysis(folder)
        self.assertEqual(tables["vocabulary"].text.tolist(), ["NA", "a\nb", "", "\r", 'say "no", null', "007"])
        np.testing.assert_array_equal(tables["vocabulary"].pmi, [np.nan, np.inf, 2, 2, 2, 2])
        self.assertEqual(tables["vocabulary"].share[2], 0.30000000000000004)
        self.assertEqual(tables["usage"].domain.tolist()[1:], ["1", "null"])
        self.assertTrue(tables["usage"].domain.isna()[0] and tables["usage"].mean_weight.isna().all())
        (folder / "usage.csv").write_text("layer,expert\n1,0\n")
        with self.assertRaisesRegex(signalbox.FileError, "usage.csv: expected the columns domain, count"):
            signalbox.read_analysis(folder)
        (folder / "usage.csv").write_text("layer,expert\n1,0\n1,2,3\n")
        with self.assertRaisesRegex(signalbox.FileError, "usage.csv: expected a table, found"):
            signalbox.read_analysis(folder)
        with self.assertRaisesRegex(signalbox.FileError, "nowhere: expected a directory with tables"):
            signalbox.read_analysis("nowhere")
