//! How shards and the coordinator's registry reach one connection: a bounded channel that wakes the
//! connection's thread, and never blocks the one who posts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use mio::{Registry, Token, Waker};
use parking_lot::Mutex;

use crate::base::ids::TrackKey;
use crate::control::Event;

/// The most events that wait for one connection. Roster changes, layers, speakers and the end of the server do
/// not count, so what remains are a few changes of its transport.
const EVENTS_MAX: usize = 64;

/// The posting end of one connection's events; shared by all who post.
///
/// When the channel is full the connection has not looked for a long time: it is marked as overflown,
/// and its thread ends it, told by [`Mail::Overflow`].
#[derive(Debug)]
pub struct Mailbox {
    tx: Sender<Event>,
    flags: Flags,
    /// Layers that have changed, and encodings that are wanted or not any more: of each track the latest counts.
    /// Those of a peer's own tracks and those of others never share a key.
    layers: Mutex<BTreeMap<TrackKey, Event>>,
    /// Who speaks, as told last: what was told before and not read is of no use any more. Looked into only
    /// while its flag is set.
    speakers: Mutex<Option<Event>>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Flags {
    /// Any number of changes is one event.
    room_changed: AtomicBool,
    speakers: AtomicBool,
    /// Never lost, even if the channel is full.
    shutdown: AtomicBool,
    overflow: AtomicBool,
    layers_changed: AtomicBool,
    /// A wake-up is under way: no need for another system call.
    woken: AtomicBool,
}

/// The reading end, for the connection's own thread.
#[derive(Debug)]
pub struct MailboxReader {
    rx: Receiver<Event>,
    mailbox: Arc<Mailbox>,
}

/// What a connection finds in its mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mail {
    /// Something for the session.
    Event(Event),
    /// An event was lost: the connection must end as too slow.
    Overflow,
}

/// Makes both ends. Posting wakes the poll of `registry` with `token`.
///
/// # Errors
/// What the system says if it has no descriptor left for the waker.
pub fn mailbox(registry: &Registry, token: Token) -> io::Result<(Arc<Mailbox>, MailboxReader)> {
    let (tx, rx) = bounded(EVENTS_MAX);
    let mailbox = Arc::new(Mailbox {
        tx,
        flags: Flags::default(),
        layers: Mutex::new(BTreeMap::new()),
        speakers: Mutex::new(None),
        waker: Waker::new(registry, token)?,
    });
    let reader = MailboxReader {
        rx,
        mailbox: Arc::clone(&mailbox),
    };
    Ok((mailbox, reader))
}

impl Mailbox {
    /// Leaves `event` for the connection and wakes it. Never blocks. After the connection has ended
    /// nothing happens.
    pub fn post(&self, event: Event) {
        match event {
            Event::RoomChanged => self.flags.room_changed.store(true, Ordering::Release),
            Event::Shutdown => self.flags.shutdown.store(true, Ordering::Release),
            Event::Layer(_, change) => self.post_layer(change.track, event),
            Event::LayersWanted(_, ref wanted) => self.post_layer(wanted.track, event),
            Event::Speakers(..) => {
                *self.speakers.lock() = Some(event);
                self.flags.speakers.store(true, Ordering::Release);
            }
            event => match self.tx.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => self.flags.overflow.store(true, Ordering::Release),
                Err(TrySendError::Disconnected(_)) => return,
            },
        }
        // Sequentially consistent with the reader's swap: either the reader sees what was stored
        // above after clearing the flag, or it is woken again.
        if !self.flags.woken.swap(true, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            // The next post tries again; until then the thread's own deadlines wake it.
            self.flags.woken.store(false, Ordering::SeqCst);
            tracing::debug!(%error, "could not wake a connection");
        }
    }
}

impl Mailbox {
    fn post_layer(&self, track: TrackKey, event: Event) {
        let mut layers = self.layers.lock();
        if layers.len() < LAYERS_MAX || layers.contains_key(&track) {
            layers.insert(track, event);
            self.flags.layers_changed.store(true, Ordering::Release);
        } else {
            self.flags.overflow.store(true, Ordering::Release);
        }
    }

    /// One layer that has changed, the lowest key first.
    fn take_layer(&self) -> Option<Event> {
        if !self.flags.layers_changed.load(Ordering::Acquire) {
            return None;
        }
        let mut layers = self.layers.lock();
        let event = layers.pop_first();
        self.flags
            .layers_changed
            .store(!layers.is_empty(), Ordering::Release);
        event.map(|(_, event)| event)
    }
}

impl MailboxReader {
    /// The end to post to, for those who are to reach this connection.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// To be called once after each wake-up, before [`MailboxReader::poll`] is drained: what is posted
    /// from then on wakes again.
    pub fn rearm(&self) {
        self.mailbox.flags.woken.swap(false, Ordering::SeqCst);
    }

    /// The next thing posted; `None` if there is none left.
    pub fn poll(&self) -> Option<Mail> {
        let flags = &self.mailbox.flags;
        match self.rx.try_recv() {
            Ok(event) => return Some(Mail::Event(event)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        if flags.shutdown.swap(false, Ordering::Acquire) {
            return Some(Mail::Event(Event::Shutdown));
        }
        if flags.overflow.swap(false, Ordering::Acquire) {
            return Some(Mail::Overflow);
        }
        if let Some(event) = self.mailbox.take_layer() {
            return Some(Mail::Event(event));
        }
        if flags.room_changed.swap(false, Ordering::Acquire) {
            return Some(Mail::Event(Event::RoomChanged));
        }
        // Last: the speakers' names come with the room's changes.
        if flags.speakers.swap(false, Ordering::Acquire) {
            return self.mailbox.speakers.lock().take().map(Mail::Event);
        }
        None
    }
}

/// The most tracks of which layer changes wait for one connection: more than a peer sends and receives.
const LAYERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;
    use crate::base::ids::{Bitrate, PeerKey, SubscriptionKey};
    use crate::control::layers::LayerChange;
    use crate::control::{ActiveSpeakers, LayerReason, TransportEvent};

    const TOKEN: Token = Token(3);
    const LOST: Event = Event::Transport(PeerKey(1), TransportEvent::ConsentLost);

    fn woken(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().any(|event| event.token() == TOKEN)
    }

    fn drain(reader: &MailboxReader) -> Vec<Mail> {
        reader.rearm();
        std::iter::from_fn(|| reader.poll()).collect()
    }

    #[test]
    fn events_come_in_order_and_changes_of_the_room_once() {
        let mut poll = Poll::new().unwrap();
        let (mailbox, reader) = mailbox(poll.registry(), TOKEN).unwrap();
        assert!(!woken(&mut poll));
        for event in [
            Event::RoomChanged,
            LOST,
            Event::RoomChanged,
            Event::Replaced(PeerKey(1)),
        ] {
            mailbox.post(event);
        }
        assert!(woken(&mut poll));
        let expected = [LOST, Event::Replaced(PeerKey(1)), Event::RoomChanged].map(Mail::Event);
        assert_eq!(drain(&reader), expected);
        assert!(!woken(&mut poll));
        mailbox.post(Event::RoomChanged);
        assert!(woken(&mut poll), "a drained mailbox wakes again");
        assert_eq!(drain(&reader), [Mail::Event(Event::RoomChanged)]);
    }

    #[test]
    fn of_speakers_only_the_latest_is_read() {
        let mut poll = Poll::new().unwrap();
        let (mailbox, reader) = mailbox(poll.registry(), TOKEN).unwrap();
        let speaks = |dominant| {
            let told = ActiveSpeakers {
                dominant: Some(PeerKey(dominant)),
                speakers: Vec::new(),
            };
            Event::Speakers(PeerKey(1), Arc::new(told))
        };
        for dominant in 0..10 * EVENTS_MAX as u64 {
            mailbox.post(speaks(dominant));
        }
        mailbox.post(Event::RoomChanged);
        assert!(woken(&mut poll));
        let latest = speaks(10 * EVENTS_MAX as u64 - 1);
        let expected = [Event::RoomChanged, latest].map(Mail::Event);
        assert_eq!(drain(&reader), expected, "and no overflow");
        mailbox.post(speaks(7));
        assert!(woken(&mut poll));
        assert_eq!(drain(&reader), [Mail::Event(speaks(7))]);
    }

    #[test]
    fn a_full_mailbox_overflows_and_still_tells_of_the_shutdown() {
        let poll = Poll::new().unwrap();
        let (mailbox, reader) = mailbox(poll.registry(), TOKEN).unwrap();
        for _ in 0..EVENTS_MAX {
            mailbox.post(LOST);
        }
        assert!(!drain(&reader).contains(&Mail::Overflow));
        for _ in 0..=EVENTS_MAX {
            mailbox.post(LOST);
        }
        mailbox.post(Event::Shutdown);
        let mail = drain(&reader);
        assert_eq!(mail.len(), EVENTS_MAX + 2);
        assert_eq!(mail[EVENTS_MAX], Mail::Event(Event::Shutdown));
        assert_eq!(mail[EVENTS_MAX + 1], Mail::Overflow);
    }

    #[test]
    fn of_each_track_the_latest_layer_waits() {
        let mut poll = Poll::new().unwrap();
        let (mailbox, reader) = mailbox(poll.registry(), TOKEN).unwrap();
        let change = |index, bitrate| {
            let change = LayerChange {
                subscription: SubscriptionKey(index),
                track: TrackKey {
                    peer: PeerKey(2),
                    index,
                },
                layer: None,
                rid: None,
                reason: LayerReason::Bandwidth,
                available: None,
                bitrate: Bitrate(bitrate),
                next: None,
                size: None,
            };
            Event::Layer(PeerKey(1), change)
        };
        for n in 0..1000 {
            mailbox.post(change(n as u32 % 3, n));
        }
        mailbox.post(LOST);
        assert!(woken(&mut poll));
        let expected = [LOST, change(0, 999), change(1, 997), change(2, 998)].map(Mail::Event);
        assert_eq!(drain(&reader), expected);
        mailbox.post(change(7, 7));
        assert!(woken(&mut poll));
        assert_eq!(drain(&reader), [Mail::Event(change(7, 7))]);
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const TOTAL: usize = 5000;
        let mut poll = Poll::new().unwrap();
        let (mailbox, reader) = mailbox(poll.registry(), TOKEN).unwrap();
        let received = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&received);
        // Posts only while the reader keeps up, so that a lost wake-up would leave both waiting.
        let poster = std::thread::spawn(move || {
            for posted in 0..TOTAL {
                while posted >= seen.load(Ordering::SeqCst) + EVENTS_MAX / 2 {
                    std::thread::yield_now();
                }
                mailbox.post(LOST);
            }
        });
        let mut events = Events::with_capacity(4);
        while received.load(Ordering::SeqCst) < TOTAL {
            let timeout = Some(Duration::from_secs(10));
            poll.poll(&mut events, timeout).unwrap();
            assert!(!events.is_empty(), "a wake-up was lost");
            received.fetch_add(drain(&reader).len(), Ordering::SeqCst);
        }
        poster.join().unwrap();
        assert_eq!(received.load(Ordering::SeqCst), TOTAL);
    }
}
