//! STUN Binding messages (RFC 8489) as ICE uses them (RFC 8445 §7).
