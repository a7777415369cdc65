//! Rates over a sliding window, kept in a ring of small slots.

use std::time::Duration;

use crate::time::{Nanos, WallClock};

/// Slots per window: with a window of five seconds each is 200 ms, so that a rate moves smoothly from frame to frame.
const SLOTS_PER_WINDOW: u64 = 25;

/// Slots in a ring: the window, its partly covered ends, and room for events that arrive a second late.
const RING: usize = 32;

/// The shortest observation that has rates: one event in a shorter one would look like a flood.
const MIN_OBSERVED: Duration = Duration::from_millis(500);

/// Numbers slots, and relates them to the start of the observation.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotClock {
    started: Nanos,
    /// Since when something is observed that could be counted; `None` while nothing is.
    watching_since: Option<Nanos>,
    slot_nanos: u64,
}

/// The number of a slot, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotNumber(u64);

impl SlotNumber {
    fn position(self) -> usize {
        (self.0 % RING as u64) as usize
    }
}

impl SlotClock {
    pub(super) fn new(started: Nanos, window: Duration) -> Self {
        let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self { started, watching_since: Some(started), slot_nanos: (nanos / SLOTS_PER_WINDOW).max(1) }
    }

    /// Takes over since when something is observed: rates are of that time only.
    pub(super) fn watch_since(&mut self, since: Option<Nanos>) {
        self.watching_since = since;
    }

    /// The slot in which that began; slots are numbered from 1.
    fn first_watched(&self) -> SlotNumber {
        self.watching_since.map_or(SlotNumber(1), |since| self.at(since).max(SlotNumber(1)))
    }

    pub(super) fn is_watching(&self) -> bool {
        self.watching_since.is_some()
    }

    pub(super) fn at(&self, when: Nanos) -> SlotNumber {
        SlotNumber(when.0.saturating_sub(self.started.0) / self.slot_nanos + 1)
    }

    /// What part of the slot that `now` lies in has passed.
    fn passed(&self, now: Nanos) -> f64 {
        (now.0.saturating_sub(self.started.0) % self.slot_nanos) as f64 / self.slot_nanos as f64
    }

    /// What sums over the window are divided by; `None` while there is too little.
    fn divisor(&self, now: Nanos) -> Option<f64> {
        let observed = now.since(self.watching_since?);
        let window = Duration::from_nanos(self.slot_nanos.saturating_mul(SLOTS_PER_WINDOW));
        (observed >= MIN_OBSERVED.min(window)).then(|| observed.min(window).as_secs_f64())
    }

    /// Wall-clock time of the start.
    pub(super) fn started_at(&self, clock: &WallClock) -> jiff::Timestamp {
        clock.at(self.started)
    }

    /// Seconds since the start.
    pub(super) fn observed_seconds(&self, now: Nanos) -> f64 {
        now.seconds_since(self.started)
    }
}

/// Output that one running exchange has had lately, by slot, so that its share of the rates can be set right when the
/// true count is known.
#[derive(Debug, Default)]
pub(super) struct Flow {
    newest: SlotNumber,
    tokens: [u32; RING],
    total: u64,
}

impl Flow {
    pub(super) fn add(&mut self, at: SlotNumber, tokens: u64) {
        self.total += tokens;
        let behind = self.newest.0.saturating_sub(at.0);
        if behind >= RING as u64 {
            return;
        }
        for skipped in (self.newest.0 + 1..=at.0).rev().take(RING) {
            self.tokens[SlotNumber(skipped).position()] = 0;
        }
        self.newest = self.newest.max(at);
        let slot = &mut self.tokens[at.position()];
        *slot = slot.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
    }

    /// All tokens so far, also those older than the ring.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn slots(&self) -> impl Iterator<Item = (SlotNumber, u32)> {
        let first = self.newest.0.saturating_sub(RING as u64 - 1).max(1);
        (first..=self.newest.0)
            .map(SlotNumber)
            .map(|slot| (slot, self.tokens[slot.position()]))
            .filter(|(_, tokens)| *tokens > 0)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: SlotNumber,
    requests: u32,
    input: u64,
    reported: f64,
    estimated: f64,
    cost: f64,
}

/// The events of one key, by slot.
#[derive(Debug)]
pub(super) struct RateRing {
    slots: [Slot; RING],
}

/// Rates at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) requests: Option<f64>,
    pub(super) input: Option<f64>,
    pub(super) output: Option<f64>,
    pub(super) estimated_share: Option<f64>,
    /// US dollars.
    pub(super) cost: Option<f64>,
}

impl RateRing {
    pub(super) fn new() -> Self {
        Self { slots: [Slot::default(); RING] }
    }

    /// The slot `at`, emptied if it held an older one; `None` if it has been overwritten already.
    fn slot(&mut self, at: SlotNumber) -> Option<&mut Slot> {
        let slot = &mut self.slots[at.position()];
        if slot.number < at {
            *slot = Slot { number: at, ..Slot::default() };
        }
        (slot.number == at).then_some(slot)
    }

    pub(super) fn add_request(&mut self, at: SlotNumber) {
        if let Some(slot) = self.slot(at) {
            slot.requests += 1;
        }
    }

    pub(super) fn add_input(&mut self, at: SlotNumber, tokens: u64) {
        if let Some(slot) = self.slot(at) {
            slot.input += tokens;
        }
    }

    pub(super) fn add_reported(&mut self, at: SlotNumber, tokens: u64) {
        if let Some(slot) = self.slot(at) {
            slot.reported += tokens as f64;
        }
    }

    pub(super) fn add_estimated(&mut self, at: SlotNumber, tokens: u64) {
        if let Some(slot) = self.slot(at) {
            slot.estimated += tokens as f64;
        }
    }

    pub(super) fn add_cost(&mut self, at: SlotNumber, usd: f64) {
        if let Some(slot) = self.slot(at) {
            slot.cost += usd;
        }
    }

    /// Adds what one exchange has had lately.
    pub(super) fn add_flow(&mut self, flow: &Flow) {
        flow.slots().for_each(|(at, tokens)| self.add_estimated(at, u64::from(tokens)));
    }

    /// Puts what was reported of an exchange in the place of what was estimated while it flowed, slot by slot and in
    /// proportion: what lay outside the window stays outside, and no slot can become negative.
    pub(super) fn settle(&mut self, flow: &Flow, reported: u64) {
        let scale = reported as f64 / flow.total().max(1) as f64;
        for (number, tokens) in flow.slots() {
            let slot = &mut self.slots[number.position()];
            if slot.number == number {
                slot.estimated = (slot.estimated - f64::from(tokens)).max(0.0);
                slot.reported += f64::from(tokens) * scale;
            }
        }
    }

    pub(super) fn rates(&self, clock: &SlotClock, now: Nanos) -> Rates {
        let Some(seconds) = clock.divisor(now) else { return Rates::default() };
        let current = clock.at(now).0;
        let first = clock.first_watched().0;
        let (mut requests, mut input, mut reported, mut estimated, mut cost) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for slot in &self.slots {
            let weight = match current.checked_sub(slot.number.0) {
                _ if slot.number.0 < first => continue,
                Some(age) if age < SLOTS_PER_WINDOW => 1.0,
                // The window begins within this slot.
                Some(SLOTS_PER_WINDOW) => 1.0 - clock.passed(now),
                _ => continue,
            };
            requests += weight * f64::from(slot.requests);
            input += weight * slot.input as f64;
            reported += weight * slot.reported;
            estimated += weight * slot.estimated;
            cost += weight * slot.cost;
        }
        let output = reported + estimated;
        Rates {
            requests: Some(requests / seconds),
            input: Some(input / seconds),
            output: Some(output / seconds),
            estimated_share: (output > 0.0).then(|| estimated / output),
            cost: Some(cost / seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);
    const START: Nanos = Nanos(1_000_000_007);

    fn clock() -> SlotClock {
        SlotClock::new(START, WINDOW)
    }

    fn at(millis: u64) -> Nanos {
        START.after(Duration::from_millis(millis))
    }

    #[test]
    fn an_even_flow_has_an_even_rate_wherever_the_frame_falls() {
        let (clock, mut ring) = (clock(), RateRing::new());
        let mut next = 0;
        for millis in (0..20_000).step_by(10) {
            ring.add_estimated(clock.at(at(millis)), 1);
            if millis >= next && millis > 6000 {
                let rate = ring.rates(&clock, at(millis)).output.unwrap();
                assert!((99.0..=101.0).contains(&rate), "{rate} at {millis}");
                next = millis + 73;
            }
        }
    }

    #[test]
    fn events_that_come_late_count_where_they_belong_or_not_at_all() {
        let (clock, mut ring) = (clock(), RateRing::new());
        ring.add_request(clock.at(at(10_000)));
        ring.add_request(clock.at(at(9_000)));
        ring.add_request(clock.at(at(1_000)));
        assert_eq!(ring.rates(&clock, at(10_100)).requests, Some(2.0 / 5.0));
        assert_eq!(ring.rates(&clock, at(14_200)).requests, Some(1.0 / 5.0));
    }

    #[test]
    fn the_oldest_slot_leaves_the_window_little_by_little() {
        let (clock, mut ring) = (clock(), RateRing::new());
        ring.add_input(clock.at(at(10_000)), 100);
        let rate = |millis| ring.rates(&clock, at(millis)).input.unwrap();
        assert_eq!((rate(14_900), rate(15_100), rate(15_200)), (20.0, 10.0, 0.0));
    }

    proptest! {
        #[test]
        fn settling_conserves_what_lies_in_the_window_and_leaves_nothing_negative(
            flows in prop::collection::vec((prop::collection::vec((0u64..4000, 1u64..20), 1..40), 0u64..2000), 1..5),
        ) {
            let (clock, mut ring) = (clock(), RateRing::new());
            let mut running = Vec::new();
            for (events, reported) in &flows {
                let mut flow = Flow::default();
                for (millis, tokens) in events {
                    flow.add(clock.at(at(*millis)), *tokens);
                    ring.add_estimated(clock.at(at(*millis)), *tokens);
                }
                running.push((flow, *reported));
            }
            let mut expected: f64 = running.iter().map(|(flow, _)| flow.total() as f64).sum();
            for (flow, reported) in &running {
                ring.settle(flow, *reported);
                expected += *reported as f64 - flow.total() as f64;
                let output = ring.rates(&clock, at(4000)).output.unwrap() * 4.0;
                prop_assert!((output - expected).abs() < 1e-6, "{} instead of {}", output, expected);
                prop_assert!(ring.slots.iter().all(|slot| slot.estimated >= 0.0 && slot.reported >= 0.0));
            }
            let share = ring.rates(&clock, at(4000)).estimated_share;
            prop_assert!(share.is_none() || share == Some(0.0), "{:?}", share);
        }
    }

    #[test]
    fn a_flow_remembers_as_far_back_as_a_ring() {
        let clock = clock();
        let mut flow = Flow::default();
        for second in 0..60 {
            flow.add(clock.at(at(second * 1000)), 10);
        }
        flow.add(clock.at(at(100)), 5);
        assert_eq!(flow.total(), 605);
        let kept: Vec<_> = flow.slots().map(|(slot, tokens)| (slot.0, tokens)).collect();
        assert_eq!(kept, (53..60).map(|second| (second * 5 + 1, 10)).collect::<Vec<_>>());
    }
}
