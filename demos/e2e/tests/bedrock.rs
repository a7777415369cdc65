//! AWS's own SDK calls the stand-in server in each of the ways that Bedrock has: totals equal the server's own record.

use std::process::Command;

use hbpf_core::exchange::Dialect;
use hbpf_e2e::{Client, Observer, Server, Sums, host, python_with, script};

const FAST: [&str; 4] = ["--ttft", "20", "--rate", "400"];

/// Calls of each way; there are four ways.
const COUNT: usize = 10;

fn client(server: &Server, url: &str, arguments: &[&str]) -> Option<Client> {
    let mut command = Command::new(python_with("boto3")?);
    command.arg(script("clients/bedrock.py")).args(["--base-url", url]).args(arguments);
    Some(Client::start(command.arg("--ca").arg(server.certificate("ca.pem"))))
}

fn exact_totals(tls: bool) {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let (url, port) =
        if tls { (server.tls_url(), server.tls.port()) } else { (server.plain_url(), server.plain.port()) };
    let model = "us.anthropic.demo-30written-v1:0";
    let arguments = ["--model", model, "--count", &COUNT.to_string()];
    let Some(mut client) = client(&server, &url, &arguments) else { return };
    if tls {
        observer.until_tls_of(client.pid());
    }
    let said = client.run();
    let calls = 4 * COUNT;
    assert_eq!((said["answers"].as_u64(), &said["errors"]), (Some(calls as u64), &serde_json::json!([])), "{said}");
    let seen = observer.until_ended(port, calls);
    let truth = server.truth(calls);
    assert_eq!(seen, truth);
    assert_eq!((&said["input"], &said["output"]), (&truth.input.into(), &truth.output.into()), "the SDK disagrees");
    let frame = observer
        .until("the client's row has all", |frame| Sums::of_client(frame, client.pid()).ended() >= truth.requests);
    assert_eq!(Sums::of_client(&frame, client.pid()), truth);
    let rows: Vec<_> = observer.finished.iter().filter(|row| row.pid == Some(client.pid())).collect();
    assert_eq!(rows.len(), calls);
    for dialect in [Dialect::BedrockConverse, Dialect::BedrockInvoke] {
        for stream in [true, false] {
            let alike = rows.iter().filter(|row| row.dialect == dialect && row.stream == Some(stream));
            assert_eq!(alike.count(), COUNT, "{dialect:?} {stream}");
        }
    }
    for row in rows {
        assert_eq!(row.model.as_ref().map(|model| model.as_str()), Some(model), "{row:?}");
        assert_eq!((row.provider.as_str(), row.bytes_missed), ("aws.bedrock", 0), "{row:?}");
        assert_eq!(row.time_to_first_token_seconds.is_some(), row.stream == Some(true), "{row:?}");
    }
    observer.assert_nothing_lost();
    observer.stop();
}

#[test]
fn boto3_over_tls() {
    exact_totals(true);
}

#[test]
fn boto3_plain() {
    exact_totals(false);
}

/// What fails is told by its name, whether that stands in the head or in the stream.
#[test]
fn boto3_is_refused() {
    let Some(_host) = host() else { return };
    let server = Server::start(&FAST);
    let mut observer = Observer::start();
    let url = server.plain_url();
    let streams = ["--way", "converse_stream", "--way", "invoke_model_with_response_stream", "--count", "2"];
    // Model, what the SDK calls the error, what hbpf does, and how many of the calls were over quota.
    let cases = [
        ("demo-429err", "ThrottlingException", "ThrottlingException", 4),
        ("demo-503err", "ServiceUnavailableException", "ServiceUnavailableException", 0),
        ("demo-3errafter", "throttlingException", "ThrottlingException", 4),
    ];
    let (mut ended, mut limited) = (0, 0);
    for (model, sdk, ours, over_quota) in cases {
        let Some(mut client) = client(&server, &url, &[&streams[..], &["--model", model]].concat()) else { return };
        let said = client.run();
        assert_eq!(said["errors"], serde_json::Value::from(vec![sdk; 4]), "{model}: {said}");
        ended += 4;
        limited += over_quota;
        observer.until_ended(server.plain.port(), ended);
        let rows = observer.finished.iter().filter(|row| row.pid == Some(client.pid()));
        let names: Vec<_> = rows.filter_map(|row| row.error_type.as_ref()).map(|name| name.as_str()).collect();
        assert_eq!(names, [ours; 4], "{model}");
        observer.until("what was over quota", |frame| frame.totals.rate_limited_total == limited);
    }
    let (seen, truth) = (Sums::at_port(&observer.next_frame(), server.plain.port()), server.truth(ended));
    // A stream that fails has told some of its counts before that.
    assert_eq!((seen.requests, seen.failed, seen.status), (truth.requests, truth.failed, truth.status));
    observer.assert_nothing_lost();
    observer.stop();
}
