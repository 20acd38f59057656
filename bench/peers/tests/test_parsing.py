"""What programs print, and the floor made of rates."""

import unittest

from peerbench.machine import Rates, parse_openssl
from peerbench.noname import refusal
from peerbench.programs import Tools
from peerbench.programs.dhtfs import Dhtfs, ready_line, report_of
from peerbench.programs.rqbit import Rqbit, magnet_of
from peerbench.programs.sendme import ticket_of
from peerbench.torrent import bencode, piece_len, tracker_answer

READY = '{"peer_id":"12D3KooW","listen":["/ip4/127.0.0.1/tcp/4801/p2p/12D3KooW"]}\n'


class Programs(unittest.TestCase):
    def test_a_daemon_is_ready_with_its_whole_line_and_not_with_a_part_of_it(self):
        self.assertEqual(ready_line("INFO starting\n" + READY)["peer_id"], "12D3KooW")
        self.assertIsNone(ready_line(READY[:40]))
        self.assertIsNone(ready_line(""))

    def test_the_report_of_a_get_is_its_last_object_with_a_length_asked_for(self):
        printed = '{"event":"progress"}\n{"requested_len":12,"wasted_len":2}\ngot f: 12 B\n'
        self.assertEqual(report_of(printed)["requested_len"], 12)
        self.assertEqual(report_of("got f\n"), {})

    def test_links_and_tickets_are_taken_once_their_line_is_complete(self):
        self.assertEqual(magnet_of("local: share this magnet link: magnet:?xt=urn:btih:ab\n"), "magnet:?xt=urn:btih:ab")
        self.assertIsNone(magnet_of("local: share this magnet link: magnet:?xt=urn:bt"))
        self.assertEqual(ticket_of("to get this data, use\nsendme receive blobabc\n"), "blobabc")
        self.assertIsNone(ticket_of("sendme receive blo"))

    def test_an_address_behind_a_relay_keeps_the_peer(self):
        peer = "/ip4/127.0.0.14/tcp/4801/p2p/12D3KooW"
        self.assertEqual(Dhtfs(Tools()).moved(peer, "10.78.0.14", 4900), "/ip4/10.78.0.14/tcp/4900/p2p/12D3KooW")
        self.assertEqual(Rqbit(Tools()).moved("127.0.0.14:4240", "10.78.0.14", 4900), "10.78.0.14:4900")

    def test_a_program_that_is_not_there_is_named_with_the_way_to_get_it(self):
        why = Rqbit(Tools(named={"rqbit": "/nowhere/rqbit"})).missing()
        self.assertEqual(why, "rqbit not installed: cargo install --locked rqbit (bench/peers/install)")


class Floor(unittest.TestCase):
    def test_the_cipher_is_paid_on_both_sides(self):
        self.assertAlmostEqual(Rates(0.18, 0.09, 0.74, 0.15, 3000).floor_s(), 1.25)

    def test_without_a_cipher_there_is_no_floor(self):
        rates = Rates(0.18, None, 0.74, 0.15, 3000)
        self.assertIsNone(rates.floor_s())
        self.assertIsNone(rates.record()["floor_s_per_gib"])

    def test_openssl_counts_in_thousands(self):
        self.assertEqual(parse_openssl("type  16384 bytes\nAES-128-GCM   8123456.78k\n"), 8123456780.0)
        for nothing in ("", "speed: unknown option", "AES-128-GCM 0.00k"):
            with self.assertRaises(ValueError):
                parse_openssl(nothing)


class Torrents(unittest.TestCase):
    def test_bencode_sorts_keys_and_counts_bytes(self):
        self.assertEqual(bencode({"b": [1, "é"], "a": b"\x00"}), b"d1:a1:\x001:bli1e2:\xc3\xa9ee")
        self.assertEqual(bencode(-3), b"i-3e")

    def test_pieces_are_a_power_of_two_within_limits(self):
        self.assertEqual(piece_len(1), 1 << 15)
        self.assertEqual(piece_len(1 << 40), 1 << 22)
        for length in (1 << 25, 1 << 30, (1 << 31) - 1):
            self.assertTrue(1024 <= length / piece_len(length) < 2048, length)

    def test_a_tracker_packs_addresses_in_six_bytes(self):
        self.assertEqual(tracker_answer([("10.77.0.11", 6881)]), b"d8:intervali1800e5:peers6:\x0aM\x00\x0b\x1a\xe1e")

    def test_every_name_is_unknown_and_the_question_comes_back(self):
        question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01"
        answer = refusal(question + b"more")
        self.assertEqual((answer[:2], answer[3] & 0x0F, answer[12:]), (b"\x12\x34", 3, question[12:]))


if __name__ == "__main__":
    unittest.main()
