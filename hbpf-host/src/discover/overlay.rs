//! The layers of an overlay, as its mount options name them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::process::mountinfo::unescape;

/// Most layers looked into; the kernel takes 500.
const MAX_LAYERS: usize = 512;

/// One mount of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overlay {
    /// What of the overlay is mounted; `/` but for bind mounts.
    root: Vec<u8>,
    /// Where.
    point: Vec<u8>,
    /// The upper layer first, then the lower ones as they lie on each other. Only those with an absolute path: from where
    /// a relative one counts is not known.
    layers: Vec<Vec<u8>>,
}

impl Overlay {
    /// Takes the fields of a mount table.
    pub(super) fn parse(root: &[u8], point: &[u8], options: Option<&[u8]>) -> Option<Self> {
        let mut layers = Vec::new();
        // Commas within a value are written as octal numbers.
        for option in options?.split(|byte| *byte == b',') {
            let Some(at) = option.iter().position(|byte| *byte == b'=') else { continue };
            let value = unescape(&option[at + 1..]);
            match &option[..at] {
                b"upperdir" => layers.insert(0, strip_backslashes(&value)),
                b"lowerdir" => layers.extend(split(&value)),
                // Each in an option of its own, and colons are not special.
                b"lowerdir+" | b"datadir+" => layers.push(value),
                _ => {}
            }
        }
        layers.retain(|layer| layer.first() == Some(&b'/'));
        layers.truncate(MAX_LAYERS);
        Some(Self { root: unescape(root), point: unescape(point), layers })
    }

    /// Where a file that is seen at `path` may lie.
    pub(super) fn candidates(&self, path: &[u8]) -> Vec<PathBuf> {
        let Some(inside) = below(path, &self.point) else { return Vec::new() };
        let join = |layer: &Vec<u8>| {
            let root = self.root.strip_suffix(b"/").unwrap_or(&self.root);
            PathBuf::from(OsString::from_vec([layer.as_slice(), root, b"/", inside].concat()))
        };
        self.layers.iter().map(join).collect()
    }
}

/// The part of a path below a directory, without a slash in front.
pub(super) fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(directory.strip_suffix(b"/").unwrap_or(directory))?.strip_prefix(b"/")
}

/// Layers are separated by colons; one within a path has a backslash in front.
fn split(layers: &[u8]) -> Vec<Vec<u8>> {
    let mut list = vec![Vec::new()];
    let mut bytes = layers.iter();
    while let Some(byte) = bytes.next() {
        let last = list.last_mut().expect("it began with one");
        match byte {
            b'\\' => last.extend(bytes.next()),
            b':' => list.push(Vec::new()),
            _ => last.push(*byte),
        }
    }
    list
}

fn strip_backslashes(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        plain.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(root: &str, point: &str, options: &str, path: &str) -> Vec<String> {
        let overlay = Overlay::parse(root.as_bytes(), point.as_bytes(), Some(options.as_bytes())).unwrap();
        overlay.candidates(path.as_bytes()).into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_upper_layer_comes_first_and_then_the_lower_ones() {
        let options = "rw,lowerdir=/l/B:/l/A,upperdir=/u,workdir=/w,index=off";
        assert_eq!(candidates("/", "/", options, "/lib/x"), ["/u/lib/x", "/l/B/lib/x", "/l/A/lib/x"]);
        assert_eq!(candidates("/", "/mnt/m", "ro,lowerdir=/l", "/mnt/m/x"), ["/l/x"]);
        assert_eq!(candidates("/usr", "/m", "ro,lowerdir=/l", "/m/x"), ["/l/usr/x"], "a bind mount of a part");
        for elsewhere in ["/mnt/mx", "/mnt/m", "/x", "", "mnt/m/x"] {
            assert!(candidates("/", "/mnt/m", "ro,lowerdir=/l", elsewhere).is_empty(), "{elsewhere}");
        }
    }

    #[test]
    fn odd_names_and_all_ways_to_name_layers_are_understood() {
        // A space and a comma as octal numbers of the mount table; a colon with a backslash that is one itself.
        assert_eq!(candidates("/", "/", r"lowerdir=/a\134:b\054\040c:/d", "/x"), ["/a:b, c/x", "/d/x"]);
        assert_eq!(candidates("/", "/a\\040b", "lowerdir=/l", "/a b/x"), ["/l/x"]);
        assert_eq!(
            candidates("/", "/", "ro,lowerdir+=/a:b,lowerdir+=/c,datadir+=/d", "/x"),
            ["/a:b/x", "/c/x", "/d/x"]
        );
        assert_eq!(candidates("/", "/", "lowerdir=/a::/data", "/x"), ["/a/x", "/data/x"]);
        assert_eq!(candidates("/", "/", "lowerdir=12/fs:/a,upperdir=13/fs", "/x"), ["/a/x"], "relative ones");
        for none in ["", "rw", "lowerdir", "lowerdir=", "lowerdir=:::", "=", "lowerdir=\\"] {
            assert!(candidates("/", "/", none, "/x").is_empty(), "{none}");
        }
        assert_eq!(candidates("/", "/", r"lowerdir=/a\9\1", "/x"), ["/a91/x"], "no octal numbers");
    }

    #[test]
    fn layers_are_bounded() {
        let options = format!("lowerdir={}", "/l:".repeat(10_000));
        assert_eq!(candidates("/", "/", &options, "/x").len(), MAX_LAYERS);
    }
}
