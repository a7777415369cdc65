//! The kernel's ring: lengths, headers, and what the engine makes of them.

use hbpf_core::chunk::Source;
use hbpf_core::engine::Engine;
use hbpf_core::time::Nanos;

use crate::observe::Watch;

/// The data of a ring.
pub fn run(data: &[u8]) {
    let (mut engine, mut watch) = (Engine::new(), Watch::default());
    hbpf_host::fuzzing::ring(data, &mut engine, &mut watch);
    watch.check(&engine);
    for source in [Source::Tls, Source::Tcp, Source::Stdio] {
        engine.lose_sight(source, Nanos(u64::MAX - 1), &mut watch);
    }
    engine.tick(Nanos(u64::MAX), &mut watch);
    watch.check(&engine);
    assert_eq!(engine.in_flight().count(), 0);
    watch.finish();
}
