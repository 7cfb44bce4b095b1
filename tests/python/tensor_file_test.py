"""safetensors files against the format's own library."""
import json
import pathlib
import struct
import unittest

import numpy as np
import safetensors.numpy
import signalbox

types = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def write(path, entries, data, header=None):
    text = json.dumps(entries).encode() if header is None else header
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


class TensorFiles(unittest.TestCase):
    def test_every_type_reads_as_the_library_wrote_it(self):
        random = np.random.default_rng(0)
        arrays = {f"t{i}": (random.random((3, 1, 5)) * 99).astype(kind) for i, kind in enumerate(types)}
        arrays |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.int16)}
        safetensors.numpy.save_file(arrays, "types.safetensors", metadata={"a": "b"})
        file = signalbox.TensorFile("types.safetensors")
        self.assertEqual(set(file.names()), set(arrays))
        self.assertEqual(file.metadata, {"a": "b"})
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array, strict=True)
            self.assertEqual(file.shape(name), array.shape)
            self.assertFalse(file[name].flags.writeable)

    def test_bf16_is_the_upper_half_of_f32(self):
        values = np.array([1.0, -2.5, 3.140625, np.inf, 0.0, -1.5e-39], np.float32)
        bits = (values.view(np.uint32) >> 16).astype("<u2")
        write("b.safetensors", {"x": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}, bits.tobytes())
        read = signalbox.TensorFile("b.safetensors")["x"]
        self.assertEqual((read.dtype, read.shape), (np.float32, (2, 3)))
        np.testing.assert_array_equal(read.reshape(-1)[:5], values[:5])

    def test_a_file_that_is_cut_anywhere_is_refused(self):
        whole = pathlib.Path("out/trace/trace.safetensors").read_bytes()
        for size in [0, 3, 7, 8, 9, 200, len(whole) // 2, len(whole) - 1]:
            pathlib.Path("cut.safetensors").write_bytes(whole[:size])
            with self.assertRaisesRegex(signalbox.FileError, "cut.safetensors: expected .*, found"):
                signalbox.TensorFile("cut.safetensors")
        pathlib.Path("cut.safetensors").write_bytes(whole + b"x")
        with self.assertRaisesRegex(signalbox.FileError, "was altered"):
            signalbox.TensorFile("cut.safetensors")

    def test_headers_that_lie_are_refused(self):
        good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        wrong = {
            "a hole": {"x": good, "y": {"dtype": "U8", "shape": [1], "data_offsets": [9, 10]}},
            "an overlap": {"x": good, "y": {"dtype": "U8", "shape": [3], "data_offsets": [7, 10]}},
            "a size": {"x": {**good, "shape": [3]}, "y": {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]}},
            "a type": {"x": {**good, "dtype": "F31"}},
            "a negative size": {"x": {**good, "shape": [-2]}},
            "a truth value": {"x": {**good, "shape": [True, 2]}},
            "a key": {"x": {**good, "more": 1}},
            "an end": {"x": {**good, "data_offsets": [8, 0]}},
            "metadata": {"x": good, "__metadata__": {"a": 1}},
            "a list": [good],
        }
        for what, entries in wrong.items():
            with self.subTest(what):
                write("wrong.safetensors", entries, bytes(10))
                with self.assertRaises(signalbox.FileError):
                    signalbox.TensorFile("wrong.safetensors")
        twice = b'{"x":%s,"x":%s}' % ((json.dumps(good).encode(),) * 2)
        write("wrong.safetensors", None, bytes(8), twice)
        with self.assertRaisesRegex(signalbox.FileError, "'x' twice"):
            signalbox.TensorFile("wrong.safetensors")
        write("right.safetensors", {"x": good}, bytes(8))
        with self.assertRaisesRegex(KeyError, "expected one of x, found 'y'"):
            signalbox.TensorFile("right.safetensors")["y"]
