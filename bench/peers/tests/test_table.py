"""Tables: ratios are of the same round, and nothing is made up where a figure is missing."""

import unittest

from peerbench.bench import is_clean
from peerbench.scenarios import all_scenarios
from peerbench.table import (HELD, cpu_of, floor_lines, held_figures, markdown, over_floor, paired_ratios, rate_of,
                             rows_of, span, time_of)

MIB, GIB = 1 << 20, 1 << 30
ONE = next(s for s in all_scenarios(64) if s.name == "one")


def record(case, round_, wall_s, **more):
    return {"scenario": "one", "case": case, "round": round_, "bytes": 64 * MIB, "wall_s": wall_s, "tmpfs": True,
            "getter_cpu_s": 0.5, "provider_cpu_s": 0.25, "getter_rss_mib": 30.0, "getter_own_mib": 12.0,
            "provider_rss_mib": 20.0, "publish_s": 0.1, "clean": True, **more}


class Figures(unittest.TestCase):
    def test_a_sync_counts_only_where_the_content_is_on_disk(self):
        self.assertEqual(time_of(record("dhtfs", 0, 2.0, sync_s=1.0)), 2.0)
        self.assertEqual(time_of(record("dhtfs", 0, 2.0, sync_s=1.0, tmpfs=False)), 3.0)
        self.assertEqual(rate_of(record("dhtfs", 0, 1.0, sync_s=1.0, tmpfs=False)), 32.0)

    def test_cpu_is_that_of_both_sides_over_the_floor_for_the_bytes_of_the_run(self):
        run = record("dhtfs", 0, 1.0, floor_s_per_gib=4.0)
        self.assertEqual(cpu_of(run), 0.75)
        self.assertEqual(over_floor(run), 0.75 / (4.0 * 64 * MIB / GIB))
        self.assertIsNone(over_floor(record("dhtfs", 0, 1.0)))
        self.assertIsNone(cpu_of({"wall_s": 1.0}))

    def test_ratios_pair_runs_of_the_same_round_and_skip_rounds_that_lack_one(self):
        runs = [record("dhtfs", 0, 1.0), record("http", 0, 2.0), record("dhtfs", 1, 4.0), record("http", 1, 2.0),
                record("dhtfs", 2, 9.0), {"scenario": "one", "case": "http", "round": 2, "error": "ended with 1"}]
        rows = rows_of(runs, "one")
        self.assertEqual(paired_ratios(rows, "dhtfs", "http"), [2.0, 0.5])
        self.assertEqual(paired_ratios(rows, "dhtfs", "sendme"), [])

    def test_a_span_shows_its_ends_only_where_they_differ(self):
        self.assertEqual(span([1.0, 3.0, 2.0], 2), "2.00 (1.00-3.00)")
        self.assertEqual(span([1.0, 1.001], 2), "1.00")
        self.assertEqual(span([], 2), "")

    def test_small_rates_keep_their_decimals(self):
        self.assertEqual(span([0.944, 0.95, 0.96]), "0.95 (0.94-0.96)")
        self.assertEqual(span([120.4, 180.6]), "150 (120-181)")

    def test_others_on_the_machine_make_a_run_disturbed(self):
        self.assertTrue(is_clean(1.0, 0.1, 0.05))
        self.assertFalse(is_clean(1.0, 0.1, 0.1))
        self.assertTrue(is_clean(0.02, 0.03, 0.0))


class Markdown(unittest.TestCase):
    def test_a_row_for_each_case_and_no_column_without_a_figure(self):
        text = markdown(ONE, [record("http", 0, 0.5), record("dhtfs", 0, 0.25), record("dhtfs", 1, 0.5)])
        head, rule, http, dhtfs = text.splitlines()[2:6]
        self.assertEqual(head, "|  | s | MiB/s | to http | CPU s | RSS MiB: getter (own) / provider | publish s | undisturbed |")
        self.assertEqual(rule.count("|"), head.count("|"))
        self.assertEqual(http, "| http | 0.50 | 128 | 1.00 | 0.75 | 30 (12) / 20 | 0.10 | 1 of 1 |")
        self.assertEqual(dhtfs, "| dhtfs | 0.38 (0.25-0.50) | 192 (128-256) | 2.00 | 0.75 | 30 (12) / 20 | 0.10 | 2 of 2 |")

    def test_an_error_is_told_below_the_table(self):
        text = markdown(ONE, [record("http", 0, 0.5), {"scenario": "one", "case": "dhtfs", "round": 1, "error": "why"}])
        self.assertIn("- dhtfs, round 1: error: why", text)
        self.assertNotIn("| dhtfs", text)

    def test_what_this_machine_cannot_do_is_told_as_skipped(self):
        text = markdown(ONE, [{"scenario": "one", "case": "dhtfs", "round": 0, "skipped": "/dev/net/tun: not there"}])
        self.assertIn("- dhtfs, round 0: skipped: /dev/net/tun: not there", text)

    def test_no_run_at_all_makes_no_table(self):
        self.assertNotIn("|", markdown(ONE, []))

    def test_the_floor_is_the_sum_of_its_medians(self):
        rates = {"tcp_s": 0.2, "cipher_s": 0.1, "sha256_s": 0.7, "write_s": 0.15, "sha256_all_mib_per_s": 3000.0}
        self.assertIn("TCP 0.20 + 2 x AES-128-GCM 0.10 + SHA-256 0.70 + write 0.15 = 1.25 s/GiB",
                      floor_lines([{"rates": rates}]))
        self.assertIn("No floor: openssl", floor_lines([{"rates": {**rates, "cipher_s": None}}]))
        self.assertEqual(floor_lines([]), "")

    def test_figures_that_were_not_measured_are_left_out(self):
        self.assertEqual(held_figures([]), "")
        text = held_figures([record("dhtfs", 0, 0.25, floor_s_per_gib=4.0), record("http", 0, 0.5)])
        self.assertIn("to the plain way: 2.00", text)
        self.assertIn("over the floor: 3.00", text)
        self.assertNotIn("rqbit", text)

    def test_every_held_figure_names_a_scenario_that_exists(self):
        self.assertEqual({h[1] for h in HELD} - {s.name for s in all_scenarios(1)}, set())


if __name__ == "__main__":
    unittest.main()
