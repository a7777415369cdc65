//! The places in a document that a scanner looks at.

/// How much of a value is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The scalar itself. For names and numbers only, never for text that people or models wrote.
    Scalar,
    /// Of a string only its length; other values as they are. The text is never stored.
    Length,
}

/// Index of the node that matches nothing: below it everything is skipped.
pub(super) const NOWHERE: u16 = 0;

/// Index of the node of the document itself.
pub(super) const ROOT: u16 = 1;

#[derive(Debug)]
pub(super) struct Node<S> {
    members: Vec<Member>,
    element: u16,
    pub(super) leaf: Option<(Want, S)>,
}

#[derive(Debug)]
struct Member {
    /// [`head_of`] its name: tells most names apart.
    head: u64,
    name: &'static [u8],
    node: u16,
}

impl<S> Node<S> {
    fn new() -> Self {
        Self { members: Vec::new(), element: NOWHERE, leaf: None }
    }
}

/// A compiled list of paths such as `usage.prompt_tokens`, `choices[].delta.content` or, where the document is an array,
/// `[].id`, each with the slot `S` that its values are reported under.
#[derive(Debug)]
pub struct PathSet<S> {
    nodes: Vec<Node<S>>,
    longest_key: usize,
}

impl<S: Copy> PathSet<S> {
    /// Compiles a table. `[]` after a name stands for every element of the array there.
    pub fn new(paths: &[(&'static str, Want, S)]) -> Self {
        let mut set = Self { nodes: vec![Node::new(), Node::new()], longest_key: 0 };
        set.add(ROOT, paths);
        set
    }

    /// The same with more paths, all of which are below this place.
    #[must_use]
    pub fn and_within(mut self, place: &'static str, paths: &[(&'static str, Want, S)]) -> Self {
        let at = self.place(ROOT, place);
        self.add(at, paths);
        self
    }

    /// The same with one more, whose names may have dots in them.
    #[must_use]
    pub fn and_at(mut self, names: &[&'static str], want: Want, slot: S) -> Self {
        let at = names.iter().fold(ROOT, |at, name| self.member_or_new(at, name.as_bytes()));
        self.nodes[usize::from(at)].leaf = Some((want, slot));
        self
    }

    fn add(&mut self, from: u16, paths: &[(&'static str, Want, S)]) {
        for (path, want, slot) in paths {
            let at = self.place(from, path);
            self.nodes[usize::from(at)].leaf = Some((*want, *slot));
        }
    }

    fn place(&mut self, from: u16, path: &'static str) -> u16 {
        path.split('.').fold(from, |mut at, step| {
            let name = step.trim_end_matches("[]");
            if !name.is_empty() {
                at = self.member_or_new(at, name.as_bytes());
            }
            (0..(step.len() - name.len()) / 2).fold(at, |at, _| self.element_or_new(at))
        })
    }

    fn member_or_new(&mut self, at: u16, name: &'static [u8]) -> u16 {
        let known = self.member(at, name);
        if known != NOWHERE {
            return known;
        }
        let new = self.add_node();
        self.nodes[usize::from(at)].members.push(Member { head: head_of(name), name, node: new });
        self.longest_key = self.longest_key.max(name.len());
        new
    }

    fn element_or_new(&mut self, at: u16) -> u16 {
        let known = self.element(at);
        if known != NOWHERE {
            return known;
        }
        let new = self.add_node();
        self.nodes[usize::from(at)].element = new;
        new
    }

    fn add_node(&mut self) -> u16 {
        self.nodes.push(Node::new());
        u16::try_from(self.nodes.len() - 1).expect("path tables are written by hand and small")
    }

    pub(super) fn member(&self, at: u16, name: &[u8]) -> u16 {
        let members = &self.nodes[usize::from(at)].members;
        let head = head_of(name);
        let is_it = |member: &&Member| {
            member.head == head
                && member.name.len() == name.len()
                && (name.len() <= size_of::<u64>() || member.name == name)
        };
        members.iter().find(is_it).map_or(NOWHERE, |member| member.node)
    }

    pub(super) fn element(&self, at: u16) -> u16 {
        self.nodes[usize::from(at)].element
    }

    pub(super) fn leaf(&self, at: u16) -> Option<(Want, S)> {
        self.nodes[usize::from(at)].leaf
    }

    pub(super) fn longest_key(&self) -> usize {
        self.longest_key
    }
}

/// The first bytes of a name.
fn head_of(name: &[u8]) -> u64 {
    match name.first_chunk() {
        Some(head) => u64::from_le_bytes(*head),
        None => name.iter().rev().fold(0, |head, byte| head << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_share_their_beginnings_and_may_end_inside_others() {
        let set = PathSet::new(&[("a.b", Want::Scalar, 1), ("a.c[]", Want::Length, 2), ("a", Want::Scalar, 3)]);
        let a = set.member(ROOT, b"a");
        assert_eq!(set.leaf(a), Some((Want::Scalar, 3)));
        assert_eq!(set.leaf(set.member(a, b"b")), Some((Want::Scalar, 1)));
        assert_eq!(set.leaf(set.element(set.member(a, b"c"))), Some((Want::Length, 2)));
        assert_eq!(set.member(a, b"x"), NOWHERE);
        assert_eq!(set.member(NOWHERE, b"a"), NOWHERE);
        assert_eq!(set.longest_key(), 1);
        let within = PathSet::new(&[("d", Want::Scalar, 1)]).and_within("a[]", &[("b", Want::Scalar, 2)]);
        let element = within.element(within.member(ROOT, b"a"));
        assert_eq!(within.leaf(within.member(element, b"b")), Some((Want::Scalar, 2)));
        let dotted = PathSet::new(&[]).and_at(&["a", "b.c/d"], Want::Scalar, 7);
        assert_eq!(dotted.leaf(dotted.member(dotted.member(ROOT, b"a"), b"b.c/d")), Some((Want::Scalar, 7)));
        let list = PathSet::new(&[("[].id", Want::Scalar, 1)]);
        assert_eq!(list.leaf(list.member(list.element(ROOT), b"id")), Some((Want::Scalar, 1)));
    }
}
