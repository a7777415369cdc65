//! Messages between the two processes.

use hbpf_host::protocol::{Reply, Request};

/// A datagram.
pub fn run(data: &[u8]) {
    if let Ok(request) = postcard::from_bytes::<Request>(data) {
        let bytes = postcard::to_stdvec(&request).expect("what was read can be written");
        assert_eq!(postcard::from_bytes::<Request>(&bytes).expect("and read"), request);
    }
    if let Ok(reply) = postcard::from_bytes::<Reply>(data) {
        postcard::to_stdvec(&reply).expect("what was read can be written");
    }
}
