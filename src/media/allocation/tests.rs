use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::base::ids::EncodingIndex;
use crate::media::fair_share::FairShare;
use crate::media::ladder::{Wanted, ladder_within};
use crate::media::pace::Pace;

fn layer(encoding: u8, temporal: u8) -> LayerId {
    LayerId {
        encoding: EncodingIndex(encoding),
        spatial: 0,
        temporal,
    }
}

fn step(encoding: u8, temporal: u8, kbits: u64, width: u16, rate: u16) -> Step {
    Step {
        layer: layer(encoding, temporal),
        bitrate: Bitrate(kbits * 1000),
        size: Some((width, width / 16 * 9)),
        frames_per_second: Some(rate),
    }
}

/// What Chromium sends of a 720p camera.
fn simulcast() -> Vec<Step> {
    vec![
        step(0, 0, 150, 320, 30),
        step(1, 0, 500, 640, 30),
        step(2, 0, 1500, 1280, 30),
    ]
}

fn demand(steps: &[Step]) -> VideoDemand<'_> {
    VideoDemand {
        steps,
        top: LayerReason::Best,
        priority: 50,
        off: None,
        present: None,
        may_rise: true,
        rises_below: None,
        may_cling: false,
    }
}

fn budget(kbits: u64) -> Budget {
    Budget {
        estimate: Some(Bitrate(kbits * 1000)),
        audio: Bitrate(0),
        fair: None,
        is_busy: false,
    }
}

/// The encodings given, -1 for none.
fn given(budget: &Budget, demands: &[VideoDemand<'_>]) -> Vec<i8> {
    let encoding = |share: Share| share.layer.map_or(-1, |layer| layer.encoding.0 as i8);
    let shares = allocate(budget, demands);
    shares.into_iter().map(encoding).collect()
}

#[test]
fn one_video_takes_the_best_that_fits_with_room_to_spare() {
    let steps = simulcast();
    let cases = [
        (100, -1),
        (160, -1),
        (180, 0),
        (560, 0),
        (580, 1),
        (1700, 1),
        (1730, 2),
        (9000, 2),
    ];
    for (kbits, expected) in cases {
        assert_eq!(
            given(&budget(kbits), &[demand(&steps)]),
            [expected],
            "{kbits}"
        );
    }
    let unlimited = Budget {
        estimate: None,
        ..budget(0)
    };
    assert_eq!(given(&unlimited, &[demand(&steps)]), [2]);
    assert_eq!(allocate(&unlimited, &[demand(&steps)])[0].available, None);
}

#[test]
fn the_numbers_say_what_is_there_and_what_the_next_layer_needs() {
    let steps = simulcast();
    let mut budget = budget(400);
    budget.audio = Bitrate(40_000);
    let shares = allocate(&budget, &[demand(&steps), demand(&steps)]);
    let first = shares[0];
    assert_eq!(first.reason, LayerReason::Bandwidth);
    assert_eq!(
        first.available,
        Some(Bitrate(210_000)),
        "360 but for the other 150"
    );
    assert_eq!(first.bitrate, Bitrate(150_000));
    assert_eq!(first.next, Some(Bitrate(500_000)));
    assert_eq!(first.size, Some((320, 180)));
    // Sound leaves nothing: video pauses, and says so.
    budget.audio = Bitrate(380_000);
    let starved = allocate(&budget, &[demand(&steps)])[0];
    assert_eq!(
        (starved.layer, starved.reason),
        (None, LayerReason::Bandwidth)
    );
    assert_eq!(starved.next, Some(Bitrate(150_000)));
}

#[test]
fn everybody_gets_a_beginning_before_anybody_gets_more() {
    let steps = simulcast();
    let mut demands = [demand(&steps); 4];
    demands[2].priority = 90;
    // The first to get one is the most important; then the order of the list.
    assert_eq!(given(&budget(200), &demands), [-1, -1, 0, -1]);
    assert_eq!(given(&budget(360), &demands), [0, -1, 0, -1]);
    // Nobody rises while somebody has nothing.
    assert_eq!(given(&budget(680), &demands), [0, 0, 0, -1]);
    assert_eq!(given(&budget(700), &demands), [0, 0, 0, 0]);
    // 600 for all, the rest for the most important: 350 and then 1000 more.
    assert_eq!(given(&budget(1100), &demands), [0, 0, 1, 0]);
    assert_eq!(given(&budget(2250), &demands), [0, 0, 2, 0]);
    // Then the others, together.
    assert_eq!(given(&budget(2700), &demands), [1, 0, 2, 0]);
    assert_eq!(given(&budget(3500), &demands), [1, 1, 2, 1]);
}

#[test]
fn a_publisher_without_simulcast_competes_with_the_steps_of_others() {
    let steps = simulcast();
    let single = [step(0, 0, 1200, 1280, 30)];
    let demands = [demand(&single), demand(&steps), demand(&steps)];
    assert_eq!(given(&budget(400), &demands), [-1, 0, 0]);
    assert_eq!(given(&budget(1300), &demands), [-1, 1, 1]);
    assert_eq!(given(&budget(2600), &demands), [0, 1, 1]);
    // But not with those of a lower priority.
    let mut demands = demands;
    demands[0].priority = 80;
    assert_eq!(given(&budget(1750), &demands), [0, 0, 0]);
}

#[test]
fn the_wanted_size_and_frame_rate_cap() {
    let mut steps = simulcast();
    steps.insert(1, step(0, 1, 200, 320, 30));
    steps[0].frames_per_second = Some(15);
    let cases = [
        ((None, None, None), layer(2, 0)),
        // All frame rates of the size; it may be a tenth larger than the pictures.
        ((Some(320), Some(180), None), layer(0, 1)),
        ((Some(350), Some(197), None), layer(0, 1)),
        ((Some(360), Some(203), None), layer(1, 0)),
        ((Some(1), None, None), layer(0, 1)),
        ((None, Some(720), None), layer(2, 0)),
        ((Some(4000), Some(2000), None), layer(2, 0)),
        // One side fills the frame: the other has bars.
        ((Some(300), Some(600), None), layer(0, 1)),
        ((Some(320), None, Some(20)), layer(0, 0)),
        ((Some(320), None, Some(1)), layer(0, 0)),
        ((None, None, Some(20)), layer(2, 0)),
    ];
    for ((width, height, frames_per_second), expected) in cases {
        let wanted = Wanted {
            width,
            height,
            frames_per_second,
        };
        let steps = ladder_within(&steps, &wanted, None);
        let share = allocate(&budget(9000), &[demand(&steps)])[0];
        assert_eq!(share.layer, Some(expected), "{wanted:?}");
    }
}

#[test]
fn reasons_other_than_bandwidth() {
    let steps = simulcast();
    let reason = |change: &dyn Fn(&mut VideoDemand<'_>)| {
        let mut demand = demand(&steps);
        change(&mut demand);
        let share = allocate(&budget(9000), &[demand])[0];
        (share.layer.is_some(), share.reason)
    };
    for off in [
        LayerReason::Paused,
        LayerReason::LastN,
        LayerReason::PublisherMuted,
    ] {
        assert_eq!(reason(&|d| d.off = Some(off)), (false, off));
    }
    assert_eq!(
        reason(&|d| d.steps = &[]),
        (false, LayerReason::PublisherMuted)
    );
    assert_eq!(
        reason(&|d| d.top = LayerReason::NotSent),
        (true, LayerReason::NotSent)
    );
    let busy = Budget {
        is_busy: true,
        ..budget(9000)
    };
    let mut holder = demand(&steps);
    holder.present = Some(layer(1, 0));
    let shares = allocate(&busy, &[demand(&steps), holder]);
    assert_eq!(shares[0].layer, Some(layer(0, 0)));
    assert_eq!(shares[1].layer, Some(layer(1, 0)));
    assert!(shares.iter().all(|share| share.reason == LayerReason::Cpu));
}

/// The room's part in a test: keeps what each has, and its pace.
struct Subscriber<'s> {
    demands: Vec<VideoDemand<'s>>,
    paces: Vec<Pace>,
    changes: usize,
}

impl<'s> Subscriber<'s> {
    fn new(demands: Vec<VideoDemand<'s>>) -> Self {
        Self {
            paces: vec![Pace::default(); demands.len()],
            demands,
            changes: 0,
        }
    }

    fn allocate(&mut self, now: Instant, budget: &Budget) -> Vec<Share> {
        for (demand, pace) in self.demands.iter_mut().zip(&self.paces) {
            demand.may_rise = pace.may_rise(now);
            demand.rises_below = pace.rises_below(now);
            demand.may_cling = pace.may_cling(now);
        }
        let shares = allocate(budget, &self.demands);
        for (at, share) in shares.iter().enumerate() {
            let demand = &mut self.demands[at];
            self.paces[at].on_share(now, demand.present, share);
            self.changes += usize::from(demand.present != share.layer);
            demand.present = share.layer;
        }
        shares
    }
}

/// What is fair, for one that has 3 Mbit/s for itself.
fn fair_budget(fair: u64, change: impl FnOnce(&mut Fair)) -> Budget {
    let mut fair = Fair {
        share: FairShare {
            bitrate: Bitrate(fair * 1000),
            level: None,
            is_behind: false,
            would_leave_behind: false,
        },
        yields: false,
        follows: false,
    };
    change(&mut fair);
    Budget {
        fair: Some(fair),
        ..budget(3000)
    }
}

#[test]
fn who_shares_gets_no_further_than_to_a_fair_part() {
    let steps = simulcast();
    let given = |budget: &Budget, present: Option<u8>| {
        let mut demand = demand(&steps);
        demand.present = present.map(|encoding| layer(encoding, 0));
        let share = allocate(budget, &[demand])[0];
        (share.layer.map(|layer| layer.encoding.0), share.reason)
    };
    let is = |encoding| (Some(encoding), LayerReason::Bandwidth);
    let best = (Some(2), LayerReason::Best);
    let usual = |fair| fair_budget(fair, |_| {});
    // A quarter to spare.
    assert_eq!(given(&usual(1860), None), is(1));
    assert_eq!(given(&usual(1900), None), best);
    assert_eq!(given(&usual(1000), Some(2)), best, "what one has stays");
    let available = allocate(&usual(1000), &[demand(&steps)])[0].available;
    assert_eq!(available, Some(Bitrate(1_000_000)));
    // Another one is behind; then it has been for long.
    let level = Some(Bitrate(700_000));
    let ahead = fair_budget(1000, |fair| fair.share.level = level);
    assert_eq!(given(&ahead, Some(2)), best);
    let yields = fair_budget(1000, |fair| (fair.share.level, fair.yields) = (level, true));
    assert_eq!(given(&yields, Some(2)), is(1));
    assert_eq!(given(&yields, Some(1)), is(1));
    // Who is behind needs nothing to spare, but when others are to come along.
    let follows = |fair| fair_budget(fair, |fair| fair.follows = true);
    assert_eq!(given(&follows(1490), Some(1)), is(1));
    assert_eq!(given(&follows(1510), Some(1)), best);
    let alone = fair_budget(2900, |fair| fair.share.would_leave_behind = true);
    assert_eq!(given(&alone, Some(1)), is(1));
    // Nobody goes without for that.
    let nothing = fair_budget(10, |fair| {
        (fair.share.level, fair.yields) = (Some(Bitrate(10_000)), true);
        fair.share.would_leave_behind = true;
    });
    assert_eq!(given(&nothing, Some(2)), is(0));
    assert_eq!(given(&nothing, None), is(0));
}

#[test]
fn a_fall_that_others_caused_is_waited_for_less() {
    let t0 = Instant::now();
    let after = |ms| t0 + Duration::from_millis(ms);
    let steps = simulcast();
    let mut subscriber = Subscriber::new(vec![demand(&steps)]);
    assert!(!subscriber.paces[0].may_follow(t0), "nothing has failed");
    for at in (0..60_000).step_by(200) {
        let is_high = subscriber.demands[0].present == Some(layer(2, 0));
        subscriber.allocate(after(at), &budget(if is_high { 600 } else { 3000 }));
    }
    let fell = (60_000..90_000).step_by(100).find(|at| {
        let before = subscriber.demands[0].present;
        let is_high = before == Some(layer(2, 0));
        subscriber.allocate(after(*at), &budget(if is_high { 600 } else { 3000 }));
        is_high
    });
    let fell = fell.expect("it is tried now and then");
    let pace = subscriber.paces[0];
    assert!(!pace.may_rise(after(fell + 15_000)));
    assert!(!pace.may_follow(after(fell + 3_900)));
    assert!(pace.may_follow(after(fell + 4_000)));
}

#[test]
fn a_squeeze_steps_down_at_once_and_its_end_steps_up_soon() {
    let t0 = Instant::now();
    let ms = |ms| t0 + Duration::from_millis(ms);
    let steps = simulcast();
    let mut subscriber = Subscriber::new(vec![demand(&steps)]);
    let layer_at = |s: &mut Subscriber<'_>, at, kbits| {
        s.allocate(ms(at), &budget(kbits))[0]
            .layer
            .map(|l| l.encoding.0)
    };
    assert_eq!(layer_at(&mut subscriber, 0, 3000), Some(2));
    assert_eq!(layer_at(&mut subscriber, 400, 300), Some(0));
    // A rise that failed: four seconds; what is below it comes back sooner.
    assert_eq!(layer_at(&mut subscriber, 2_300, 3000), Some(0));
    assert_eq!(layer_at(&mut subscriber, 2_500, 3000), Some(1));
    assert_eq!(layer_at(&mut subscriber, 4_200, 3000), Some(1));
    assert_eq!(layer_at(&mut subscriber, 4_500, 3000), Some(2));
    // One that lasted is forgotten: two seconds.
    assert_eq!(layer_at(&mut subscriber, 15_000, 3000), Some(2));
    assert_eq!(layer_at(&mut subscriber, 15_200, 300), Some(0));
    assert_eq!(layer_at(&mut subscriber, 17_300, 3000), Some(2));
    // What fails again and again is tried less and less often.
    let mut rises = 0;
    for at in (18_000..200_000).step_by(200) {
        let before = subscriber.demands[0].present;
        let kbits = match before {
            Some(top) if top.encoding.0 == 2 => 300,
            _ => 3000,
        };
        layer_at(&mut subscriber, at, kbits);
        rises += usize::from(subscriber.demands[0].present > before);
    }
    // Two steps each time.
    assert!((16..=28).contains(&rises), "{rises}");
}

#[test]
fn a_short_undershoot_gives_nothing_up() {
    let t0 = Instant::now();
    let steps = simulcast();
    let mut subscriber = Subscriber::new(vec![demand(&steps); 3]);
    let mut at = |ms, kbits| -> Vec<i8> {
        let now = t0 + Duration::from_millis(ms);
        let shares = subscriber.allocate(now, &budget(kbits));
        let of = |share: Share| share.layer.map_or(-1, |layer| layer.encoding.0 as i8);
        shares.into_iter().map(of).collect()
    };
    assert_eq!(at(0, 2_000), [1, 1, 1]);
    // A moment at a fifth of what two of them need: the first keeps something.
    assert_eq!(at(1_000, 70), [0, -1, -1]);
    assert_eq!(at(1_600, 400), [0, 0, -1]);
    assert_eq!(at(9_000, 250), [0, 0, -1], "twice as much is bearable");
    assert_eq!(at(9_900, 250), [0, 0, -1]);
    assert_eq!(at(10_000, 250), [0, -1, -1], "not for long");
    assert_eq!(at(10_200, 70), [0, -1, -1]);
    assert_eq!(at(11_200, 70), [-1, -1, -1]);
    assert_eq!(at(11_400, 70), [-1, -1, -1]);
    assert_eq!(at(11_700, 400), [0, 0, -1], "soon again");
}

#[test]
fn noise_makes_nothing_flap() {
    let t0 = Instant::now();
    let steps = simulcast();
    // Every budget: those where something nearly fits are the hard ones.
    for kbits in (100..4_000).step_by(10) {
        let mut subscriber = Subscriber::new(vec![demand(&steps); 3]);
        subscriber.allocate(t0, &budget(kbits));
        for turn in 1..40 {
            subscriber.allocate(t0 + Duration::from_secs(turn), &budget(kbits));
        }
        subscriber.changes = 0;
        for turn in 40..240_u64 {
            // From -5 to +5 %, in no order.
            let noise = 950 + turn * 7_919 % 101;
            let budget = budget(kbits * noise / 1000);
            subscriber.allocate(t0 + Duration::from_secs(turn), &budget);
        }
        // Settling may use the best moment to rise, once each.
        assert!(subscriber.changes <= 3, "{kbits}: {}", subscriber.changes);
    }
}

#[test]
fn a_turn_that_takes_the_place_of_another_waits_for_its_pace() {
    let t0 = Instant::now();
    let steps = simulcast();
    let mut subscriber = Subscriber::new(vec![demand(&steps); 2]);
    let got = |shares: Vec<Share>| -> Vec<u8> {
        let encoding = |s: &Share| s.layer.expect("fits").encoding.0;
        shares.iter().map(encoding).collect()
    };
    // Enough for two of the lowest and one of the next: whoever has it keeps it.
    assert_eq!(got(subscriber.allocate(t0, &budget(800))), [1, 0]);
    for second in 1..30 {
        let shares = subscriber.allocate(t0 + Duration::from_secs(second), &budget(800));
        assert_eq!(got(shares), [1, 0]);
    }
    // The other is pinned.
    subscriber.demands[1].priority = 100;
    subscriber.paces[1].reset();
    let shares = subscriber.allocate(t0 + Duration::from_secs(30), &budget(800));
    assert_eq!(got(shares), [0, 1]);
}

/// A publisher: its lowest layer, and by how much each further one costs more.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let factors = prop::collection::vec(105_u64..500, 0..8);
    (30_u64..600, factors).prop_map(|(lowest, factors)| {
        let mut kbits = lowest;
        let mut steps = vec![step(0, 0, lowest, 160, 30)];
        for (index, factor) in factors.into_iter().enumerate() {
            kbits = (kbits * factor / 100).max(kbits + 1);
            let index = index as u8 + 1;
            steps.push(step(index / 3, index % 3, kbits, 160 << (index / 3), 30));
        }
        steps
    })
}

type Video = (Vec<Step>, u8, Option<usize>, bool);

fn videos() -> impl Strategy<Value = Vec<Video>> {
    let priority = prop::sample::select(vec![0_u8, 50, 50, 100]);
    let width = prop::option::of(100_u16..2_000);
    // As far as they are wanted.
    let steps = (steps(), width).prop_map(|(steps, width)| {
        let wanted = Wanted {
            width,
            ..Wanted::default()
        };
        ladder_within(&steps, &wanted, None)
    });
    let present = prop::option::of(0_usize..8);
    prop::collection::vec((steps, priority, present, any::<bool>()), 1..12)
}

fn demands(videos: &[Video]) -> Vec<VideoDemand<'_>> {
    let mut demands = Vec::new();
    for (steps, priority, present, may_rise) in videos {
        let present = present.and_then(|at| steps.get(at));
        demands.push(VideoDemand {
            priority: *priority,
            present: present.map(|step| step.layer),
            may_rise: *may_rise,
            ..demand(steps)
        });
    }
    demands
}

proptest! {
    /// Never more than there is, but for the tolerance of what one has.
    #[test]
    fn nothing_is_given_that_is_not_there(
        videos in videos(),
        estimate in 0_u64..20_000_000,
        audio in 0_u64..200_000,
    ) {
        let budget = Budget {
            estimate: Some(Bitrate(estimate)),
            audio: Bitrate(audio),
            fair: None,
            is_busy: false,
        };
        let demands = demands(&videos);
        let shares = allocate(&budget, &demands);
        prop_assert_eq!(shares.len(), demands.len());
        let used: u64 = shares.iter().map(|share| share.bitrate.0).sum();
        let room = estimate.saturating_sub(audio);
        prop_assert!(used <= room + room / 20, "{} of {}", used, room);
        for (share, demand) in shares.iter().zip(&demands) {
            let cap = demand.steps.last().map(|step| step.layer);
            prop_assert!(share.layer <= cap);
            prop_assert!(demand.may_rise || share.layer <= demand.present);
            if share.layer == cap {
                prop_assert_ne!(share.reason, LayerReason::Bandwidth);
            }
        }
        prop_assert_eq!(&allocate(&budget, &demands), &shares, "deterministic");
    }

    /// Whoever alone has the highest priority never gets less when there is more.
    #[test]
    fn more_never_gives_less_to_the_first(
        videos in videos(),
        less in 0_u64..10_000_000,
        more in 0_u64..10_000_000,
    ) {
        let mut demands = demands(&videos);
        for demand in &mut demands {
            demand.priority = demand.priority.min(99);
            (demand.present, demand.may_rise) = (None, true);
        }
        demands[0].priority = 100;
        let first = |estimate: u64| allocate(&budget(estimate / 1000), &demands)[0].layer;
        prop_assert!(first(less) <= first(less + more));
    }

    /// Equals end at most one step apart, and nobody has nothing while another has more than a beginning.
    #[test]
    fn equals_get_the_same(
        lowest in 30_u64..300,
        factors in prop::collection::vec(2_u64..5, 0..6),
        count in 1_usize..8,
        kbits in 0_u64..20_000,
    ) {
        let mut steps = vec![step(0, 0, lowest, 160, 30)];
        for (index, factor) in factors.into_iter().enumerate() {
            let kbits = steps[index].bitrate.0 / 1000 * factor;
            steps.push(step(index as u8 + 1, 0, kbits, 320, 30));
        }
        let demands = vec![demand(&steps); count];
        let place = |share: &Share| match share.layer {
            None => 0,
            Some(layer) => 1 + steps.iter().position(|s| s.layer == layer).expect("a step"),
        };
        let places: Vec<usize> = allocate(&budget(kbits), &demands).iter().map(place).collect();
        let (low, high) = (places.iter().min(), places.iter().max());
        let (low, high) = (*low.expect("one"), *high.expect("one"));
        prop_assert!(high - low <= 1, "{:?}", places);
        prop_assert!(low > 0 || high <= 1, "{:?}", places);
    }
}
