//! The client offers, the server answers.

use crate::signaling::message::{ErrorCode, Refusal};
use crate::signaling::negotiation::codecs;
use crate::signaling::negotiation::sections::{
    SECTIONS_MAX, Section, Sections, Slot, describe_rejected,
};
use crate::signaling::negotiation::tracks::RoomTracks;
use crate::wire::sdp::{self, Description, Direction, Media};

/// Takes the client's offer over into `sections` and fills what it can receive with waiting tracks.
/// Returns how many of its tracks were too many and are not taken.
///
/// # Errors
/// A refusal if the offer contradicts what was negotiated; `sections` is unchanged then.
pub fn take_offer(
    sections: &mut Sections,
    tracks: &mut RoomTracks,
    offer: &Description,
) -> Result<usize, Refusal> {
    check(&sections.slots, offer)?;
    sections.numbers.learn_order(offer.sections.iter());
    let mut sent: Vec<Option<&sdp::Section>> = Vec::with_capacity(offer.sections.len());
    for (index, described) in offer.sections.iter().enumerate() {
        let slot = next_slot(
            sections.slots.get(index),
            described,
            is_bundled(offer, index),
        );
        if let (Some(Slot::Live(section)), Slot::Rejected(_)) = (sections.slots.get(index), &slot)
            && let Some(subscription) = &section.send
        {
            tracks.refuse(subscription.source.key);
        }
        sections.set(index, slot);
        let sends = sections.read(index, described);
        if let Some(section) = sections.slots[index].live_mut() {
            section.client_receives = described.direction.receives();
        }
        sent.push(sends.then_some(described));
    }
    let refused = sections.publish(&sent);
    sections.free_ended(tracks);
    fill(sections, tracks);
    Ok(refused)
}

/// The sections of the answer, without transport lines.
#[must_use]
pub fn describe(sections: &Sections) -> Vec<sdp::Section> {
    sections
        .slots
        .iter()
        .map(|slot| match slot {
            Slot::Live(section) => {
                section.describe(Direction::new(section.sends(), section.receive.is_some()))
            }
            Slot::Rejected(rejected) => describe_rejected(rejected),
        })
        .collect()
}

fn check(slots: &[Slot], offer: &Description) -> Result<(), Refusal> {
    let bad = |why: &'static str| Refusal::new(ErrorCode::BadDescription, why);
    if offer.sections.len() < slots.len() {
        return Err(bad(
            "the offer has fewer media sections than the last description",
        ));
    }
    if offer.sections.len() > SECTIONS_MAX {
        return Err(Refusal::new(
            ErrorCode::Unsupported,
            format!("the offer has more than {SECTIONS_MAX} media sections"),
        ));
    }
    for (slot, described) in slots.iter().zip(&offer.sections) {
        let Slot::Live(section) = slot else { continue };
        if section.mid != described.mid {
            return Err(bad("a media section in use changed its a=mid"));
        }
        if !described.rejected && described.media != Media::Rtp(section.kind) {
            return Err(bad("a media section in use changed its kind"));
        }
    }
    Ok(())
}

/// Whether the section shares the one transport the server has.
fn is_bundled(offer: &Description, index: usize) -> bool {
    match &offer.bundle {
        Some(mids) => mids.contains(&offer.sections[index].mid),
        None => offer.sections.iter().position(|s| !s.rejected) == Some(index),
    }
}

/// What becomes of a place in the description: it stays in use, comes into use, or is refused.
fn next_slot(slot: Option<&Slot>, described: &sdp::Section, bundled: bool) -> Slot {
    match described.media {
        Media::Rtp(kind)
            if bundled
                && !described.rejected
                && described.rtcp_mux
                && !codecs::supported(described).is_empty() =>
        {
            match slot {
                Some(live @ Slot::Live(_)) => live.clone(),
                _ => Slot::Live(Box::new(Section::new(described.mid, kind))),
            }
        }
        _ => Slot::rejected(described),
    }
}

/// Puts waiting tracks into the free sections that the client receives on, in the answer itself.
fn fill(sections: &mut Sections, tracks: &RoomTracks) {
    let waiting: Vec<_> = sections.waiting(tracks).into_iter().cloned().collect();
    for track in waiting {
        let kind = track.kind;
        let Some(index) = sections
            .slots
            .iter()
            .position(|slot| slot.live().is_some_and(|s| s.is_free_for(kind)))
        else {
            continue;
        };
        let subscription = sections.subscribe(track, true);
        if let Some(section) = sections.slots[index].live_mut() {
            section.send = Some(subscription);
        }
    }
}
