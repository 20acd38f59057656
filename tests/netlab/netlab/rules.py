"""The nft rules of each kind of gateway. Text only: what they do is proven by `--prove`.

Two things decide whether punching is tested or merely broken:

- Unsolicited packets to the gateway itself are dropped in `input`, without an answer. Otherwise the gateway answers an early
  SYN with RST, and an early datagram leaves an entry in the connection table that takes the port the host's own packet was to
  keep.
- The filter is address-and-port-dependent (RFC 4787): what comes in must match an entry that a packet out has made. Stock
  masquerade can do nothing else; a full cone is not expressible, so the lab has none.
"""

from __future__ import annotations

LISTEN_PORT = 4343
# What the outside sees instead of the listen port behind a port-changing gateway.
CHANGED_PORT = 6343

_GATEWAY_4 = """\
table ip lab {{
    chain arriving {{
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        iifname "lo" accept
    }}
    chain passing {{
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" oifname "wan" accept
        ct status dnat accept
    }}
    chain inbound {{
        type nat hook prerouting priority -100;
{inbound}    }}
    chain outbound {{
        type nat hook postrouting priority 100;
{outbound}    }}
}}
"""

_GATEWAY_6 = """\
table ip6 lab {
    chain arriving {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        iifname "lo" accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept
    }
    chain passing {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" oifname "wan" accept
    }
}
"""

_MASQUERADE = 'oifname "wan" masquerade'


def _lines(rules: list[str]) -> str:
    return "".join(f"        {rule}\n" for rule in rules)


def gateway_rules(kind: str, host_ip: str, wan_ip: str) -> str:
    """What `nft -f` is given in a gateway of this kind, for the host behind it and its own address outside."""
    inbound: list[str] = []
    outbound = [_MASQUERADE]
    if kind == "ipv6-only":
        return _GATEWAY_6
    if kind == "symmetric":
        outbound = [f"{_MASQUERADE} random,fully-random"]
    elif kind == "port-changing":
        outbound = [f'oifname "wan" {protocol} sport {LISTEN_PORT} snat to {wan_ip}:{CHANGED_PORT}'
                    for protocol in ("udp", "tcp")] + outbound
    elif kind == "port-forward":
        inbound = [f'iifname "wan" {protocol} dport {LISTEN_PORT} dnat to {host_ip}:{LISTEN_PORT}'
                   for protocol in ("tcp", "udp")]
    elif kind not in ("port-keeping", "double-nat"):
        raise ValueError(f"a host of kind {kind} has no gateway")
    return _GATEWAY_4.format(inbound=_lines(inbound), outbound=_lines(outbound))


def table_name(kind: str) -> str:
    """The table that `gateway_rules` makes, as `nft delete table` wants it."""
    return "ip6 lab" if kind == "ipv6-only" else "ip lab"
