# syntax=docker/dockerfile:1
# Two stages: the Rust image builds, a small image without shell or package manager runs.
#
#   docker build -t shardcast .
#   docker run --rm -p 8080:8080 -p 40000-40015:40000-40015/udp \
#     -e SHARDCAST_ANNOUNCE=203.0.113.7 -e SHARDCAST_SHARDS=16 shardcast

FROM rust:1-slim-bookworm AS build
# `ring` and `rtc-crypto` compile a little C and assembly.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
COPY web ./web
COPY benches ./benches
COPY tests ./tests
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin shardcast \
 && strip --strip-debug target/release/shardcast -o /shardcast

# glibc and CA certificates, user 65532, nothing else.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /shardcast /usr/local/bin/shardcast
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/shardcast/
USER nonroot
# HTTP and WebSocket; and one UDP port per shard, from SHARDCAST_UDP_PORT on

EXPOSE 8080/tcp
EXPOSE 40000-40015/udp
ENTRYPOINT ["/usr/local/bin/shardcast"]
