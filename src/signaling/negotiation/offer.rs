//! The server offers, the client answers.

use crate::base::ids::MediaKind;
use crate::signaling::message::{ErrorCode, Refusal};
use crate::signaling::negotiation::sections::{
    SECTIONS_MAX, Section, Sections, Slot, describe_rejected,
};
use crate::signaling::negotiation::tracks::RoomTracks;
use crate::wire::sdp::{self, Description, Direction, Media};

/// Whether an offer would change anything: a section carries a track that ended, or a track waits
/// for which there is a place.
#[must_use]
pub fn is_needed(sections: &Sections, tracks: &RoomTracks) -> bool {
    sections
        .live()
        .filter_map(|section| section.send.as_ref())
        .any(|subscription| !tracks.contains(subscription.source.key))
        || sections
            .waiting(tracks)
            .iter()
            .any(|track| place(&sections.slots, track.kind).is_some())
}

/// Brings the sections into line with what the room has: ended tracks leave theirs, waiting tracks
/// take free sections, then refused ones, then new ones. What finds no place goes on waiting.
pub fn plan(sections: &mut Sections, tracks: &RoomTracks) {
    sections.free_ended(tracks);
    let waiting: Vec<_> = sections.waiting(tracks).into_iter().cloned().collect();
    for track in waiting {
        let kind = track.kind;
        let Some(index) = place(&sections.slots, kind) else {
            continue;
        };
        if sections.slots.get(index).and_then(Slot::live).is_none() {
            open(sections, index, kind);
        }
        let subscription = sections.subscribe(track, false);
        if let Some(section) = sections.slots[index].live_mut() {
            section.send = Some(subscription);
        }
    }
}

/// Adds what a client needs that was expected to offer and is now offered something instead: a section
/// of each kind. Its own offer may be on its way; it will be rolled back, and a client that offers once
/// by hand has then only its answer to attach its tracks to.
pub fn invite(sections: &mut Sections) {
    for kind in [MediaKind::Audio, MediaKind::Video] {
        if !sections.live().any(|section| section.kind == kind) {
            let index = sections.slots.len();
            open(sections, index, kind);
        }
    }
}

/// Puts a new section at `index`, or after the last.
fn open(sections: &mut Sections, index: usize, kind: MediaKind) {
    let mut section = Section::new(sections.take_mid(), kind);
    let (codecs, extensions) = sections.numbers.offer(kind);
    (section.codecs, section.extensions) = (sections.share_codecs(codecs), extensions);
    sections.set(index, Slot::Live(Box::new(section)));
}

/// Where a track of `kind` can go: the index of a slot, or one past the last.
fn place(slots: &[Slot], kind: MediaKind) -> Option<usize> {
    let free = |slot: &Slot| slot.live().is_some_and(|s| s.is_free_for(kind));
    // Not the place of a refused data channel section: its client may still hold on to it.
    let stopped = |slot: &Slot| match slot {
        Slot::Live(_) => false,
        Slot::Rejected(rejected) => matches!(rejected.media, Media::Rtp(_)),
    };
    slots
        .iter()
        .position(free)
        .or_else(|| slots.iter().position(stopped))
        .or_else(|| (slots.len() < SECTIONS_MAX).then_some(slots.len()))
}

/// Whether the server receives in a section it offers. To a peer that may publish it offers to, so
/// that a client whose own offer was rolled back can send there right in its answer.
fn offers_to_receive(section: &Section, may_publish: bool) -> bool {
    may_publish || section.receive.is_some()
}

/// The sections of the offer, without transport lines.
#[must_use]
pub fn describe(sections: &Sections, may_publish: bool) -> Vec<sdp::Section> {
    sections
        .slots
        .iter()
        .map(|slot| match slot {
            Slot::Live(section) => section.describe(Direction::new(
                section.send.is_some(),
                offers_to_receive(section, may_publish),
            )),
            Slot::Rejected(rejected) => describe_rejected(rejected),
        })
        .collect()
}

/// Takes the client's answer over into `sections`. Returns how many of its tracks were too many and
/// are not taken.
///
/// # Errors
/// A refusal if the answer does not fit the offer; `sections` is unchanged then.
pub fn take_answer(
    sections: &mut Sections,
    tracks: &mut RoomTracks,
    answer: &Description,
    may_publish: bool,
) -> Result<usize, Refusal> {
    check(&sections.slots, answer)?;
    let mut sent: Vec<Option<&sdp::Section>> = Vec::with_capacity(answer.sections.len());
    for (index, described) in answer.sections.iter().enumerate() {
        let Some(section) = sections.slots[index].live_mut() else {
            sent.push(None);
            continue;
        };
        if described.rejected || !described.rtcp_mux {
            if let Some(subscription) = &section.send {
                tracks.refuse(subscription.source.key);
            }
            sections.slots[index] = Slot::rejected(described);
            sent.push(None);
            continue;
        }
        let may_send = offers_to_receive(section, may_publish);
        if let Some(subscription) = &mut section.send {
            subscription.agreed = true;
            // Only where the server offered to send does the answer tell whether it may.
            section.client_receives = described.direction.receives();
        }
        let sends = sections.read(index, described);
        sent.push((sends && may_send).then_some(described));
    }
    Ok(sections.publish(&sent))
}

fn check(slots: &[Slot], answer: &Description) -> Result<(), Refusal> {
    let bad = |why: &'static str| Err(Refusal::new(ErrorCode::BadDescription, why));
    if answer.sections.len() != slots.len() {
        return bad("the answer does not have as many media sections as the offer");
    }
    for (slot, described) in slots.iter().zip(&answer.sections) {
        if slot.mid() != described.mid {
            return bad("the answer's media sections are not in the offer's order");
        }
        match slot {
            Slot::Live(section)
                if !described.rejected && described.media != Media::Rtp(section.kind) =>
            {
                return bad("a media section of the answer is not of the offered kind");
            }
            Slot::Rejected(_) if !described.rejected => {
                return bad("the answer accepts a media section that was not offered");
            }
            _ => {}
        }
    }
    Ok(())
}
