//! RTP packets (RFC 3550 §5.1, RFC 8285) and what a datagram carries (RFC 7983).
