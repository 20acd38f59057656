"""The harness from end to end, with root, on a program that finds every path (`stand_in.py`). Skipped where no lab can be built."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from netlab.cleanup import NETNS
from netlab.space import missing

HERE = Path(__file__).resolve().parent
REASON = missing()


@unittest.skipIf(REASON, f"SKIPPED: {REASON}")
class Harness(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def command(self, name, *args):
        """The command line of a run with a copy of the stand-in under this name."""
        program = self.folder / name
        program.write_text(f"#!{sys.executable}\n" + (HERE / "stand_in.py").read_text())
        program.chmod(0o755)
        (self.folder / "work").mkdir()
        return [HERE.parent / "run", "--dhtfs", program, "--json", "--delay-ms", "0", "--work", self.folder / "work",
                "--logs", self.folder / "logs", *args]

    def run_cells(self, name, *args):
        """The exit code and the outcomes by name."""
        done = subprocess.run(self.command(name, *args), capture_output=True, text=True, timeout=240)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(list((self.folder / "work").iterdir()), [])
        return done.returncode, {outcome["name"]: outcome for outcome in found}

    def test_every_path_is_recognised(self):
        cells = {"public:public:tcp": "direct", "port-keeping:public:tcp": "direct", "port-forward:symmetric:tcp": "direct",
                 "port-changing:double-nat:tcp": "punched", "ipv6-only:ipv6-only:tcp": "punched",
                 "symmetric:port-keeping:tcp": "relayed", "ipv6-only:port-keeping:tcp": "relayed",
                 "no-internet:public:tcp": "none"}
        code, found = self.run_cells("stand-in", "--mib", "8", "--cells", ",".join(cells))
        self.assertEqual({name: (o["saw"], o["why"], o["notes"]) for name, o in found.items()},
                         {name: (path, "", []) for name, path in cells.items()})
        self.assertEqual(code, 0)
        self.assertEqual(found["symmetric:port-keeping:tcp"]["reach"], ["relayed", "punchable"])
        self.assertGreater(found["symmetric:port-keeping:tcp"]["relayed_share"], 0.99)
        self.assertLess(found["port-changing:double-nat:tcp"]["relayed_share"], 0.02)

    def test_a_program_that_hides_a_relay_is_found_out_and_its_logs_are_kept(self):
        code, found = self.run_cells("liar", "--mib", "4", "--cells", "symmetric:symmetric:tcp")
        self.assertEqual(code, 1)
        outcome = found["symmetric:symmetric:tcp"]
        self.assertIn("the program says direct, the wires relayed", outcome["why"])
        self.assertEqual(outcome["logs"], str(self.folder / "logs" / "symmetric+symmetric+tcp"))
        self.assertTrue((Path(outcome["logs"]) / "hub.log").exists())

    def test_when_the_relay_that_carries_is_killed_the_other_takes_over(self):
        code, found = self.run_cells("stand-in", "--mib", "24", "--scenarios", "relay-killed")
        self.assertEqual((code, found["relay-killed"]["why"]), (0, ""))
        self.assertRegex(found["relay-killed"]["notes"][0], "(hub|observer) killed, which relayed")

    def test_an_interrupted_run_leaves_nothing(self):
        running = subprocess.Popen(self.command("stand-in", "--cells", "symmetric:symmetric:tcp"), stderr=subprocess.PIPE, text=True,
                                   stdout=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while not list(self.folder.glob("work/*/seeds.out")) and time.monotonic() < end:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        self.assertIn("everything is removed", running.communicate(timeout=30)[1])
        self.assertEqual(running.returncode, 130)
        self.assertEqual([name for name in os.listdir(NETNS) if name.startswith(f"netlab-{running.pid}-")], [])
        self.assertEqual(list((self.folder / "work").iterdir()), [])


if __name__ == "__main__":
    unittest.main()
