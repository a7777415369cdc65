//! What hbpf itself sees of the traffic that local servers serve, by process and port.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::chunk::Pid;
use crate::exchange::{Exchange, ExchangeEvent, ExchangeId, Role};

/// Most places that are counted apart; what is beyond has no count to be held against. A host has a handful.
const MAX_PLACES: usize = 1024;

/// Traffic with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Prompt tokens of ended exchanges.
    pub input: u64,
    /// Output tokens of ended exchanges: those reported, or else estimated.
    pub output: u64,
    /// Exchanges in flight.
    pub in_flight: u64,
}

impl std::ops::AddAssign for Served {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.output += other.output;
        self.in_flight += other.in_flight;
    }
}

/// Counts what is served, and where.
#[derive(Debug, Default)]
pub struct Traffic {
    places: HashMap<(Pid, u16), Served>,
    running: HashMap<ExchangeId, (Pid, u16)>,
}

impl Traffic {
    /// Takes note of an event.
    pub fn observe(&mut self, exchange: &Exchange, event: ExchangeEvent) {
        match event {
            // The most frequent of all, and of no interest.
            ExchangeEvent::Output { .. } => {}
            ExchangeEvent::Opened | ExchangeEvent::RequestSent | ExchangeEvent::Headers => {
                let Some(place) = place(exchange).filter(|place| self.has_room(*place)) else { return };
                if let Entry::Vacant(running) = self.running.entry(exchange.id) {
                    running.insert(place);
                    self.places.entry(place).or_default().in_flight += 1;
                }
            }
            ExchangeEvent::Ended => {
                let Some(place) = self.running.remove(&exchange.id) else { return };
                let Some(served) = self.places.get_mut(&place) else { return };
                served.in_flight = served.in_flight.saturating_sub(1);
                served.input += exchange.usage.input.unwrap_or_default();
                served.output += exchange.output_tokens().unwrap_or_default();
            }
        }
    }

    fn has_room(&self, place: (Pid, u16)) -> bool {
        self.places.contains_key(&place) || self.places.len() < MAX_PLACES
    }

    /// What this process has served at this port; nothing so far is also something.
    pub fn served(&self, pid: Pid, port: u16) -> Served {
        self.places.get(&(pid, port)).copied().unwrap_or_default()
    }

    /// Where model traffic has been served: process and port.
    pub fn places(&self) -> impl Iterator<Item = (Pid, u16)> {
        self.places.keys().copied()
    }

    /// The process has ended, and whoever has its number next is another one.
    pub fn process_exited(&mut self, pid: Pid) {
        self.places.retain(|(other, _), _| *other != pid);
        self.running.retain(|_, (other, _)| *other != pid);
    }
}

/// The server's end of an exchange, where it is known whose it is.
fn place(exchange: &Exchange) -> Option<(Pid, u16)> {
    let port = exchange.endpoint.port.filter(|_| exchange.role == Role::Server)?;
    Some((exchange.pid?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::exchange;

    #[test]
    fn what_a_server_serves_is_counted_once_its_exchanges_end() {
        let mut traffic = Traffic::default();
        let served = |traffic: &Traffic| traffic.served(Pid(100), 8000);
        let mut one = exchange(1);
        (one.role, one.endpoint.port) = (Role::Server, Some(8000));
        traffic.observe(&one, ExchangeEvent::Opened);
        traffic.observe(&one, ExchangeEvent::RequestSent);
        assert_eq!(served(&traffic), Served { in_flight: 1, ..Served::default() });
        (one.usage.input, one.estimated_output) = (Some(30), 7);
        traffic.observe(&one, ExchangeEvent::Ended);
        assert_eq!(served(&traffic), Served { input: 30, output: 7, in_flight: 0 });
        let client = exchange(2);
        traffic.observe(&client, ExchangeEvent::Opened);
        traffic.observe(&client, ExchangeEvent::Ended);
        assert_eq!(traffic.places().collect::<Vec<_>>(), [(Pid(100), 8000)]);
        traffic.process_exited(Pid(100));
        assert_eq!(traffic.places().count(), 0);
    }

    #[test]
    fn one_that_is_known_late_or_begins_twice_counts_once() {
        let mut traffic = Traffic::default();
        let mut late = exchange(1);
        (late.role, late.endpoint.port, late.pid) = (Role::Server, Some(8000), None);
        traffic.observe(&late, ExchangeEvent::Opened);
        for pid in [Pid(5), Pid(6)] {
            late.pid = Some(pid);
            traffic.observe(&late, ExchangeEvent::Headers);
        }
        assert_eq!((traffic.served(Pid(5), 8000).in_flight, traffic.served(Pid(6), 8000).in_flight), (1, 0));
        traffic.observe(&late, ExchangeEvent::Ended);
        traffic.observe(&late, ExchangeEvent::Ended);
        assert_eq!(traffic.served(Pid(5), 8000), Served::default());
    }

    #[test]
    fn places_are_bounded() {
        let mut traffic = Traffic::default();
        for port in 0..2000_u16 {
            let mut one = exchange(u64::from(port));
            (one.role, one.endpoint.port) = (Role::Server, Some(port));
            traffic.observe(&one, ExchangeEvent::Opened);
        }
        assert_eq!((traffic.places.len(), traffic.running.len()), (MAX_PLACES, MAX_PLACES));
    }
}
