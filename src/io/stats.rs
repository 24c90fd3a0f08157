//! What is counted of connections, as numbers that any thread may add to.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of connections.
#[derive(Debug, Default)]
pub(in crate::io) struct Stats {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub ended: AtomicU64,
    pub requests: AtomicU64,
    pub websockets: AtomicU64,
    pub slow_consumers: AtomicU64,
}

impl Stats {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Prometheus' text format.
    pub fn render(&self) -> String {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let open = value(&self.accepted).saturating_sub(value(&self.ended));
        let rows = [
            (
                "connections",
                "gauge",
                "Connections, HTTP and WebSocket.",
                open,
            ),
            (
                "connections_accepted_total",
                "counter",
                "Connections that were given a thread.",
                value(&self.accepted),
            ),
            (
                "connections_refused_total",
                "counter",
                "Connections answered with 503, because there were too many.",
                value(&self.refused),
            ),
            (
                "http_requests_total",
                "counter",
                "Requests that were answered, whatever with.",
                value(&self.requests),
            ),
            (
                "websockets_total",
                "counter",
                "Connections that became WebSockets.",
                value(&self.websockets),
            ),
            (
                "slow_consumers_total",
                "counter",
                "Connections ended because the client did not read.",
                value(&self.slow_consumers),
            ),
        ];
        rows.iter()
            .map(|(name, kind, help, value)| {
                format!(
                    "# HELP shardcast_{name} {help}\n# TYPE shardcast_{name} {kind}\n\
                     shardcast_{name} {value}\n"
                )
            })
            .collect()
    }
}
