//! The fields of a message that a scanner looks at.

/// How much of a value is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The value itself: a number, or a text. For names and numbers only, never for text that people or models wrote.
    Scalar,
    /// Of a text or bytes only its length, of a message that it is there. The text is never stored.
    Length,
    /// Of a number what it stands for: the name in its place, or the number where there is none.
    Name(&'static [&'static str]),
}

/// Index of the node that matches nothing: fields below it are skipped.
pub(super) const NOWHERE: u16 = 0;

/// Index of the node of the message itself.
pub(super) const ROOT: u16 = 1;

/// Messages within each other that lie on a wanted path. No table has deeper ones.
pub(super) const MAX_DEPTH: usize = 8;

#[derive(Debug)]
struct Node<S> {
    /// Numbers of fields and their nodes.
    fields: Vec<(u32, u16)>,
    leaf: Option<(Want, S)>,
}

impl<S> Node<S> {
    fn new() -> Self {
        Self { fields: Vec::new(), leaf: None }
    }
}

/// A compiled list of paths, such as `[2, 1, 1]` for the field 1 in the message 1 in each of the messages 2, each with the
/// slot `S` that its values are reported under.
#[derive(Debug)]
pub struct FieldSet<S> {
    nodes: Vec<Node<S>>,
}

impl<S: Copy> FieldSet<S> {
    /// Compiles a table.
    ///
    /// # Panics
    ///
    /// If a path is deeper than any that are written by hand.
    pub fn new(paths: &[(&[u32], Want, S)]) -> Self {
        let mut set = Self { nodes: vec![Node::new(), Node::new()] };
        for (path, want, slot) in paths {
            assert!(path.len() <= MAX_DEPTH, "{path:?} is too deep");
            let at = path.iter().fold(ROOT, |at, number| set.field_or_new(at, *number));
            set.nodes[usize::from(at)].leaf = Some((*want, *slot));
        }
        set
    }

    fn field_or_new(&mut self, at: u16, number: u32) -> u16 {
        let known = self.field(at, number);
        if known != NOWHERE {
            return known;
        }
        let new = u16::try_from(self.nodes.len()).expect("field tables are written by hand and small");
        self.nodes.push(Node::new());
        self.nodes[usize::from(at)].fields.push((number, new));
        new
    }

    pub(super) fn field(&self, at: u16, number: u32) -> u16 {
        let fields = &self.nodes[usize::from(at)].fields;
        fields.iter().find(|(known, _)| *known == number).map_or(NOWHERE, |(_, node)| *node)
    }

    pub(super) fn leaf(&self, at: u16) -> Option<(Want, S)> {
        self.nodes[usize::from(at)].leaf
    }

    /// Whether there are wanted fields within it.
    pub(super) fn is_message(&self, at: u16) -> bool {
        !self.nodes[usize::from(at)].fields.is_empty()
    }
}
