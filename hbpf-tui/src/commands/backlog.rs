//! What waits to be written, as much as fits: whoever reads may stall, and the collection does not wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use hbpf_core::snapshot::Request;

/// Exchanges and notices that may wait; about 1 KiB each. At a thousand exchanges a second a reader may stall for eight
/// seconds.
pub(super) const MAX_WAITING: usize = 8192;

/// Something to be written.
#[derive(Debug)]
pub(super) enum News {
    /// An exchange that has ended.
    Exchange(Box<Request>),
    /// A line for standard error.
    Notice(String),
    /// Nothing more will come, and why.
    Ended(String),
}

/// Where it comes in.
pub(super) struct Inlet {
    sender: Sender<News>,
    waiting: Arc<AtomicUsize>,
    most: usize,
    exchanges_left_out: u64,
    notices_left_out: u64,
}

/// Where it goes out.
pub(super) struct Outlet {
    news: Receiver<News>,
    waiting: Arc<AtomicUsize>,
}

/// Holds at most so many exchanges and notices.
pub(super) fn backlog(most: usize) -> (Inlet, Outlet) {
    // The bound is counted apart, so that the end and its reason always fit.
    let (sender, news) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let inlet = Inlet { sender, waiting: Arc::clone(&waiting), most, exchanges_left_out: 0, notices_left_out: 0 };
    (inlet, Outlet { news, waiting })
}

impl Inlet {
    pub(super) fn exchange(&mut self, request: &Request) {
        if self.has_room() {
            self.send(News::Exchange(Box::new(request.clone())));
        } else {
            self.exchanges_left_out += 1;
        }
    }

    pub(super) fn notice(&mut self, line: String) {
        if self.has_room() {
            self.send(News::Notice(line));
        } else {
            self.notices_left_out += 1;
        }
    }

    pub(super) fn end(&mut self, why: String) {
        self.tell_left_out();
        self.send(News::Ended(why));
    }

    /// Whether there is room; if so, it has been told what was left out before.
    fn has_room(&mut self) -> bool {
        let has_room = self.waiting.load(Ordering::Relaxed) < self.most;
        if has_room {
            self.tell_left_out();
        }
        has_room
    }

    fn tell_left_out(&mut self) {
        let (exchanges, notices) =
            (std::mem::take(&mut self.exchanges_left_out), std::mem::take(&mut self.notices_left_out));
        let what = match (exchanges, notices) {
            (0, 0) => return,
            (exchanges, 0) => format!("{exchanges} exchanges"),
            (0, notices) => format!("{notices} notices"),
            (exchanges, notices) => format!("{exchanges} exchanges and {notices} notices"),
        };
        self.send(News::Notice(format!("left out here: {what}, for what is written was not read in time")));
    }

    fn send(&self, news: News) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // After the last line nobody listens.
        let _ = self.sender.send(news);
    }
}

impl Outlet {
    /// The next, when it comes; `None` where nothing will.
    pub(super) fn wait(&self) -> Option<News> {
        self.news.recv().ok().inspect(|_| self.taken())
    }

    /// The next, if it is there.
    pub(super) fn next(&self) -> Option<News> {
        self.news.try_recv().ok().inspect(|_| self.taken())
    }

    fn taken(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn all(outlet: &Outlet) -> Vec<String> {
        let shown = |news| match news {
            News::Exchange(request) => request.id.to_string(),
            News::Notice(line) => line,
            News::Ended(why) => format!("ended: {why}"),
        };
        std::iter::from_fn(|| outlet.next()).map(shown).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_where_it_is_missing() {
        let (mut inlet, outlet) = backlog(2);
        let requests = fixture::rich().requests.recent;
        let [first, second, third, fourth] = &requests[..] else { panic!("there are four") };
        inlet.exchange(first);
        inlet.notice("a notice".to_owned());
        inlet.exchange(second);
        inlet.exchange(third);
        inlet.notice("another".to_owned());
        assert_eq!(all(&outlet), [first.id.as_str(), "a notice"]);
        inlet.exchange(fourth);
        let missing = "left out here: 2 exchanges and 1 notices, for what is written was not read in time";
        assert_eq!(all(&outlet), [missing, fourth.id.as_str()]);
        inlet.exchange(first);
        assert_eq!(all(&outlet), [first.id.as_str()], "it is told once");
    }

    #[test]
    fn a_reader_that_never_comes_back_costs_no_more_and_the_end_is_told() {
        let (mut inlet, outlet) = backlog(100);
        let request = &fixture::rich().requests.recent[0];
        (0..10_000).for_each(|_| inlet.exchange(request));
        assert_eq!(inlet.waiting.load(Ordering::Relaxed), 100);
        inlet.end("gone".to_owned());
        let lines = all(&outlet);
        assert_eq!(lines.len(), 102);
        assert!(lines[100].starts_with("left out here: 9900 exchanges, for") && lines[101] == "ended: gone");
        drop(inlet);
        assert!(outlet.wait().is_none());
    }
}
