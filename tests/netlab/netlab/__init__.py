"""Real daemons behind real NAT gateways, in network namespaces that no packet leaves. See README.md beside this package."""
