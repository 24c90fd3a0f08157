//! Signaling: the wire protocol, one connection's session, and offer/answer negotiation.
