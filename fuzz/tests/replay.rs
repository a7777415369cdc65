//! Seeds, what once was found, and some random bytes, through the fuzz targets: with stable Rust and no fuzzer.

use std::path::Path;
use std::{env, fs};

use hbpf_core::exchange;
use hbpf_fuzz::{TARGETS, Target, with_controls};
use proptest::prelude::*;

#[path = "../seeds/mod.rs"]
mod seeds;
#[path = "../../hbpf-core/src/dialect/tests/streams.rs"]
#[expect(dead_code, reason = "what must be read from the streams is of no interest here")]
mod streams;

#[test]
fn seeds_do_no_harm() {
    for (name, run) in TARGETS {
        let seeds = seeds::seeds(name);
        assert!(!seeds.is_empty());
        for (number, seed) in seeds.iter().enumerate() {
            // Which one it is, should it fail.
            println!("{name} {number}");
            run(seed);
            // Cut short, and with its second half changed.
            run(&seed[..seed.len() / 2]);
            let half = seed.len() / 2;
            run(&[&seed[..half], &seed[half..].iter().map(|byte| byte ^ 0x10).collect::<Vec<_>>()].concat());
        }
    }
}

/// Everything that once broke a promise, and with `HBPF_FULL=1` all that fuzzing on this machine has collected.
#[test]
fn what_was_found_stays_mended() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, run) in TARGETS {
        replay(&root.join("regressions").join(name), run);
        if env::var_os("HBPF_FULL").is_some() {
            replay(&root.join("../target/fuzz/corpus").join(name), run);
        }
    }
}

fn replay(directory: &Path, run: Target) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        // Which one it is, should it fail.
        println!("{}", path.display());
        run(&fs::read(&path).expect("a file"));
    }
}

#[test]
fn every_target_has_its_binary() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    for (name, _) in TARGETS {
        let text = fs::read_to_string(directory.join(format!("{name}.rs"))).expect(name);
        assert!(text.contains(&format!("hbpf_fuzz::{name}::run(data)")), "{name}");
    }
    assert_eq!(fs::read_dir(directory).expect("a directory").count(), TARGETS.len());
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(
        target in 0..TARGETS.len(),
        controls in prop::collection::vec(any::<u8>(), 0..200),
        payload in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        (TARGETS[target].1)(&with_controls(&controls, &payload));
    }
}
