"""The link and the relay, on a clock of their own; and the options."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

from peerbench.__main__ import parse
from peerbench.files import digest_of, make_file, make_tree
from peerbench.link import Direction
from peerbench.process import Child, Measured, RunError, measure
from peerbench.relay import Pace


class Link(unittest.TestCase):
    def test_packets_arrive_in_order_after_their_turn_and_the_delay(self):
        way = Direction(rate=1000.0, delay_s=0.5, queue_len=10_000)
        way.put(b"a" * 100, 0.0)
        way.put(b"b" * 100, 0.0)
        self.assertAlmostEqual(way.next_at(), 0.6)
        self.assertEqual(way.due(0.59), [])
        self.assertEqual(way.due(0.601), [b"a" * 100])
        self.assertEqual(way.due(0.701), [b"b" * 100])
        self.assertIsNone(way.next_at())

    def test_a_full_queue_loses_packets_and_counts_them(self):
        way = Direction(rate=1000.0, delay_s=0.5, queue_len=250)
        for _ in range(10):
            way.put(b"a" * 100, 0.0)
        self.assertEqual((len(way.held), way.lost), (3, 7))
        way.put(b"a" * 100, 10.0)
        self.assertEqual(len(way.held), 4)

    def test_no_more_than_the_rate_passes(self):
        way, passed = Direction(rate=50_000.0, delay_s=0.02, queue_len=10_000), 0
        for step in range(1000):
            now = step / 1000
            way.put(b"x" * 100, now)
            passed += sum(map(len, way.due(now)))
        self.assertTrue(45_000 < passed <= 50_000, passed)


class Relay(unittest.TestCase):
    def test_free_bytes_pass_at_once_and_the_rest_at_the_rate(self):
        pace = Pace(free_len=100, rate=10.0)
        self.assertEqual(pace.piece_len(), 100)
        self.assertEqual(pace.wait_s(60, 0.0), 0.0)
        self.assertEqual(pace.wait_s(40, 0.0), 0.0)
        self.assertAlmostEqual(pace.wait_s(10, 5.0), 1.0)
        self.assertAlmostEqual(pace.wait_s(10, 5.0), 2.0)

    def test_one_byte_a_second_is_taken_byte_by_byte(self):
        pace = Pace(free_len=0, rate=1.0)
        self.assertEqual(pace.piece_len(), 1)
        self.assertEqual([pace.wait_s(1, 0.0) for _ in range(3)], [1.0, 2.0, 3.0])

    def test_a_piece_on_the_border_waits_only_for_what_is_not_free(self):
        self.assertAlmostEqual(Pace(free_len=5, rate=10.0).wait_s(15, 0.0), 1.0)


class Files(unittest.TestCase):
    def test_digests_tell_contents_and_names_apart(self):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            digest = make_file(here / "a", (1 << 20) + 5)
            self.assertEqual(digest_of(here / "a"), digest)
            tree = make_tree(here / "tree", 205, 16)
            self.assertEqual(sum(1 for p in (here / "tree").rglob("*.bin")), 205)
            self.assertEqual(digest_of(here / "tree"), tree)
            file = next((here / "tree").rglob("*.bin"))
            file.rename(file.with_name("other.bin"))
            self.assertNotEqual(digest_of(here / "tree"), tree)


class Processes(unittest.TestCase):
    def test_a_failing_getter_is_an_error_and_the_other_one_is_ended(self):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            good = Measured(["sleep", "600"], here, here / "good.log")
            bad = Measured(["sh", "-c", "echo broken; exit 3"], here, here / "bad.log")
            with self.assertRaisesRegex(RunError, "ended with 3: broken"):
                measure([good, bad])
            self.assertIsNotNone(good.popen.returncode)

    def test_usage_is_that_of_the_whole_command(self):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            usage, = measure([Measured(["sh", "-c", "exit 0"], here, here / "log")])
            self.assertGreater(usage.wall_s, 0.0)

    def test_waiting_for_a_program_that_ended_tells_its_last_words(self):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            child = Child(["sh", "-c", "echo no room"], here, here / "log")
            with self.assertRaisesRegex(RunError, "provider: ended with 0: no room"):
                child.wait_for(lambda said: "READY" in said, "provider", 60)


class Options(unittest.TestCase):
    def test_unknown_scenarios_and_programs_are_refused_by_name(self):
        for bad, words in ((["--only", "one,tow"], "no such scenario: tow"), (["--programs", "x"], "no such program: x"),
                           (["--mib", "0"], "above 0"), (["--runs", "0"], "at least 1")):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), self.assertRaises(SystemExit):
                parse(bad)
            self.assertIn(words, said.getvalue())

    def test_everything_is_chosen_by_default(self):
        options = parse([])
        self.assertIn("spoiled", options.only.split(","))
        self.assertIn("dhtfs-daemon", options.programs.split(","))


if __name__ == "__main__":
    unittest.main()
