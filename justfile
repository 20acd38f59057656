# Everything CI does, one recipe each. `just check` is what CI runs.

# All checks, in the order in which they fail fastest.
check: fmt test-bench test-netlab lint doc test demo sim netlab-ci deny audit

# Formatting.
fmt:
    cargo fmt --all -- --check

# What the comparison with other programs makes of its measurements; measures nothing.
test-bench:
    cd bench/peers && PYTHONDONTWRITEBYTECODE=1 python3 -m unittest

# The net lab's own parts; with root also whether its proofs notice gateways that are wrong.
test-netlab:
    cd tests/netlab && PYTHONDONTWRITEBYTECODE=1 python3 -m unittest

# Ten cells of the net lab: daemons behind NAT gateways. Runs the program that the tests built; says SKIPPED without root or nft.
netlab-ci:
    cargo test --workspace --locked --no-run
    tests/netlab/run --cells ci --dhtfs "${CARGO_TARGET_DIR:-target}/debug/dhtfs"

# Clippy and the compiler's lints, warnings denied.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# API documentation, warnings denied.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

# Unit, property and whole-program tests.
test:
    cargo test --workspace --locked

# Five daemons, one small file, one of them killed half-way. Runs the program that the tests built.
demo:
    cargo test --workspace --locked --no-run
    "${CARGO_TARGET_DIR:-target}/debug/dhtfs" demo --size 16

# Simulated networks, the fast set: under five minutes on two cores. Runs the program that the tests built.
sim:
    cargo test --workspace --locked --no-run
    .ci/sim "${CARGO_TARGET_DIR:-target}/debug/dhtfs-sim"

# Simulated networks, the long set: a day of 100 nodes, 1,000 nodes, 100 seeds of chaos. Some hours.
sim-nightly:
    cargo build --release --locked -p dhtfs-sim
    .ci/sim-nightly "${CARGO_TARGET_DIR:-target}/release/dhtfs-sim"

# Daemons behind NAT gateways, every pair of kinds and what happens in mid-transfer. Needs root and nft. See docs/nat.md.
netlab *options:
    cargo build --release --locked -p dhtfs
    tests/netlab/run --dhtfs "${CARGO_TARGET_DIR:-target}/release/dhtfs" --cells full --scenarios all {{options}}

# Licences, bans and sources.
deny:
    cargo deny --all-features check licenses bans sources

# Known vulnerabilities, against the folder named by RUSTSEC_DB.
audit:
    .ci/audit

# Benchmarks; prints each figure as a ratio to the machine's own limit. See docs/benchmarks.md.
bench:
    cargo bench --workspace --locked

# The same comparison with other programs on any machine: `just bench-peers-install` once, then this. See bench/peers/README.md.
bench-peers *options:
    cargo build --release --locked -p dhtfs
    bench/peers/run --dhtfs "${CARGO_TARGET_DIR:-target}/release/dhtfs" --out "${CARGO_TARGET_DIR:-target}/bench-peers.jsonl" {{options}}

# The programs it compares with (Debian, root): packages, and two built by cargo into target/peers.
bench-peers-install:
    bench/peers/install
