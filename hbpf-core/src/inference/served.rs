//! What hbpf itself sees of the traffic that local servers serve, by process and port.

use std::collections::HashMap;

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
    /// With their places, where these were known before their ends.
    running: HashMap<ExchangeId, Option<(Pid, u16)>>,
}

impl Traffic {
    /// Takes note of an event.
    pub fn observe(&mut self, exchange: &Exchange, event: ExchangeEvent) {
        match event {
            // The most frequent of all, and of no interest.
            ExchangeEvent::Output { .. } | ExchangeEvent::Stalled { .. } => {}
            ExchangeEvent::Opened | ExchangeEvent::RequestSent | ExchangeEvent::Headers => {
                if exchange.role != Role::Server {
                    return;
                }
                let running = self.running.entry(exchange.id).or_default();
                if running.is_none() {
                    *running = place(exchange).filter(|place| has_room(&self.places, *place));
                    if let Some(place) = *running {
                        self.places.entry(place).or_default().in_flight += 1;
                    }
                }
            }
            ExchangeEvent::Ended => {
                let Some(running) = self.running.remove(&exchange.id) else { return };
                let place = running.or_else(|| place(exchange).filter(|place| has_room(&self.places, *place)));
                let Some(place) = place else { return };
                let served = self.places.entry(place).or_default();
                served.in_flight = served.in_flight.saturating_sub(u64::from(running.is_some()));
                served.input += exchange.usage.input.unwrap_or_default();
                served.output += exchange.output_tokens().unwrap_or_default();
            }
        }
    }

    /// What this process has served at this port: nothing so far is also something. `None` where there was no room to count it.
    pub fn served(&self, pid: Pid, port: u16) -> Option<Served> {
        let served = self.places.get(&(pid, port)).copied();
        served.or_else(|| has_room(&self.places, (pid, port)).then(Served::default))
    }

    /// Where model traffic has been served: process and port.
    pub fn places(&self) -> impl Iterator<Item = (Pid, u16)> {
        self.places.keys().copied()
    }

    /// The process has ended, and whoever has its number next is another one.
    pub fn process_exited(&mut self, pid: Pid) {
        self.places.retain(|(other, _), _| *other != pid);
        self.running.retain(|_, place| place.is_none_or(|(other, _)| other != pid));
    }
}

fn has_room(places: &HashMap<(Pid, u16), Served>, place: (Pid, u16)) -> bool {
    places.contains_key(&place) || places.len() < MAX_PLACES
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
        let served = |traffic: &Traffic| traffic.served(Pid(100), 8000).unwrap();
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
        let served = |traffic: &Traffic, pid| traffic.served(Pid(pid), 8000).unwrap();
        let mut late = exchange(1);
        (late.role, late.endpoint.port, late.pid) = (Role::Server, Some(8000), None);
        traffic.observe(&late, ExchangeEvent::Opened);
        for pid in [Pid(5), Pid(6)] {
            late.pid = Some(pid);
            traffic.observe(&late, ExchangeEvent::Headers);
        }
        assert_eq!((served(&traffic, 5).in_flight, served(&traffic, 6).in_flight), (1, 0));
        traffic.observe(&late, ExchangeEvent::Ended);
        traffic.observe(&late, ExchangeEvent::Ended);
        assert_eq!(served(&traffic, 5), Served::default());
        // One whose process is not known before its end, while another is in flight.
        let mut other = exchange(2);
        (other.role, other.endpoint.port, other.pid) = (Role::Server, Some(8000), Some(Pid(5)));
        traffic.observe(&other, ExchangeEvent::Opened);
        (late.id, late.pid) = (exchange(3).id, None);
        traffic.observe(&late, ExchangeEvent::Headers);
        (late.pid, late.usage.input, late.estimated_output) = (Some(Pid(5)), Some(30), 7);
        traffic.observe(&late, ExchangeEvent::Ended);
        traffic.observe(&late, ExchangeEvent::Ended);
        assert_eq!(served(&traffic, 5), Served { input: 30, output: 7, in_flight: 1 });
        traffic.process_exited(Pid(5));
        traffic.observe(&other, ExchangeEvent::Ended);
        assert!(traffic.places.is_empty() && traffic.running.is_empty());
    }

    #[test]
    fn places_are_bounded() {
        let mut traffic = Traffic::default();
        for port in 0..2000_u16 {
            let mut one = exchange(u64::from(port));
            (one.role, one.endpoint.port) = (Role::Server, Some(port));
            traffic.observe(&one, ExchangeEvent::Opened);
        }
        assert_eq!(traffic.places.len(), MAX_PLACES);
        let served = |port: u16| traffic.served(exchange(1).pid.unwrap(), port);
        assert!(served(0).is_some());
        assert_eq!(served(1999), None, "nobody has counted that");
    }
}
