"""One libtorrent node; run by the Python that has its bindings, without the rest of this package.

    lt_node.py provide IP PORT TORRENT FOLDER    prints READY and serves until it is killed
    lt_node.py get IP TORRENT FOLDER PEER..      fetches from the peers (ip:port), flushes and ends
"""

import os
import sys
import time

import libtorrent as lt


def session(ip, port):
    """A node with plain TCP only, no discovery, and limits that do not hold it back on loopback."""
    mask = lt.alert.category_t.status_notification | lt.alert.category_t.error_notification
    return lt.session({
        "listen_interfaces": "%s:%s" % (ip, port), "outgoing_interfaces": ip, "enable_dht": False, "enable_lsd": False,
        "enable_upnp": False, "enable_natpmp": False, "enable_incoming_utp": False, "enable_outgoing_utp": False,
        "out_enc_policy": 2, "in_enc_policy": 2, "allow_multiple_connections_per_ip": True, "active_seeds": -1,
        # The default tick of 500 ms alone would cost a short fetch 0.4 s.
        "tick_interval": 100, "max_out_request_queue": 2000, "send_buffer_watermark": 3 << 20,
        "alert_mask": mask | lt.alert.category_t.storage_notification,
    })


def provide(ip, port, torrent, folder):
    node = session(ip, port)
    handle = node.add_torrent({"ti": lt.torrent_info(torrent), "save_path": folder,
                               "flags": lt.torrent_flags.seed_mode})
    while not handle.status().is_seeding:
        time.sleep(0.005)
    print("READY", flush=True)
    while True:
        time.sleep(3600)


def wait_alert(node, kind):
    """Until an alert of that kind; an error of the torrent ends the program."""
    while True:
        node.wait_for_alert(1000)
        for alert in node.pop_alerts():
            if isinstance(alert, lt.torrent_error_alert):
                raise SystemExit(str(alert))
            if isinstance(alert, kind):
                return


def get(ip, torrent, folder, *peers):
    node = session(ip, 6900)
    handle = node.add_torrent({"ti": lt.torrent_info(torrent), "save_path": folder,
                               "flags": lt.torrent_flags.update_subscribe})
    for peer in peers:
        host, port = peer.rsplit(":", 1)
        handle.connect_peer((host, int(port)))
    wait_alert(node, lt.torrent_finished_alert)
    handle.flush_cache()
    wait_alert(node, lt.cache_flushed_alert)
    # An orderly end would wait for trackers that are not there.
    os._exit(0)


{"provide": provide, "get": get}[sys.argv[1]](*sys.argv[2:])
