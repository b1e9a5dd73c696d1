"""Tests of the runner's arithmetic: python3 -m unittest discover bench/runner"""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import process
import scenarios
import tables
import wrk
from certificate import Certificate
from server import Failed, Kind, Server
from targets import ALL, Target


def samples(**servers):
    return {name: [{"value": value} for value in values] for name, values in servers.items()}


class Targets(unittest.TestCase):
    def test_a_ratio_is_that_of_the_medians(self):
        taken = {"small": samples(ours=[10, 14, 99], peer=[1, 10, 12])}
        target = Target("", "small", "ours", "peer", "value", least=1.4)
        self.assertEqual(target.measured(taken), 1.4)
        self.assertTrue(target.met(1.4))
        self.assertFalse(target.met(1.39))

    def test_a_limit_needs_no_peer(self):
        target = Target("", "idle", "ours", None, "value", most=6)
        self.assertEqual(target.measured({"idle": samples(ours=[5, 6, 7])}), 6)
        self.assertFalse(target.met(6.1))

    def test_what_was_not_measured_is_neither_met_nor_missed(self):
        target = Target("", "small", "ours", "peer", "value", least=1)
        for taken in ({}, {"small": samples(ours=[1])}, {"small": samples(peer=[1])}):
            self.assertIsNone(target.measured(taken))
            self.assertIn("not measured", tables.targets([target], taken))


class Wrk(unittest.TestCase):
    REPORT = """Running 1s test @ http://127.0.0.1:8080/
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   601.38us  112.08us   4.02ms   93.33%
  Latency Distribution
     50%  580.00us
     99%    1.05ms
  116593 requests in 1.10s, 9.78MB read
Requests/sec: 105992.28
"""

    def test_its_report_is_read(self):
        read = wrk.parsed(self.REPORT, "x")
        self.assertEqual(read["requests"], 116_593)
        self.assertEqual(read["requests_per_s"], 105_992.28)
        self.assertEqual((read["p50_us"], read["p99_us"]), (580, 1_050))

    def test_a_request_that_failed_fails_the_run(self):
        for failure in ("Socket errors: connect 0, read 3", "Non-2xx or 3xx responses: 4"):
            with self.assertRaisesRegex(Failed, failure):
                wrk.parsed(self.REPORT + failure, "x")


class Tables(unittest.TestCase):
    def test_a_grid_has_a_row_for_each_cell(self):
        def taken(rate, cpu):
            return [{"requests_per_s": rate, "cpu_us": cpu}]

        plain = {"asyncio": taken(1, 9), "uvloop": taken(2, 4), "ours": taken(3, 3)}
        secure = {"uvloop_tls": taken(10, 2), "ours": taken(40, 1)}
        text = tables.grid("T", [("a", plain), ("b", secure)], {"ours"})
        self.assertIn("| a | 1.00 | 2.00 | 3.00 | 1.50 | 0.75 |", text)
        self.assertIn("| b |  | 10.0 | 40.0 | 4.00 | 0.50 |", text)

    def test_every_subject_is_compared_with_every_peer(self):
        taken = samples(one=[2, 4], two=[1, 1], ours=[4, 4])
        for server in taken.values():
            for sample in server:
                sample["cpu_us"] = sample["value"]
        text = tables.ratios(("cpu_us",), taken, {"ours"})
        self.assertIn("| ratio to | one | two |", text)
        self.assertIn("| 1.33 (1.00 – 2.00) | 4.00 (4.00 – 4.00) |", text)

    def test_no_peers_no_ratios(self):
        self.assertEqual(tables.ratios(("cpu_us",), samples(ours=[1]), {"ours"}), "")

    def test_what_was_negotiated_is_said_once_for_all_who_did(self):
        taken = {"one": [{"tls": ["a"]}, {"tls": ["a"]}], "two": [{"tls": ["a"]}]}
        self.assertEqual(tables.negotiated(taken), "\nNegotiated with one, two: a.\n")
        self.assertEqual(tables.negotiated({"one": [{"tls": []}], "two": [{}]}), "")


class Process(unittest.TestCase):
    def test_a_child_is_part_of_its_parent_and_its_work_is_seen(self):
        code = "import sys; x = bytearray(50 << 20); del x; print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            child.stdout.readline()
            self.assertIn(child.pid, process.tree(os.getpid()))
            resident, peak = process.memory_kib([child.pid])
            self.assertGreater(peak, resident + 40 * 1024)
            process.reset_peak([child.pid])
            self.assertLess(process.memory_kib([child.pid])[1], resident + 10 * 1024)
            self.assertGreaterEqual(process.open_files([child.pid]), 3)


class Scenarios(unittest.TestCase):
    def test_every_column_has_a_heading(self):
        for scenario in scenarios.ALL:
            for column in (*scenario.columns, *scenario.ratios):
                self.assertIn(column, tables.HEADINGS, scenario.name)

    def test_what_peers_lack_is_measured_of_subjects_only(self):
        peer, ours = kinds = [Kind("peer", ()), Kind("ours", (), subject=True)]
        for subjects, expected in ((False, [peer, ours]), (True, [ours])):
            scenario = scenarios.Scenario("x", "", None, (), (), subjects=subjects)
            self.assertEqual(scenario.measured(kinds), expected)

    def test_tls_is_measured_of_those_who_speak_it(self):
        kinds = [Kind("peer", ()), Kind("tls", (), speaks=("tls",)), Kind("both", (), speaks=BOTH)]
        for over, expected in (("tcp", ["peer", "both"]), ("tls", ["tls", "both"])):
            scenario = scenarios.Scenario("x", "", None, (), (), over=over)
            self.assertEqual([kind.name for kind in scenario.measured(kinds)], expected)

    def test_what_is_measured_by_default_exists_and_promises_can_be_looked_up(self):
        names = {scenario.name for scenario in scenarios.ALL}
        self.assertLessEqual(set(scenarios.DEFAULT), names | set(scenarios.GRIDS))
        self.assertLessEqual({target.scenario for target in ALL}, names)


BOTH = ("tcp", "tls")
ANSWER = {"requests": 8, "requests_per_s": 4, "p50_us": 1, "p99_us": 2, "max_us": 3}

# A load client that says what it is to say, if it is told to speak TLS.
CLIENT = """#!{python}
import json, sys
assert "--tls" in sys.argv
for line in {lines}:
    print(json.dumps(line), flush=True)
"""


class Tls(unittest.TestCase):
    def measure(self, said):
        code = "import sys; open(sys.argv[2]); print('READY 4711', flush=True); sys.stdin.read()"
        kind = Kind("ours", (sys.executable, "-c", code), speaks=BOTH)
        with tempfile.TemporaryDirectory() as directory, Certificate() as certificate:
            binary = Path(directory) / "client"
            lines = [{"event": "measuring"}, {"event": "measured"}, {**ANSWER, "tls": said}]
            binary.write_text(CLIENT.format(python=sys.executable, lines=lines))
            binary.chmod(0o700)
            settings = scenarios.Settings(binary, 1, 0, 0, 1, 1, 1, 1, certificate)
            return scenarios.under_load_over_tls("echo", kind, settings, size=64)

    def test_what_was_negotiated_is_part_of_the_sample(self):
        sample = self.measure([scenarios.TLS])
        self.assertEqual(sample["tls"], [scenarios.TLS])
        self.assertGreater(sample["per_cpu_s"], 0)

    def test_anything_else_that_is_negotiated_fails_the_sample(self):
        for said in ([], [scenarios.TLS.replace("Full", "Resumed")], [scenarios.TLS, "more"]):
            with self.assertRaisesRegex(Failed, "ours negotiated"):
                self.measure(said)

    def test_the_certificate_is_of_the_key_and_goes_with_the_run(self):
        with Certificate() as certificate:
            shown = [
                subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
                for command in (
                    f"openssl x509 -in {certificate.certfile} -noout -pubkey",
                    f"openssl pkey -in {certificate.keyfile} -pubout",
                )
            ]
            self.assertEqual(shown[0], shown[1])
            command = ["openssl", "pkey", "-in", str(certificate.keyfile), "-noout", "-text"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            self.assertIn("P-256", text)
        self.assertFalse(certificate.keyfile.exists())


class Servers(unittest.TestCase):
    def test_one_that_ends_instead_of_starting_says_why(self):
        kind = Kind("broken", (sys.executable, "-c", "raise SystemExit('no such thing')"))
        with self.assertRaisesRegex(Failed, "broken ended instead of starting: no such thing"):
            Server(kind)

    def test_one_can_be_told_more(self):
        kind = Kind("good", ("run", "script"), subject=True).told("deadlines")
        self.assertEqual(kind.command, ("run", "script", "deadlines"))
        self.assertEqual((kind.name, kind.subject), ("good", True))

    def test_one_that_starts_is_ended_with_its_input(self):
        code = "import sys; print('READY 4711', flush=True); sys.stdin.read()"
        with Server(Kind("good", (sys.executable, "-c", code))) as server:
            self.assertEqual(server.address, "127.0.0.1:4711")
            server.check()
        with self.assertRaisesRegex(Failed, "good ended with 0"):
            server.check()


if __name__ == "__main__":
    unittest.main()
