//! An incremental protobuf scanner that sees only the fields that it was told to look for.
//!
//! As with [`json`](crate::json) there is no document model: a [`FieldSet`] names the few fields whose values matter, and
//! everything else is skipped without being stored. What is found is told in the same terms, so that whoever reads JSON reads
//! protobuf, too.

mod fields;
mod scanner;
#[cfg(test)]
mod tests;

pub use fields::{FieldSet, Want};
pub use scanner::Scanner;
