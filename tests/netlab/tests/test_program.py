"""What is made of the program's output, of today's and of that to come."""

import json
import unittest

from netlab.program import listen_addrs, parse_cid, parse_fetched, parse_net, parse_peers, parse_ready

PEER = "12D3KooWHyc7V7HSGSJmbPrNg7exiWUgkz3ussTZv1MLBXsgU9w6"


class Ready(unittest.TestCase):
    def test_the_peer_is_read_from_json_and_from_text(self):
        said = json.dumps({"peer_id": PEER, "listen": [f"/ip4/10.0.1.2/tcp/4343/p2p/{PEER}"]})
        for text in (f"{said}\n", f"note\n{said}\n", f"ready: x listening on /ip4/1.2.3.4/tcp/4343/p2p/{PEER}\n",
                     f"/ip6/2002:c058:6301::1/udp/4343/quic-v1/p2p/{PEER}\n"):
            self.assertEqual(parse_ready(text), PEER)

    def test_half_a_line_is_not_ready(self):
        self.assertIsNone(parse_ready(""))
        self.assertIsNone(parse_ready(f"/ip4/1.2.3.4/tcp/4343/p2p/{PEER[:20]}"))
        self.assertIsNone(parse_ready('{"peer_id":"12D3'))


class Net(unittest.TestCase):
    def test_all_of_it_is_read(self):
        net = parse_net(json.dumps({
            "reachability": "punchable", "settled": True, "since_unix": 5, "why": "two saw the same port",
            "mapping": "endpoint-independent", "external": ["/ip4/192.88.99.11/tcp/4343"],
            "relays": [{"peer": PEER, "addr": "/ip4/192.88.99.1/tcp/4343"}], "serves_dht": False}))
        self.assertEqual((net.reachability, net.settled, net.mapping), ("punchable", True, "endpoint-independent"))
        self.assertEqual(net.relays, ("/ip4/192.88.99.1/tcp/4343",))

    def test_what_is_missing_or_of_another_shape_is_unknown(self):
        for text in ("", "not json", "[]", "{}", '{"reachability": "direct", "settled": "yes", "relays": null}'):
            self.assertFalse(parse_net(text).settled)
        self.assertEqual(parse_net("").reachability, "unknown")


class Peers(unittest.TestCase):
    def test_direct_is_who_has_an_address_without_a_relay(self):
        direct, relayed = "/ip4/1.2.3.4/tcp/1", f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit"
        lines = "\n".join(json.dumps({"peer": PEER, "addrs": addrs}) for addrs in ([direct], [relayed], [relayed, direct], []))
        self.assertEqual([peer.direct for peer in parse_peers(lines)], [True, False, True, False])


class Fetched(unittest.TestCase):
    def test_the_last_report_counts_and_lines_before_it_do_not(self):
        report = {"cid": "b", "len": 5, "requested_len": 7, "seconds": 0.5, 
                  "sources": [{"peer": "a", "len": 1}, {"peer": "b", "len": 6, "relayed": True}]}
        found = parse_fetched('{"waiting": 1}\n{"len": 1, "requested_len": 0}\n' + json.dumps(report) + "\n")
        self.assertEqual((found.length, found.path), (5, "relayed"))

    def test_without_sources_the_words_on_stderr_count(self):
        report = json.dumps({"len": 5, "requested_len": 7})
        self.assertEqual(parse_fetched(report, "got f: 1 MiB, relayed\n").path, "relayed")
        self.assertIsNone(parse_fetched(report, "got f: 1 MiB\n").path)
        self.assertIsNone(parse_fetched("", "").path)

    def test_nothing_over_any_path_is_not_known(self):
        self.assertIsNone(parse_fetched('{"requested_len": 0, "sources": [{"peer": "a", "len": 0}]}').path)


class Addresses(unittest.TestCase):
    def test_each_transport_has_its_address_in_both_versions(self):
        self.assertEqual(listen_addrs(["0.0.0.0"], "tcp"), ["/ip4/0.0.0.0/tcp/4343"])
        self.assertEqual(listen_addrs(["::"], "both"), ["/ip6/::/tcp/4343", "/ip6/::/udp/4343/quic-v1"])

    def test_the_content_id_is_the_first_there_is(self):
        self.assertEqual(parse_cid('words\n{"cid": "bafy1"}\n{"cid": "bafy2"}'), "bafy1")
        self.assertIsNone(parse_cid("dhtfs: no"))


if __name__ == "__main__":
    unittest.main()
