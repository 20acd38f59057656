"""What is undone, when, and in which order; and whose leftovers are touched."""

import contextlib
import io
import os
import struct
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from netlab import cleanup, conntrack
from netlab.__main__ import main, parse
from netlab.cleanup import Ledger, Stopped, is_stale, own_prefix, start_time, sweep, sweep_run
from netlab.runner import Job, Runner


class TheLedger(unittest.TestCase):
    def test_what_was_made_last_goes_first_and_a_failure_keeps_nobody(self):
        ledger, gone = Ledger(), []

        def broken():
            raise OSError("busy")

        for what in ("namespace", "folder"):
            ledger.add(what, lambda what=what: gone.append(what))
        ledger.add("process", broken)
        self.assertEqual(ledger.held(), ["namespace", "folder", "process"])
        self.assertEqual(ledger.close(), ["process: busy"])
        self.assertEqual(gone, ["folder", "namespace"])
        self.assertEqual(ledger.close(), [])

    def test_what_comes_after_the_end_is_undone_at_once(self):
        ledger, gone = Ledger(), []
        ledger.close()
        with self.assertRaises(Stopped):
            ledger.add("late", lambda: gone.append("late"))
        self.assertEqual(gone, ["late"])

    def test_a_wait_ends_with_the_run(self):
        ledger = Ledger()
        threading.Timer(0.05, ledger.close).start()
        with self.assertRaises(Stopped):
            ledger.sleep(60)


class Leftovers(unittest.TestCase):
    def test_an_owner_is_known_by_id_and_start(self):
        me = os.getpid()
        self.assertFalse(is_stale(own_prefix()))
        self.assertFalse(is_stale(f"{own_prefix()}-3-hub"))
        self.assertTrue(is_stale(f"netlab-{me}-{start_time(me) + 1}-3-hub"))
        self.assertTrue(is_stale("netlab-5-7", lambda _: None))

    def test_what_is_not_the_labs_is_never_stale(self):
        for name in ("netlab", "netlab-x-1", "my-netlab-1-2", "netlab-1", "hub", "netlab-1-2x"):
            self.assertFalse(is_stale(name, lambda _: None))

    def test_folders_of_a_run_go_and_those_of_others_stay(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(cleanup, "NETNS", Path(folder) / "none"):
            for name in ("netlab-1-2-0-a", "netlab-1-22-0-a", "netlab-kept", "other"):
                (Path(folder) / name).mkdir()
            self.assertEqual(sweep_run("netlab-1-2", Path(folder)), ["netlab-1-2-0-a"])
            self.assertEqual(sweep(lambda _: True, Path(folder)), ["netlab-1-22-0-a"])
            self.assertEqual(sorted(os.listdir(folder)), ["netlab-kept", "other"])


class TheRunner(unittest.TestCase):
    def run_jobs(self, jobs, folder):
        found = []
        runner = Runner(2, Path(folder), Path(folder) / "logs")
        runner.run(jobs, lambda result, _took, logs: found.append((result, logs)))
        return found

    def test_an_error_is_a_result_and_the_logs_of_failures_stay_when_the_rest_is_gone(self):
        def good(_prefix, folder, ledger):
            ledger.add("nothing", lambda: None)
            (folder / "a.log").write_text("fine")
            return "good"

        def bad(_prefix, folder, _ledger):
            (folder / "a.log").write_text("what happened")
            (folder / "content.bin").write_text("large")
            raise OSError("no route")

        with tempfile.TemporaryDirectory() as folder:
            jobs = [Job(name, run, lambda why: why, lambda result: result != "good") for name, run in
                    (("one", good), ("a:b", bad), ("two", good))]
            found = self.run_jobs(jobs, folder)
            self.assertEqual(sorted(result for result, _ in found), ["OSError: no route", "good", "good"])
            self.assertEqual([logs.name for _, logs in found if logs], ["a+b"])
            self.assertEqual([p.name for p in sorted(Path(folder).rglob("*"))], ["logs", "a+b", "a.log"])

    def test_an_interrupt_ends_jobs_that_wait(self):
        started = threading.Event()

        def waits(_prefix, _folder, ledger):
            started.set()
            ledger.sleep(600)

        class Asked(Exception):
            pass

        def first(*_):
            started.wait()
            return "first"

        def interrupt(*_):
            raise Asked

        with tempfile.TemporaryDirectory() as folder:
            jobs = [Job(name, run, str, lambda _: False) for name, run in (("first", first), ("waits", waits))]
            with self.assertRaises(Asked):
                Runner(2, Path(folder), None).run(jobs, interrupt)
            self.assertEqual(os.listdir(folder), [])


class Options(unittest.TestCase):
    def refused(self, argv):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), self.assertRaises(SystemExit) as ended:
            parse(argv)
        self.assertEqual(ended.exception.code, 2)
        return said.getvalue()

    def test_what_cannot_be_is_refused_by_name(self):
        for argv, words in ((["--cells", "public:pubic:tcp"], "no such kind: pubic"),
                            (["--transports", "udp"], "no such transport: udp"),
                            (["--scenarios", "flood"], "no such scenario: flood"), (["--mib", "0"], "at least 1"),
                            (["--jobs", "0"], "at least 1"), (["--delay-ms", "-1"], "at least 0"),
                            (["--internet", "10.0"], "three numbers")):
            self.assertIn(words, self.refused(argv))

    def test_everything_is_run_by_default_and_only_what_is_named_otherwise(self):
        self.assertEqual(len(parse([]).cells), 72)
        self.assertEqual((parse(["--prove"]).cells, parse(["--scenarios", "all"]).cells), ([], []))
        self.assertEqual(len(parse(["--prove", "--cells", "ci"]).cells), 10)

    def test_where_the_lab_cannot_run_it_says_so_and_fails_only_if_required(self):
        for argv, code in (([], 0), (["--require"], 1)):
            said = io.StringIO()
            with mock.patch("netlab.__main__.missing", return_value="not root"), \
                    mock.patch("netlab.__main__.clean_stale", return_value=[]), contextlib.redirect_stdout(said):
                self.assertEqual(main(["--cells", "ci", *argv]), code)
            self.assertEqual(said.getvalue(), "SKIPPED: net lab, 10 cells: not root\n")


class Netlink(unittest.TestCase):
    def test_a_request_is_the_header_and_an_empty_body(self):
        self.assertEqual(conntrack.message(conntrack.DELETE, 5), struct.pack("=IHHIIBBH", 20, 0x102, 5, 1, 0, 0, 0, 0))

    def test_messages_are_told_apart_and_half_ones_end_it(self):
        data = struct.pack("=IHHII", 18, 0x100, 0, 1, 0) + b"ab\0\0" + struct.pack("=IHHIIi", 20, 3, 0, 1, 0, 0)
        self.assertEqual([(kind, body) for kind, body in conntrack.walk(data)], [(0x100, b"ab"), (3, b"\0\0\0\0")])
        self.assertEqual(conntrack.walk(b"\1\0\0\0" * 4), [])


if __name__ == "__main__":
    unittest.main()
