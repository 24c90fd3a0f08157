//! What happens to media between two transports: sequence numbers and timestamps, retransmission, reports.
