"""Whose memory a ReactorBuffer shows, for how long, and what is done without a copy of it."""

import ctypes
import gc
import hashlib
import hmac
import io
import operator
import re
import socket
import struct
import sys
import unittest
import zlib

import live

try:
    import tracemalloc
except ImportError:  # in an interpreter of its own
    tracemalloc = None


class PyBuffer(ctypes.Structure):
    """CPython's Py_buffer, as far as it is looked at here."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_void_p * 12),
    ]


class MemoryTest(unittest.TestCase):
    def setUp(self):
        self.buffer, self.oracle = live.buffers[-1]

    def address(self, exporter):
        size = memoryview(exporter).nbytes
        # ctypes' from_buffer wants a writable exporter, so this asks as C code does.
        view = PyBuffer()
        get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
        self.assertEqual(get(ctypes.py_object(exporter), ctypes.byref(view), 0), 0)
        address = view.buf
        self.assertEqual(view.len, size)
        release(ctypes.byref(view))
        return address

    def test_memoryviews_share_the_memory(self):
        view = self.buffer.memoryview()
        self.assertIs(view.obj, self.buffer)
        self.assertTrue(view.readonly)
        self.assertTrue(view.c_contiguous)
        self.assertEqual((view.format, view.itemsize, view.ndim), ("B", 1, 1))
        start = self.address(self.buffer)
        self.assertEqual(self.address(memoryview(self.buffer)), start)
        self.assertEqual(self.address(view[3:]), start + 3)
        self.assertEqual(self.address(self.buffer.memoryview()[5:][2:]), start + 7)

    def test_a_view_keeps_the_memory(self):
        data, oracle = live.buffers.pop(3)
        view = data.memoryview()[1:]
        del data
        gc.collect()
        self.assertEqual(bytes(view), oracle[1:])
        live.buffers.insert(3, (view.obj, oracle))

    @unittest.skipIf(tracemalloc is None, "tracemalloc is of the main interpreter alone")
    def test_hot_methods_do_not_copy(self):
        """Their peak of allocated memory stays far below the size of the data."""
        self.assertGreater(len(self.oracle), 8000)
        data, tail = self.buffer, self.oracle[-10:]
        work = {
            "len": lambda: len(data),
            "index": lambda: data[100] + data[-1],
            "slice": lambda: data[5:20],
            "find": lambda: data.find(tail),
            "rfind": lambda: data.rfind(tail, 10),
            "rindex": lambda: data.rindex(tail),
            "count": lambda: data.count(tail),
            "startswith": lambda: data.startswith(b"GET"),
            "endswith": lambda: data.endswith((b"x", tail)),
            "in": lambda: tail in data,
            "==": lambda: data == self.oracle,
            "<": lambda: data < self.oracle,
            "hash": lambda: hash(data),
            "memoryview": lambda: data.memoryview()[10:20],
        }
        for name, function in work.items():
            function()
            tracemalloc.start()
            try:
                function()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            self.assertLess(peak, 2000, name)

    @unittest.skipIf(tracemalloc is None, "tracemalloc is of the main interpreter alone")
    def test_the_standard_library_reads_in_place(self):
        """Likewise what takes any bytes-like object."""
        data, digest = self.buffer, hashlib.sha256()
        pattern, record = re.compile(rb"no such thing at all"), struct.Struct("<16xQ")
        target, sink = bytearray(len(data)), io.BytesIO(bytes(len(data)))
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        work = {
            "re": lambda: pattern.search(data),
            "struct": lambda: record.unpack_from(data, 100),
            "hashlib": lambda: digest.update(data),
            "crc32": lambda: zlib.crc32(data),
            "into a bytearray": lambda: operator.setitem(memoryview(target), slice(None), data),
            "into a file": lambda: (sink.seek(0), sink.write(data)),
            "into a socket": lambda: ours.send(data, socket.MSG_DONTWAIT),
            "slices of a view": lambda: memoryview(data)[10:-10][::2],
            "compare_digest": lambda: hmac.compare_digest(data, self.oracle),
        }
        for name, function in work.items():
            function()
            tracemalloc.start()
            try:
                function()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            self.assertLess(peak, 2000, name)

    def test_numpy_like_casts_share_the_memory(self):
        size = len(self.oracle) // 8 * 8
        words = memoryview(self.buffer)[:size].cast("Q")
        self.assertEqual(words.tolist()[:3], list(struct.unpack("=3Q", self.oracle[:24])))
        self.assertEqual(self.address(words), self.address(self.buffer))
        self.assertRaises(TypeError, operator.setitem, words, 0, 1)

    def test_ctypes_gets_no_writable_memory(self):
        self.assertRaises(TypeError, (ctypes.c_char * 4).from_buffer, self.buffer)
        self.assertEqual((ctypes.c_char * 4).from_buffer_copy(self.buffer).raw, self.oracle[:4])

    def test_slices_are_copies_and_outlive_it(self):
        data, oracle = live.buffers.pop(5)
        parts = [data[:3], data[::-1], bytes(data), data[0:]]
        view = memoryview(data)[1:-1]
        del data
        gc.collect()
        self.assertEqual(parts, [oracle[:3], oracle[::-1], oracle, oracle])
        self.assertEqual(bytes(view), oracle[1:-1])
        live.buffers.insert(5, (view.obj, oracle))

    def test_it_counts_its_pooled_memory(self):
        self.assertGreaterEqual(sys.getsizeof(self.buffer), len(self.oracle))
