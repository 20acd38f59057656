"""Lines, matrices and the block in a document."""

import unittest
from pathlib import Path

from netlab.cells import Outcome, path_of
from netlab.kinds import KINDS
from netlab.report import (BEGIN, END, expected_table, line, markdown, markdown_table, matrices, replace_block, summary,
                           text_table)

ROOT = Path(__file__).resolve().parents[3]


def outcome(seeds, gets, transport="tcp", saw="direct", ok=True, **more):
    return Outcome(f"{seeds}:{gets}:{transport}", saw, ok, saw, seeds=seeds, gets=gets, transport=transport, **more)


class Matrix(unittest.TestCase):
    def test_rows_have_the_content_and_columns_fetch_it(self):
        found = [outcome("public", "symmetric", whole_s=0.4), outcome("port-keeping", "public", ok=False, saw="none"),
                 outcome("public", "public", "quic", skipped="no root")]
        tcp, quic = matrices(found)
        self.assertEqual(tcp, [["tcp", "public", "symmetric"], ["public", "", "direct 0.40"], ["port-keeping", "FAILED none", ""]])
        self.assertEqual(quic, [["quic", "public"], ["public", "skipped"]])
        self.assertEqual(text_table(tcp).splitlines()[1], "public                     direct 0.40")
        self.assertEqual(markdown_table(quic), "| quic | public |\n|---|---|\n| public | skipped |")

    def test_a_line_says_what_was_expected_and_why_it_is_not_that(self):
        failed = outcome("public", "public", ok=False, saw="relayed", why="relayed instead of direct", relayed_share=1.0)
        self.assertTrue(line(failed).startswith("FAILED  public:public:tcp: relayed (relayed)"))
        self.assertIn("100% relayed; relayed instead of direct", line(failed))

    def test_the_summary_counts_what_was_skipped(self):
        found = [outcome("public", "public"), outcome("public", "public", ok=False), outcome("public", "public", skipped="x")]
        self.assertEqual(summary(found), "3 cells: 1 ok, 1 FAILED, 1 SKIPPED")
        self.assertEqual(summary([]), "0 cells: 0 ok")


class Document(unittest.TestCase):
    def test_only_what_is_between_the_marks_changes(self):
        text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
        new = replace_block(text, markdown([outcome("public", "public")], [], "about"))
        self.assertTrue(new.startswith(f"before\n{BEGIN}\nabout\n\n| tcp |") and new.endswith(f"\n{END}\nafter\n"))

    def test_a_document_without_marks_is_refused(self):
        for text in ("", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"):
            with self.assertRaises(ValueError):
                replace_block(text, "x")

    def test_the_document_has_the_marks_and_the_table_of_expected_paths(self):
        text = (ROOT / "docs" / "nat.md").read_text()
        replace_block(text, "x")
        self.assertIn(markdown_table(expected_table()), text)
        for kind in KINDS:
            self.assertIn(f"`{kind}`", text)


class Paths(unittest.TestCase):
    def test_what_is_not_relayed_is_punched_only_between_two_that_let_nobody_in(self):
        self.assertEqual(path_of(0.9, ("public", "public")), "relayed")
        self.assertEqual(path_of(0.1, ("public", "symmetric")), "direct")
        self.assertEqual(path_of(0.1, ("port-keeping", "port-forward")), "direct")
        self.assertEqual(path_of(0.1, ("port-keeping", "double-nat")), "punched")
        self.assertEqual(path_of(0.0, ("no-internet", "no-internet")), "direct")


if __name__ == "__main__":
    unittest.main()
