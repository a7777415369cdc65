//! Writes the seeds of every target into a directory of its name: `seeds DIRECTORY`.

use std::path::PathBuf;
use std::{env, fs, io};

use hbpf_core::exchange;
use hbpf_fuzz::TARGETS;

#[path = "../seeds/mod.rs"]
mod seeds;
#[path = "../../hbpf-core/src/dialect/tests/streams.rs"]
#[expect(dead_code, reason = "what must be read from the streams is of no interest here")]
mod streams;

fn main() -> io::Result<()> {
    let directory = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| "seeds".into()));
    for (target, _) in TARGETS {
        let directory = directory.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds::seeds(target).iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
