"""Figures draw the numbers of the tables."""
import io
import unittest

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import signalbox
from signalbox import plot


def drawn(axes):
    return axes.images[0].get_array().filled(np.nan)


class Figures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tables = signalbox.read_analysis("out/trace")
        cls.trace = signalbox.read_trace("out/trace")
        cls.run_ = signalbox.read_run("out/run")

    def tearDown(self):
        plt.close("all")

    def test_domains(self):
        shares = drawn(plot.domains(self.tables, 2, order=["places", "people"]))
        self.assertEqual(shares.shape, (2, 24))
        frame = self.trace.frame(records=["domain"]).query("layer == 2 and domain == 'places'")
        counts = np.bincount(frame.expert, minlength=24)
        np.testing.assert_allclose(shares[0], counts / counts.sum() * 4)
        everything = np.bincount(self.trace.ids[:, 1].ravel(), minlength=24) / len(self.trace.tokens)
        np.testing.assert_allclose(drawn(plot.domains(self.tables["usage"], 2, difference=True))[1], shares[0] - everything, atol=1e-12)
        with self.assertRaisesRegex(ValueError, "expected a layer of .*, found 9"):
            plot.domains(self.tables, 9)

    def test_usage_and_rd(self):
        share = np.stack([np.bincount(self.trace.ids[:, i].ravel(), minlength=24) for i in range(5)]) / len(self.trace.tokens)
        axes = plot.usage(self.tables)
        np.testing.assert_allclose(drawn(axes), share - share.mean(axis=1, keepdims=True), atol=1e-12)
        self.assertEqual(axes.texts[3].get_text(), f"{100 * share[0, 3]:.0f}")
        self.assertEqual([label.get_text() for label in axes.get_yticklabels()], list("12345"))
        condition = np.repeat([0, 1], np.diff(self.trace.sample_offsets))
        by = [np.stack([np.bincount(self.trace.ids[condition == c, i].ravel(), minlength=24) for i in range(5)]) / (condition == c).sum() for c in (0, 1)]
        axes = plot.rd(self.tables)
        np.testing.assert_allclose(drawn(axes), by[0] - by[1], atol=1e-12)
        self.assertIn("with_document minus without_document", axes.get_title())

    def test_transitions_and_autocorrelation(self):
        matrix = drawn(plot.transitions(self.tables, 3))
        first = np.take_along_axis(self.trace.ids[:, 2], self.trace.weights[:, 2].argmax(axis=1)[:, None], axis=1)[:, 0]
        expected = np.zeros((24, 24))
        for sample in range(2):
            route = first[self.trace.rows(sample)]
            np.add.at(expected, (route[:-1], route[1:]), 1)
        expected /= np.maximum(expected.sum(axis=1, keepdims=True), 1)
        np.testing.assert_allclose(matrix, expected[: len(matrix), : len(matrix)], atol=1e-12)
        axes = plot.autocorrelation(self.tables, 3, experts=[0, 5])
        table = self.tables["autocorrelation"].query("layer == 3 and expert == 5")
        np.testing.assert_array_equal(axes.lines[1].get_ydata(), table.r)

    def test_tokens(self):
        for trace in (self.trace, signalbox.read_trace("out/edited")):
            axes = plot.tokens(trace, "beltri", 4, start=2)
            rows = slice(trace.rows("beltri").start + 2, trace.rows("beltri").stop)
            expected = np.zeros((24, rows.stop - rows.start))
            for t, row in enumerate(range(rows.start, rows.stop)):
                for expert, weight in zip(trace.ids[row, 3], trace.weights[row, 3]):
                    if expert is not np.ma.masked:
                        expected[expert, t] += weight
            np.testing.assert_array_equal(drawn(axes), expected)
            self.assertEqual(axes.get_xticklabels()[0].get_text(), ":")
            self.assertEqual(axes.lines[0].get_xdata()[0], np.flatnonzero(trace.phase[rows])[0] - 0.5)
        with self.assertRaisesRegex(ValueError, "expected a recorded layer"):
            plot.tokens(self.trace, 0, 0)

    def test_forest_and_dose(self):
        axes = plot.forest(self.run_, "ppl")
        rows = self.run_.contrasts.query("condition.isna() and metric == 'ppl'").set_index("intervention")
        names = ["off", "mis/fraction=0.5", "mis/fraction=1"]
        self.assertEqual([label.get_text() for label in axes.get_yticklabels()], names)
        circles = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        self.assertEqual(circles, rows.loc[names, "diff"].tolist())
        ticks = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "|"]
        self.assertEqual(sorted(ticks[0]), sorted(rows[rows.control_of == "off"]["diff"]))
        self.assertEqual(len(plot.forest(self.run_, "em", condition="with_document", interventions=["off"]).get_yticks()), 1)
        axes = plot.dose(self.run_, "ppl", "fraction")
        means = self.run_.metrics.query("condition.isna() and metric == 'ppl'").set_index("intervention")["mean"]
        self.assertEqual(axes.lines[0].get_ydata().tolist(), means.loc[names[1:]].tolist())
        self.assertEqual(axes.lines[-1].get_ydata()[0], means["baseline"])
        with self.assertRaisesRegex(ValueError, "expected a key of a grid with two values .fraction., found 'layers'"):
            plot.dose(self.run_, "ppl", "layers")
        with self.assertRaisesRegex(ValueError, "found 'f1'"):
            plot.forest(self.run_, "f1")

    def test_axes_given_are_used_and_settings_left_alone(self):
        before = dict(matplotlib.rcParams)
        axes = plt.subplots(2, 2)[1].ravel()
        for ax, drawn_on in zip(axes, [plot.usage(self.tables, ax=axes[0]), plot.rd(self.tables["rd"], ax=axes[1]),
                                       plot.transitions(self.tables, 1, ax=axes[2]), plot.dose(self.run_, "em", "fraction", ax=axes[3])]):  # fmt: skip
            self.assertIs(ax, drawn_on)
        plot.tokens(self.trace, 1, 1).figure.savefig(io.StringIO(), format="svg")
        self.assertEqual(dict(matplotlib.rcParams), before)
