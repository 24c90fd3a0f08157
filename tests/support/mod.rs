//! A WebRTC client for tests: no socket, no thread, no clock. It speaks the JSON protocol, offers and
//! answers like a browser, and checks what it receives.
#![allow(dead_code)] // each test crate uses its own part

pub mod client;
pub mod flavor;
pub mod layered;
pub mod media;
pub mod negotiation;
pub mod sdp;
pub mod transport;
pub mod twcc;
