//! What a shard counts: plain numbers, each named for its cause.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the shard started. What is dropped or refused is counted under its cause.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds what another counted.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Every count with its name, in the order of their definition.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams received.
    datagrams_received,
    /// RTP packets taken from publishers.
    rtp_received,
    /// RTP packets sent to subscribers, retransmissions apart.
    rtp_forwarded,
    /// Of these, packets that got padding, so that they share a message with their neighbours.
    rtp_padded,
    /// How many bytes of padding they got.
    rtp_padding_bytes,
    /// RTP packets sent again on a NACK.
    rtp_retransmitted,
    /// Of these, packets on a stream of their own (RFC 4588).
    rtp_retransmitted_rtx,
    /// RTCP datagrams taken.
    rtcp_received,
    /// Keyframe requests sent to publishers.
    keyframe_requests_sent,
    /// Transport-wide feedback sent to publishers.
    transport_feedback_sent,
    /// Transport-wide feedback taken from subscribers.
    transport_feedback_received,
    /// Estimates of what they may send (REMB) sent to publishers that take no transport-wide feedback.
    remb_sent,
    /// Estimates of their own (REMB) taken from subscribers.
    remb_received,
    /// Padding packets sent to probe for bandwidth.
    padding_packets_sent,
    /// Bursts of padding sent to see who shares a bottleneck.
    bursts_sent,
    /// Copies that waited to be sent, because the estimate did not allow them at once.
    paced,
    /// Of these, copies that were dropped: too many waited, or one waited too long, or something else took their place.
    paced_dropped,
    /// Subscriptions that lost a packet that waited, and began again with a keyframe.
    subscription_interrupted,
    /// Subscriptions that got nothing until the first keyframe of a lesser encoding, as their network had become far slower.
    subscription_silenced,
    /// Sender reports sent to subscribers.
    sender_reports_sent,
    /// Changes of the dominant speaker, as each shard of a room sees them.
    speaker_switches,
    /// RTP packets of sound that went to nobody: other streams are louder.
    audio_held_back,
    /// Subscriptions whose pictures stopped, because others spoke later.
    last_n_stopped,
    /// Speakers on other shards forgotten: there are too many.
    speakers_forgotten,
    /// Datagrams that are none of STUN, DTLS, RTP, RTCP (RFC 7983), or empty.
    datagrams_unknown_kind,
    /// Datagrams other than STUN from an address that no check has validated.
    datagrams_unvalidated_source,
    /// Datagrams that are no binding request.
    stun_malformed,
    /// Binding requests to a ufrag that nobody has.
    stun_unknown_ufrag,
    /// Binding requests that the transport refused: wrong integrity, bad role.
    stun_refused,
    /// Checks from an address that another peer holds.
    stun_address_taken,
    /// Checks to a ufrag that names a shard which does not exist (one port for all shards).
    stray_unknown_shard,
    /// Claims of other shards to an address that were refused: a third holds it, or there are too many.
    stray_claims_refused,
    /// DTLS datagrams that the transport refused.
    dtls_refused,
    /// RTP packets that could not be opened: no keys yet, wrong tag, replayed, malformed.
    rtp_not_opened,
    /// RTCP datagrams that could not be opened.
    rtcp_not_opened,
    /// RTCP messages that are malformed or too many.
    rtcp_malformed,
    /// RTCP datagrams not read: the peer's had made enough work for a while.
    rtcp_over_budget,
    /// RTCP messages about a stream that nobody has.
    rtcp_unknown_stream,
    /// Sender reports that came faster than they are passed on.
    rtcp_reports_too_frequent,
    /// RTP packets whose payload runs past their end.
    rtp_malformed,
    /// RTP packets that belong to no track.
    rtp_unknown_track,
    /// RTP packets of a track with several encodings that do not say of which.
    rtp_unknown_encoding,
    /// RTP packets whose SSRC found the peer's table full.
    rtp_sources_full,
    /// RTP packets of retransmission streams (RFC 4588).
    rtp_rtx,
    /// Of these, packets that brought what was missing.
    rtx_recovered,
    /// Of these, packets that brought what was there already, or nobody waits for.
    rtx_unneeded,
    /// Of these, packets that are all padding: probes for bandwidth.
    rtx_padding,
    /// Packets of sound that were lost, and recovered from redundant audio.
    red_recovered,
    /// Such packets that came all the same, and went to nobody.
    red_superseded,
    /// Packets that publishers were asked to send again, each time.
    nack_packets_asked,
    /// Packets that publishers were asked for in vain.
    nack_given_up,
    /// Keyframes asked for because a gap did not close.
    gap_keyframes_wanted,
    /// RTP packets with a payload type that was not negotiated.
    rtp_unknown_payload_type,
    /// RTP packets of an SSRC that its track has replaced.
    rtp_former_ssrc,
    /// RTP packets too old to have a place in their track.
    rtp_too_old,
    /// Copies not sent: the subscriber takes no such codec.
    forward_no_codec,
    /// Copies not sent: from before the subscription started, or sent already.
    forward_late,
    /// Copies not sent: the subscriber has changed over to another encoding.
    forward_other_encoding,
    /// Copies not sent: the subscriber waits for a keyframe of that encoding.
    forward_awaits_keyframe,
    /// Copies not sent: of a spatial or temporal layer that the subscriber is not to get.
    forward_layer_left_out,
    /// Copies not sent: redundant audio that is malformed.
    forward_malformed_red,
    /// Subscriptions that changed over to another encoding, or began with one of several.
    subscription_switched,
    /// Subscriptions that stopped, because their subscriber cannot be reached any more.
    subscription_unreachable,
    /// Packets sent again because feedback on arrivals calls them missing, before or instead of a NACK.
    feedback_repaired,
    /// Packets sent again to a subscriber that had waited for them for long, before it asked once more.
    repeated_unasked,
    /// Keyframes asked for because a subscriber waited too long for a packet that was sent again.
    stuck_keyframes_wanted,
    /// NACKed packets that may not or cannot be sent again.
    nack_not_held,
    /// NACKed packets that were sent again less than a round trip ago.
    nack_under_way,
    /// NACKed packets that were sent again as often as is allowed.
    nack_over_budget,
    /// Commands for a peer that is not here, or is here already.
    command_unknown_peer,
    /// Local ICE credentials whose ufrag another peer has.
    command_ufrag_taken,
    /// Packets handed to other shards, once for each.
    relay_packets_sent,
    /// Packets taken from other shards.
    relay_packets_received,
    /// RTP packets from other shards that had waited for too long: this one has more to do than it can.
    relay_late,
    /// What other shards said of a want that has ended, or by a description that has been replaced.
    relay_stale,
    /// Wants of other shards refused: too many wait for their tracks.
    relay_want_refused,
    /// Tracks refused: another peer's key, or one key twice.
    track_refused,
    /// Subscriptions refused: a track of another room, or one key or SSRC twice.
    subscription_refused,
    /// Declared SSRCs refused: in use by another track of the peer, or too many.
    source_refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_with_their_numbers() {
        let counters = Counters {
            rtp_rtx: 3,
            ..Counters::default()
        };
        let counted: Vec<_> = counters.iter().filter(|(_, n)| *n != 0).collect();
        assert_eq!(counted, [("rtp_rtx", 3)]);
        let mut sum = counters;
        sum.add(&counters);
        assert_eq!(sum.iter().map(|(_, n)| n).sum::<u64>(), 6);
    }
}
