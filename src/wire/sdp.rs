//! Session descriptions (RFC 8866, RFC 8829) as the sections an offer/answer policy needs.
