"""The lab itself, with root: whether its proofs notice gateways that are wrong. Skipped where no lab can be built."""

import os
import subprocess
import unittest
from unittest import mock

from netlab import topology
from netlab.cleanup import NETNS, Ledger, own_prefix, sweep_run
from netlab.prove import prove, prove_forgetting, prove_kind, prove_pair
from netlab.rules import gateway_rules
from netlab.space import missing

REASON = missing()


def changed(*changes):
    """Rules of gateways with something replaced in them."""
    def rules(*args):
        text = gateway_rules(*args)
        for old, new in changes:
            text = text.replace(old, new)
        return text

    return mock.patch.object(topology, "gateway_rules", rules)


@unittest.skipIf(REASON, f"SKIPPED: {REASON}")
class WrongGateways(unittest.TestCase):
    number = 0

    def failed(self, kinds, prover):
        """The claims that do not hold."""
        WrongGateways.number += 1
        ledger = Ledger()
        try:
            return [p.claim for p in prove(f"{own_prefix()}-t{self.number}", ledger, kinds, [prover], topology.INTERNET_4)
                    if not p.holds]
        finally:
            self.assertEqual(ledger.close(), [])

    def test_right_ones_pass(self):
        self.assertEqual(self.failed(("port-changing", "public"), prove_kind), [])

    def test_a_symmetric_one_that_keeps_ports_is_noticed(self):
        with changed((" random,fully-random", "")):
            claims = self.failed(("symmetric", "public"), prove_kind)
            self.assertIn("UDP: another port for every destination", claims)
            self.assertIn("TCP: another port for every destination", claims)
            self.assertIn("UDP: a punch fails", self.failed(("symmetric", "port-keeping"), prove_pair))

    def test_a_port_changing_one_that_is_symmetric_is_noticed(self):
        with changed((" snat to 192.88.99.11:6343", " masquerade random,fully-random")):
            self.assertIn("UDP: port 6343 for every destination", self.failed(("port-changing", "public"), prove_kind))

    def test_one_that_answers_a_stranger_is_noticed(self):
        with changed(("hook input priority 0; policy drop", "hook input priority 0; policy accept")):
            claims = self.failed(("port-keeping", "public"), prove_kind)
            self.assertIn("TCP: a stranger's connection is dropped without an answer", claims)
            self.assertIn("UDP: a packet that came too early does not change the port", claims)

    def test_a_forward_that_is_not_there_is_noticed(self):
        with changed(("dnat to 10.0.1.2:4343", "accept")):
            claims = self.failed(("port-forward", "public"), prove_kind)
            self.assertIn("TCP: a stranger's connection is let in", claims)

    def test_an_open_door_where_none_should_be_is_noticed(self):
        dnat = 'type nat hook prerouting priority -100;\n        iifname "wan" udp dport 4343 dnat to 10.0.1.2:4343'
        with changed(("type nat hook prerouting priority -100;", dnat)):
            self.assertIn("UDP: a stranger's other port is dropped", self.failed(("port-keeping", "public"), prove_kind))

    def test_an_open_ipv6_gateway_is_noticed(self):
        with changed(("hook forward priority 0; policy drop", "hook forward priority 0; policy accept")):
            claims = self.failed(("ipv6-only", "public"), prove_kind)
            self.assertIn("UDP: a stranger's other port is dropped", claims)

    def test_a_table_that_is_not_flushed_is_noticed(self):
        with mock.patch.object(topology.Space, "connections", lambda *_: 1):
            claims = self.failed(("port-keeping", "public"), prove_forgetting)
            self.assertIn("connection table flushed: no entry is left", claims)
            self.assertIn("connection table flushed: an answer of the hub is dropped", claims)


@unittest.skipIf(REASON, f"SKIPPED: {REASON}")
class Removal(unittest.TestCase):
    def test_a_namespace_goes_with_what_runs_in_it(self):
        prefix = f"{own_prefix()}-gone"
        subprocess.run(["ip", "netns", "add", f"{prefix}-a"], check=True)
        inside = subprocess.Popen(["nsenter", f"--net={NETNS / prefix}-a", "--", "sleep", "600"])
        try:
            while os.readlink(f"/proc/{inside.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                pass
            self.assertEqual(sweep_run(prefix), [f"{prefix}-a"])
            self.assertEqual(inside.wait(10), -9)
            self.assertFalse((NETNS / f"{prefix}-a").exists())
        finally:
            inside.kill()
            inside.wait()


if __name__ == "__main__":
    unittest.main()
