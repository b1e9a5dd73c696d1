"""Tests of the runner's arithmetic: python3 -m unittest discover bench/runner"""

import os
import subprocess
import sys
import unittest

import process
import scenarios
import tables
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


class Tables(unittest.TestCase):
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

    def test_what_is_measured_by_default_exists_and_promises_can_be_looked_up(self):
        names = {scenario.name for scenario in scenarios.ALL}
        self.assertLessEqual(set(scenarios.DEFAULT), names)
        self.assertLessEqual({target.scenario for target in ALL}, names)


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
