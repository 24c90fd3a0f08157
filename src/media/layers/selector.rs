//! Which packets of one encoding go to one subscriber, frame by frame.
//!
//! Up only where a decoder can follow: at keyframes, at what the publisher marks as a point for that, and only if
//! what the frame builds on went out. Down at once, from the next picture on: all that lower layers
//! build on is always sent. A packet shares the fate of its frame however late it comes, and what was decided for it can
//! be asked again for a retransmission.

use crate::base::growth::push;
use crate::base::ids::{RtpTime, SeqNo};
use crate::media::layers::history::{Fate, History, Place};
use crate::media::layers::info::{Dependency, LayerInfo, Layering, References};
use crate::media::layers::munger::{Edit, Munger};
use crate::media::layers::numbering::LastNumbers;
use crate::media::layers::reader::{LayerReader, Position};
use crate::media::layers::sent::SentEdits;
use crate::media::layers::structures::{Limit, Structure};

/// Decides for one subscription, and numbers what it lets through.
#[derive(Debug)]
pub struct Selector {
    wish: Limit,
    current: Limit,
    /// The next packet begins a new run here.
    is_beginning: bool,
    present: Run,
    /// The run before: what went out of it may be asked for again.
    former: Option<Box<Run>>,
    /// What copies looked like; the caller, who numbers them, keeps it.
    pub sent: SentEdits,
    /// The numbers of the last packet that went out, and the sequence number after its: what was let through may still wait,
    /// and be thrown away when something else begins.
    last_sent: (LastNumbers, SeqNo),
    /// The picture of the highest frame.
    picture: Option<RtpTime>,
    /// The highest spatial layer of it that went out.
    picture_top: Option<u8>,
    /// Whether a frame of it was left out. Then what is left out of a lower layer might be missed later, after
    /// going down: up with the next picture.
    has_left_out: bool,
}

/// What was decided in one run of one source.
#[derive(Debug)]
struct Run {
    run: u32,
    /// What is below the history's beginning went out as it came.
    took_all_before: bool,
    history: History,
    changes: Changes,
    munger: Munger,
    /// The first frame whose descriptor the subscriber can read: that which brought it a structure.
    described_from: Option<u64>,
}

/// The last changes of what goes out, oldest first: one at least, and seldom more.
#[derive(Debug)]
struct Changes(Vec<Change>);

#[derive(Debug)]
struct Change {
    /// The first frame it holds for.
    from: u64,
    limit: Limit,
    /// Which frames tell the subscriber; `None` until the first of them goes out.
    told: Option<Told>,
}

/// The frames that tell a subscriber which decode targets are active: from the first one after a change until it is known
/// to have got one of them (AV1 RTP specification, appendix A: what is told once may be lost).
#[derive(Debug, Clone, Copy)]
struct Told {
    from: u64,
    /// The publisher's number of that frame.
    number: u16,
    /// How many more frames there are of them: all, until that is known.
    more: u32,
    /// Under which number the first packet of them went out, 32 bits of it.
    first: Option<u32>,
}

impl Selector {
    /// A subscription that took everything so far, as it came, up to `position`.
    #[must_use]
    pub fn new(wish: Limit, position: &Position) -> Self {
        Self {
            wish,
            current: Limit::ALL,
            is_beginning: false,
            present: Run {
                run: position.run,
                took_all_before: true,
                history: History::new(position.frame.map_or(0, |frame| frame + 1)),
                changes: Changes::new(Limit::ALL),
                munger: Munger::new(position.last),
                described_from: Some(0),
            },
            former: None,
            sent: SentEdits::default(),
            last_sent: (position.last, SeqNo(0)),
            picture: position.picture,
            picture_top: None,
            has_left_out: false,
        }
    }

    /// Of what it took so far only what ended with these numbers went out yet.
    #[must_use]
    pub fn after(mut self, last: LastNumbers) -> Self {
        self.last_sent.0 = last;
        self
    }

    /// What the subscriber is to get. It takes hold where a decoder can follow.
    pub fn set_wish(&mut self, wish: Limit) {
        self.wish = wish;
    }

    /// What is asked for.
    #[must_use]
    pub fn wish(&self) -> Limit {
        self.wish
    }

    /// What goes out at present.
    #[must_use]
    pub fn current(&self) -> Limit {
        self.current
    }

    /// Whether anything is left out, or is to be.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.current != Limit::ALL || self.wish != Limit::ALL
    }

    /// Whether a higher spatial layer is asked for than goes out, of `spatial_max` that there are (the highest). It may
    /// come by itself (VP9, AV1), but surely comes with a keyframe.
    #[must_use]
    pub fn needs_keyframe(&self, spatial_max: u8) -> bool {
        self.wish.spatial.min(spatial_max) > self.current.spatial
    }

    /// The next packet is the first one of another encoding, or after a pause. What has not gone out yet does not any more.
    pub fn begin(&mut self) {
        self.is_beginning = true;
        self.present.munger.rewind(self.last_sent.0);
    }

    /// Decides for a packet that comes for the first time. `None`: it does not go out.
    pub fn handle(&mut self, info: &LayerInfo, reader: &LayerReader) -> Option<Edit> {
        if self.is_beginning || self.present.run != info.run {
            self.start(info);
        }
        if info.layering == Layering::Single {
            let edit = self.present.munger.edit(info, 0, false, None);
            self.present.munger.on_sent(&edit);
            return Some(edit);
        }
        if info.layering == Layering::Unknown {
            // Only who takes everything can take what is not known.
            return (self.current == Limit::ALL && self.wish == Limit::ALL)
                .then(|| self.present.munger.edit(info, 0, false, None));
        }
        match self.present.history.place(info.frame) {
            Place::New => self.handle_new(info, reader),
            Place::Late => {
                let limit = self.present.changes.at(info.frame)?.limit;
                let is_needed = needs(limit, info, reader);
                let fate = match is_needed {
                    true => Fate::Forwarded,
                    false => Fate::DroppedLate,
                };
                self.present.history.record(info.frame, fate);
                self.present.edit(info, reader).filter(|_| is_needed)
            }
            Place::Known(_) | Place::Before | Place::TooOld => self.edit_of(info, reader),
        }
    }

    /// What a packet that went out looked like, for sending it again. `None` if it did not go out, or it is not
    /// known any more how it looked.
    #[must_use]
    pub fn edit_of(&self, info: &LayerInfo, reader: &LayerReader) -> Option<Edit> {
        let mut runs = std::iter::once(&self.present).chain(self.former.as_deref());
        runs.find_map(|run| run.edit_of(info, reader))
    }

    /// A packet goes out for the first time under the number `seq`, with this edit. `may_repeat`: it may have to go out
    /// again under that number.
    pub fn on_sent(&mut self, seq: SeqNo, edit: &Edit, may_repeat: bool) {
        if may_repeat {
            self.sent.note(seq, edit);
        }
        if seq >= self.last_sent.1 {
            edit.note_in(&mut self.last_sent.0);
            self.last_sent.1 = SeqNo(seq.0 + 1);
        }
        if edit.tells_targets() {
            self.sent.note_told(seq);
            // One that waited may tell of the change before.
            if let Some(told) = self.present.changes.told_last()
                && (edit.source_number())
                    .is_some_and(|number| number.wrapping_sub(told.number) as i16 >= 0)
            {
                told.first.get_or_insert(seq.0 as u32);
            }
        }
    }

    /// The subscriber has got the packet of the number `seq`: what it told need not be repeated.
    pub fn on_received(&mut self, seq: SeqNo) {
        let highest = self.present.history.next().saturating_sub(1);
        if self.sent.has_told(seq)
            && let Some(told) = self.present.changes.told_last()
            && (told.first).is_some_and(|first| (seq.0 as u32).wrapping_sub(first) as i32 >= 0)
        {
            let more = highest.saturating_sub(told.from);
            told.more = told.more.min(u32::try_from(more).unwrap_or(u32::MAX));
        }
    }

    /// Another source or encoding: it begins with this packet.
    fn start(&mut self, first: &LayerInfo) {
        let mut munger = self.present.munger;
        munger.start(first);
        // Of a source that goes on after a pause, the structure is known.
        let described_from = self.present.described_from;
        let next = Run {
            described_from: described_from.filter(|_| self.present.run == first.run),
            run: first.run,
            took_all_before: false,
            history: History::new(first.frame),
            changes: Changes::new(Limit::ALL),
            munger,
        };
        let former = std::mem::replace(&mut self.present, next);
        self.former = Some(Box::new(former));
        self.is_beginning = false;
        // A decoder starts at a keyframe, where everything is allowed.
        self.current = Limit::ALL;
        (self.picture, self.picture_top) = (None, None);
    }

    fn handle_new(&mut self, info: &LayerInfo, reader: &LayerReader) -> Option<Edit> {
        let before = self.current;
        let dependency = info.dependency.and_then(|d| d.descriptor);
        if dependency.is_some_and(|descriptor| descriptor.has_structure) {
            self.present.described_from.get_or_insert(info.frame);
        }
        if self.picture != Some(info.picture) {
            (self.picture, self.picture_top) = (Some(info.picture), None);
            self.has_left_out = false;
            self.current = before.min(self.wish);
        }
        self.go_up(info, reader);
        if self.current != before {
            // For all layers of the picture that are still to come, also those that come late.
            let lowest = info.frame.saturating_sub(u64::from(info.spatial));
            let from = self.present.history.next().max(lowest);
            self.present.changes.push(from, self.current);
        }
        if !needs(self.current, info, reader) {
            self.present.history.record(info.frame, Fate::Dropped);
            self.has_left_out = true;
            return None;
        }
        self.present.history.record(info.frame, Fate::Forwarded);
        self.picture_top = self.picture_top.max(Some(info.spatial));
        if structure_of(info, reader).is_some()
            && let Some(dependency) = info.dependency
        {
            let number = dependency.number as u16;
            self.present.changes.announce(info.frame, number);
        }
        let edit = self.present.edit(info, reader)?;
        self.present.munger.on_sent(&edit);
        Some(edit)
    }

    /// Takes what more is asked for, as far as this frame allows.
    fn go_up(&mut self, info: &LayerInfo, reader: &LayerReader) {
        let (current, wish) = (self.current, self.wish);
        match info.layering {
            Layering::Vp8 { is_key: true } | Layering::Vp9 { is_key: true, .. } => {
                self.current = wish;
            }
            Layering::Vp8 { is_key: false } => {
                // It builds on the lowest layer only (Y). One layer at a time: what comes later in its layer
                // may build on those between.
                let is_next = info.temporal == current.temporal.saturating_add(1);
                if info.can_switch_up && is_next && wish.temporal >= info.temporal {
                    self.current.temporal = info.temporal;
                }
            }
            Layering::Vp9 {
                is_inter_picture,
                is_inter_layer,
                references,
                ..
            } => {
                let has_lower = !is_inter_layer || self.picture_top == info.spatial.checked_sub(1);
                let has_all = has_lower
                    && references.is_none_or(|known| self.present.went_out(&known, info.frame));
                if info.can_switch_up && wish.temporal > current.temporal {
                    if info.temporal <= current.temporal {
                        self.current.temporal = wish.temporal;
                    } else if info.temporal == current.temporal + 1 && has_all && !self.has_left_out
                    {
                        // libwebrtc up to 2019 marked the higher layer's frame, not the lowest's.
                        self.current.temporal = info.temporal;
                    }
                }
                // A layer that begins anew in the middle (libwebrtc, when it has bandwidth for it again).
                if info.spatial == current.spatial.saturating_add(1)
                    && wish.spatial >= info.spatial
                    && info.temporal == 0
                    && !is_inter_picture
                    && has_lower
                {
                    self.current.spatial = info.spatial;
                }
            }
            Layering::Described {
                indications,
                references,
            } => {
                let Some(structure) = structure_of(info, reader) else {
                    return;
                };
                let spatial = (current.spatial.min(LAYER_TOP)..=wish.spatial.min(LAYER_TOP)).rev();
                let temporal = current.temporal.min(LAYER_TOP)..=wish.temporal.min(LAYER_TOP);
                let higher = spatial
                    .flat_map(|spatial| {
                        let temporal = temporal.clone().rev();
                        temporal.map(move |temporal| Limit { spatial, temporal })
                    })
                    .find(|limit| structure.switches(*limit, &indications));
                if let Some(limit) = higher
                    && !self.has_left_out
                    && self.present.went_out(&references, info.frame)
                {
                    // The fourth stands for all above.
                    let open = |layer: u8, wish: u8| if layer == LAYER_TOP { wish } else { layer };
                    self.current = Limit {
                        spatial: open(limit.spatial, wish.spatial),
                        temporal: open(limit.temporal, wish.temporal),
                    };
                }
            }
            Layering::Single | Layering::Unknown => {}
        }
    }
}

impl Run {
    fn edit_of(&self, info: &LayerInfo, reader: &LayerReader) -> Option<Edit> {
        if info.run != self.run {
            return None;
        }
        match info.layering {
            Layering::Single => return Some(self.munger.edit(info, 0, false, None)),
            Layering::Unknown => return None,
            Layering::Vp8 { .. } | Layering::Vp9 { .. } | Layering::Described { .. } => {}
        }
        match self.history.place(info.frame) {
            Place::Known(Fate::Forwarded) => self.edit(info, reader),
            Place::Before if self.took_all_before => Some(self.munger.edit(info, 0, false, None)),
            _ => None,
        }
    }

    /// Whether all the frames that a frame builds on went out.
    fn went_out(&self, references: &References, of: u64) -> bool {
        let mut frames = references.of(of);
        frames.all(|frame| match self.history.place(frame) {
            Place::Known(fate) => fate == Fate::Forwarded,
            Place::Before => self.took_all_before,
            Place::New | Place::Late | Place::TooOld => false,
        })
    }

    /// How a packet of a frame that goes out looks. Depends on nothing that changes later.
    fn edit(&self, info: &LayerInfo, reader: &LayerReader) -> Option<Edit> {
        let change = self.changes.at(info.frame)?;
        let ends_picture = info.ends_frame
            && info.spatial == change.limit.spatial
            && !matches!(info.layering, Layering::Vp8 { .. });
        let dropped = self.history.dropped_up_to(info.frame);
        let mut edit = self
            .munger
            .edit(info, dropped, ends_picture, mask(change, info, reader));
        if !self.is_described(info) {
            edit.leave_out_descriptor();
        }
        Some(edit)
    }

    /// Whether the subscriber can make sense of the packet's dependency descriptor, and it is true: it has got a
    /// structure of this source, and what the payload says of layers, where it does, is the same. A receiver that gets a
    /// descriptor believes it rather than the payload, and drops the packet if it cannot read it.
    fn is_described(&self, info: &LayerInfo) -> bool {
        let Some(dependency) = info.dependency else {
            return true;
        };
        let has_structure = self.described_from.is_some_and(|from| info.frame >= from);
        let is_same = match (info.layering, dependency.descriptor) {
            (Layering::Vp8 { .. } | Layering::Vp9 { .. }, Some(read)) => {
                (read.spatial, read.temporal) == (info.spatial, info.temporal)
            }
            (_, read) => read.is_some(),
        };
        has_structure && is_same
    }
}

impl Changes {
    fn new(limit: Limit) -> Self {
        Self(vec![Change {
            from: 0,
            limit,
            told: Some(Told {
                from: u64::MAX,
                number: 0,
                more: u32::MAX,
                first: None,
            }),
        }])
    }

    fn push(&mut self, from: u64, limit: Limit) {
        if self.0.len() == CHANGES_MAX {
            self.0.remove(0);
        }
        let change = Change {
            from,
            limit,
            told: None,
        };
        push(&mut self.0, change);
    }

    /// What holds for a frame, if that is still known.
    fn at(&self, frame: u64) -> Option<&Change> {
        self.0.iter().rev().find(|change| change.from <= frame)
    }

    /// The highest frame goes out: if nobody has told of the last change yet, it does, and those after it.
    fn announce(&mut self, frame: u64, number: u16) {
        if let Some(last) = self.0.last_mut() {
            last.told.get_or_insert(Told {
                from: frame,
                number,
                more: u32::MAX,
                first: None,
            });
        }
    }

    /// Who tells of the last change.
    fn told_last(&mut self) -> Option<&mut Told> {
        self.0.last_mut()?.told.as_mut()
    }
}

/// The mask of active decode targets that a packet tells: after a change, where a structure would else make all active,
/// and where the publisher tells its own. What the publisher does not make is not active either.
fn mask(change: &Change, info: &LayerInfo, reader: &LayerReader) -> Option<u32> {
    let structure = structure_of(info, reader)?;
    let dependency = info.dependency?;
    let descriptor = dependency.descriptor?;
    let own = descriptor.active_targets;
    let made = own.unwrap_or_else(|| reader.active_targets(dependency.number));
    let mask = structure.active(change.limit) & made;
    let repeats = change.told.is_some_and(|told| {
        info.frame
            .checked_sub(told.from)
            .is_some_and(|after| after <= u64::from(told.more))
    });
    // No target at all would stop a decoder: then it is better not to tell. And a structure tells by itself that
    // all are active.
    let is_needed = own.is_some()
        || (descriptor.has_structure && mask != structure.all())
        || (repeats && !descriptor.has_structure);
    (is_needed && mask != 0).then_some(mask)
}

/// Whether a subscriber with this limit gets the frame.
fn needs(limit: Limit, info: &LayerInfo, reader: &LayerReader) -> bool {
    match &info.layering {
        Layering::Described { indications, .. } => match structure_of(info, reader) {
            Some(structure) => structure.needs(limit, indications),
            None => limit.takes(info.spatial, info.temporal),
        },
        _ => limit.takes(info.spatial, info.temporal),
    }
}

fn structure_of<'r>(info: &LayerInfo, reader: &'r LayerReader) -> Option<&'r Structure> {
    let Dependency { number, descriptor } = info.dependency?;
    descriptor?;
    reader.structure(number)
}

/// Changes that are remembered: an allocator makes at most five a second, and a packet is asked for again within
/// one.
const CHANGES_MAX: usize = 8;
/// The fourth layer of a kind stands for all above, as in `structures`.
const LAYER_TOP: u8 = 3;
