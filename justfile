# What CI runs: formatting, lints, docs, dependencies, and the tests.
check:
    bash .ci/run

# The tests. Installs what they need into .tools.
test:
    scripts/test

# The server, for example: just run serve --help
run *args:
    cargo run --locked -- {{ args }}

# The benchmarks.
bench *args:
    scripts/bench {{ args }}

# Formats the Rust code and the protos.
fmt:
    scripts/tools lint python
    cargo fmt
    .tools/bin/buf format --write
