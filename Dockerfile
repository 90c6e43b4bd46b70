# syntax=docker/dockerfile:1
#
#     docker build --tag portcullis .
#     docker run --read-only --publish 127.0.0.1:50051:50051 --volume "$PWD/config:/etc/portcullis:ro" portcullis \
#         serve --config /etc/portcullis/config.toml
#
# The build's image is pinned by version. Distroless images have none: cc-debian12:nonroot is whatever was built last for Debian 12,
# patches included. Where the registry is reached, add the digests that it gives for both (`docker buildx imagetools inspect
# IMAGE`): a tag can be pushed anew, a digest cannot.

FROM rust:1.95.0-bookworm AS build
WORKDIR /src

# The list of crates goes into the binary: `cargo audit bin`, Trivy and Grype read it there.
RUN cargo install --locked --version 0.7.7 cargo-auditable

# rust-toolchain.toml stays outside (.dockerignore): the image is the toolchain.
COPY . .

# The paths of this stage are not in the binary, so that two builds of one commit agree.
ENV RUSTFLAGS="--remap-path-prefix=/src=portcullis --remap-path-prefix=/usr/local/cargo=cargo" \
    CARGO_INCREMENTAL=0
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo auditable build --locked --release --bin portcullis && \
    install -D --mode=0755 target/release/portcullis /out/usr/local/bin/portcullis && \
    install -d --mode=0700 --owner=65532 --group=65532 /out/var/lib/portcullis

# glibc, libgcc, CA certificates, and nothing else: no shell, no package manager, user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="Portcullis" \
      org.opencontainers.image.description="A gRPC service through which teams change EC2 security-group rules" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/ /
USER 65532:65532
# The ledger, where it is a file. All else can be read-only.
VOLUME ["/var/lib/portcullis"]
EXPOSE 50051 9464
# SIGTERM drains, for drain_timeout_ms: give `docker stop --time` more than that.
STOPSIGNAL SIGTERM
# In plaintext. Where this server has TLS: --health-cmd with --address and --tls-ca-file. Kubernetes asks the admin port.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/portcullis", "health"]
ENTRYPOINT ["/usr/local/bin/portcullis"]
CMD ["serve"]
