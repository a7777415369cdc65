//! A real inference server with a tiny random model: seen from both ends, counted once, exact tokens.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use hbpf_e2e::{Client, Observer, Sums, host, python_with, script};

/// What the server says when it listens.
const READY: &str = "Uvicorn running";
const CALLS: usize = 12;

struct Llama(Child);

impl Drop for Llama {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn exact_tokens_from_both_ends() {
    let Some(_host) = host() else { return };
    let Some(python) = python_with("llama_cpp.server.app") else { return };
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    let made = Command::new(&python).arg(script("tiny_model.py")).arg(&model).status().unwrap();
    assert!(made.success(), "the tiny model could not be made");

    // The server takes a number, not a listener; a port that was free a moment ago is the best that can be had.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut llama = Llama(
        Command::new(&python)
            .args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", &port.to_string(), "--model"])
            .arg(&model)
            .args(["--n_threads", "1", "--verbose", "false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = BufReader::new(llama.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains(READY)), "the server did not start");
    // Its log is read to the end, or it would block on a full pipe.
    std::thread::spawn(move || log.for_each(drop));

    let mut observer = Observer::start();
    let client = |streamed: usize, plain: usize| {
        Client::start(
            Command::new(&python)
                .arg(script("clients/sdk.py"))
                .args(["--api", "openai", "--mode", "async", "--base-url", &format!("http://127.0.0.1:{port}")])
                .args(["--streamed", &streamed.to_string(), "--plain", &plain.to_string()])
                .args(["--concurrency", "4", "--max-tokens", "20"]),
        )
    };
    let mut plain = client(0, CALLS);
    let said = plain.run();
    assert_eq!(said["answers"].as_u64(), Some(CALLS as u64));
    let seen = observer.until_ended(port, CALLS);
    assert_eq!((seen.requests, seen.completed, seen.estimated), (CALLS as u64, CALLS as u64, 0));
    assert_eq!((Some(seen.input), Some(seen.output)), (said["input"].as_u64(), said["output"].as_u64()));
    let frame = observer.until("both ends have seen all", |frame| {
        let ends = [Sums::of_client(frame, plain.pid()), Sums::of_server(frame, llama.0.id())];
        ends.iter().all(|end| end.ended() >= seen.requests)
    });
    for end in [Sums::of_client(&frame, plain.pid()), Sums::of_server(&frame, llama.0.id())] {
        assert_eq!((end.requests, end.input, end.output), (seen.requests, seen.input, seen.output));
    }
    assert_eq!(Sums::at_port(&frame, port), seen, "the second end was counted again");

    // This server's streams never carry usage: their tokens are estimates, and say so.
    let mut streamed = client(CALLS, 0);
    streamed.run();
    let both = observer.until_ended(port, 2 * CALLS);
    assert_eq!(both.completed, 2 * CALLS as u64);
    assert!(both.estimated > 0 && both.output - both.estimated == seen.output, "{both:?}");
    observer.stop();
}
