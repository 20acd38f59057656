"""Tests of what the comparison makes of its measurements; nothing is run or measured here."""
