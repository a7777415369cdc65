//! Groups of probes that the user wants on or off, until the helper has been told.
//!
//! Putting probes in and taking them out can take the helper a second. Whoever presses the key again meanwhile changes
//! their mind: only what was wanted last of each group is carried out, once the helper has answered.

use crate::cost::index;
use crate::protocol::Group;

#[derive(Debug, Default)]
pub(super) struct Switches {
    /// What is wanted of each group, and not carried out yet.
    wanted: [Option<bool>; Group::ALL.len()],
    /// Requests to attach or detach that the helper was sent, and how many of them it has handled.
    sent: u64,
    handled: u64,
    /// Groups that the user has switched off.
    off_by_choice: [bool; Group::ALL.len()],
}

impl Switches {
    /// The user wants a group on, or off.
    pub(super) fn want(&mut self, group: Group, on: bool) {
        self.wanted[index(group)] = Some(on);
    }

    /// What to carry out now; nothing while the helper is at work.
    pub(super) fn next(&mut self) -> Option<(Group, bool)> {
        if self.handled < self.sent {
            return None;
        }
        let (group, on) = Group::ALL.into_iter().find_map(|group| Some((group, self.wanted[index(group)].take()?)))?;
        self.off_by_choice[index(group)] = !on;
        Some((group, on))
    }

    /// A group is taken out because of what it costs.
    pub(super) fn given_up(&mut self, group: Group) {
        self.off_by_choice[index(group)] = false;
    }

    /// Whether a group is off because the user wants it so.
    pub(super) fn is_off_by_choice(&self, group: Group) -> bool {
        self.off_by_choice[index(group)]
    }

    /// The helper is sent a request to attach or to detach.
    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    /// The helper has handled so many of them.
    pub(super) fn handled(&mut self, count: u64) {
        self.handled = self.handled.max(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_switches_that_wait_only_the_last_of_each_group_is_carried_out() {
        let mut switches = Switches::default();
        for on in [false, true, false] {
            switches.want(Group::LlmTls, on);
        }
        switches.want(Group::LlmPlain, true);
        assert_eq!(switches.next(), Some((Group::LlmTls, false)));
        assert_eq!(switches.next(), Some((Group::LlmPlain, true)), "nothing was sent for the first");
        assert_eq!(switches.next(), None);
    }

    #[test]
    fn what_the_user_switches_off_is_told_from_what_is_given_up() {
        let mut switches = Switches::default();
        let off_by_choice = |switches: &Switches| Group::LLM.map(|group| switches.is_off_by_choice(group));
        switches.sent();
        switches.want(Group::LlmTls, false);
        assert_eq!((switches.next(), off_by_choice(&switches)), (None, [false, false]), "not carried out yet");
        switches.handled(1);
        switches.next();
        assert_eq!(off_by_choice(&switches), [true, false]);
        switches.want(Group::LlmTls, true);
        switches.next();
        assert_eq!(off_by_choice(&switches), [false, false]);
        switches.want(Group::LlmTls, false);
        switches.next();
        switches.given_up(Group::LlmTls);
        assert_eq!(off_by_choice(&switches), [false, false]);
    }

    #[test]
    fn while_the_helper_is_at_work_they_wait() {
        let mut switches = Switches::default();
        switches.sent();
        for on in [false, true, false] {
            switches.want(Group::LlmTls, on);
            assert_eq!(switches.next(), None);
        }
        // Of before it was asked.
        switches.handled(0);
        assert_eq!(switches.next(), None);
        switches.handled(1);
        assert_eq!(switches.next(), Some((Group::LlmTls, false)));
        switches.sent();
        switches.want(Group::LlmPlain, true);
        assert_eq!(switches.next(), None);
        switches.handled(2);
        assert_eq!(switches.next(), Some((Group::LlmPlain, true)));
        assert_eq!(switches.next(), None);
    }
}
