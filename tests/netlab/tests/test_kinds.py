"""The table of expected paths, the choice of cells, and the rules of gateways as text."""

import unittest

from netlab.kinds import CI_CELLS, DIRECT, EXPECTED, KINDS, NONE, PATHS, PUNCHED, RELAYED, NoSuchCell, chosen_cells, expected, parse_cell
from netlab.rules import gateway_rules


class Table(unittest.TestCase):
    def test_every_pair_is_expected_to_take_one_path_for_a_reason(self):
        for one in KINDS:
            for other in KINDS:
                found = expected(one, other)
                self.assertIn(found.path, PATHS)
                self.assertTrue(found.why)
        self.assertEqual(len(EXPECTED), len(KINDS) * (len(KINDS) + 1) // 2)

    def test_it_does_not_matter_who_has_the_content(self):
        for one in KINDS:
            for other in KINDS:
                self.assertEqual(expected(one, other), expected(other, one))

    def test_paths_follow_from_what_the_gateways_do(self):
        for one in KINDS.values():
            for other in KINDS.values():
                common = one.versions & other.versions
                path = expected(one.name, other.name).path
                if not one.versions or not other.versions:
                    self.assertEqual(path, DIRECT if one == other else NONE)
                elif not common:
                    self.assertEqual(path, RELAYED)
                elif one.open or other.open:
                    self.assertEqual(path, DIRECT)
                else:
                    self.assertEqual(path, RELAYED if "random" in (one.mapping, other.mapping) else PUNCHED)


class Cells(unittest.TestCase):
    def test_the_ten_of_ci_have_every_path_that_connects_and_every_kind_that_is_connected(self):
        self.assertEqual(len(set(CI_CELLS)), 10)
        self.assertEqual({cell.expected.path for cell in CI_CELLS}, {DIRECT, PUNCHED, RELAYED})
        self.assertEqual({kind for cell in CI_CELLS for kind in (cell.seeds, cell.gets)}, KINDS.keys() - {"no-internet"})
        self.assertEqual({cell.transport for cell in CI_CELLS}, {"tcp", "quic", "both"})

    def test_full_has_every_pair_once_and_all_both_directions(self):
        full, every = chosen_cells("full", ["tcp", "quic"]), chosen_cells("all", ["tcp"])
        self.assertEqual(len(set(full)), 2 * 36)
        self.assertEqual({frozenset((c.seeds, c.gets)) for c in full}, set(EXPECTED))
        self.assertEqual(len(set(every)), 64)

    def test_a_cell_is_written_as_it_is_read(self):
        for cell in CI_CELLS:
            self.assertEqual(parse_cell(str(cell)), cell)

    def test_what_is_no_cell_is_refused_by_name(self):
        for text, words in (("public:public", "no cell"), ("public:pubic:tcp", "no such kind: pubic"),
                            ("public:public:udp", "no such transport: udp"), ("", "no cell")):
            with self.assertRaisesRegex(NoSuchCell, words):
                chosen_cells(text, ["tcp"])


class Rules(unittest.TestCase):
    gateways = ("port-keeping", "port-changing", "symmetric", "port-forward", "double-nat", "ipv6-only")

    def rules(self, kind):
        return gateway_rules(kind, "10.0.1.2", "192.88.99.11")

    def test_every_gateway_drops_what_nobody_asked_for(self):
        for kind in self.gateways:
            self.assertIn("hook input priority 0; policy drop;", self.rules(kind))
            self.assertIn("hook forward priority 0; policy drop;", self.rules(kind))
            self.assertNotIn("chain fwd", self.rules(kind))

    def test_each_maps_in_its_own_way(self):
        self.assertIn('oifname "wan" masquerade\n', self.rules("port-keeping"))
        self.assertEqual(self.rules("port-keeping"), self.rules("double-nat"))
        self.assertIn('oifname "wan" masquerade random,fully-random\n', self.rules("symmetric"))
        changing = self.rules("port-changing")
        for protocol in ("udp", "tcp"):
            self.assertIn(f'oifname "wan" {protocol} sport 4343 snat to 192.88.99.11:6343\n', changing)
            self.assertIn(f'iifname "wan" {protocol} dport 4343 dnat to 10.0.1.2:4343\n', self.rules("port-forward"))
        self.assertLess(changing.index("snat"), changing.index("masquerade"))
        for kind in set(self.gateways) - {"port-forward"}:
            self.assertNotIn("dnat to", self.rules(kind))

    def test_ipv6_is_not_translated(self):
        self.assertNotIn("nat", self.rules("ipv6-only").replace("nd-", ""))
        self.assertIn("table ip6 lab", self.rules("ipv6-only"))

    def test_who_has_no_gateway_has_no_rules(self):
        for kind in ("public", "no-internet", "cone"):
            with self.assertRaises(ValueError):
                self.rules(kind)


if __name__ == "__main__":
    unittest.main()
