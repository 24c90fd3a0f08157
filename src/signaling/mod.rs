//! Signaling: the wire protocol, one connection's session, and offer/answer negotiation.

pub mod bucket;
pub mod closing;
pub mod message;
pub mod msid;
pub mod negotiation;
pub mod notices;
pub mod outbound;
pub mod refusal;
pub mod roster;
pub mod session;
pub mod wishes;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod fake_client;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod quality_tests;
#[cfg(test)]
mod room_tests;
