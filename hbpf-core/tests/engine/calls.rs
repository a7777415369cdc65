//! Whole calls.

use hbpf_core::chunk::{Direction, Pid};
use hbpf_core::engine::Engine;
use hbpf_core::exchange::{Phase, Role, ServiceTier};
use hbpf_core::prices::{Cost, Prices};

use crate::wire::{CANARY, DONE_JSON, Log, SSE_HEAD, Wire, chat, chunked, json, token};

#[test]
fn a_streamed_call_is_timed_and_counted() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Sent);
    wire.request(&mut engine, &mut log, &chat(true));
    wire.answer(&mut engine, &mut log, SSE_HEAD);
    for _ in 0..3 {
        wire.answer(&mut engine, &mut log, &token("hi"));
    }
    assert_eq!(engine.in_flight().count(), 1);
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
    wire.answer(&mut engine, &mut log, &chunked(usage));
    wire.answer(&mut engine, &mut log, "0\r\n\r\n");
    let ended = log.ended();
    assert_eq!(ended.len(), 1);
    let exchange = ended[0];
    assert_eq!(exchange.phase, Phase::Done);
    assert_eq!((exchange.role, exchange.pid), (Role::Client, Some(Pid(7))));
    assert_eq!(exchange.model.as_ref().unwrap().as_str(), "m-1");
    assert_eq!(exchange.response_model.as_ref().unwrap().as_str(), "m-1-x");
    assert_eq!(exchange.endpoint.host.as_ref().unwrap().as_str(), "llm.example");
    assert_eq!(exchange.endpoint.port, Some(8443));
    assert_eq!(exchange.stream, Some(true));
    assert_eq!((exchange.usage.input, exchange.usage.output), (Some(9), Some(3)));
    assert_eq!(exchange.output_events, 3);
    let body = chat(true).len() as u64;
    assert!(exchange.bytes_seen > body, "the answer's body counts too: {}", exchange.bytes_seen);
    assert!((exchange.time_to_first_token_seconds().unwrap() - 0.002).abs() < 1e-9);
    assert!((exchange.time_to_headers_seconds().unwrap() - 0.001).abs() < 1e-9);
    assert_eq!(engine.in_flight().count(), 0);
    let kinds: Vec<_> = log.events.iter().map(|(_, _, event)| std::mem::discriminant(event)).collect();
    assert_eq!(kinds.len(), 7, "opened, request sent, headers, three outputs, ended");
    assert!(!format!("{:?}", log.events).contains(CANARY));
    assert!(log.verdicts.is_empty(), "the kernel captured it already");
}

#[test]
fn a_plain_call_reports_usage() {
    let (mut engine, mut log) = (Engine::new(), Log::default());
    let mut wire = Wire::tls(7, Direction::Received);
    wire.request(&mut engine, &mut log, &chat(false));
    wire.answer(&mut engine, &mut log, &json("200 OK", DONE_JSON));
    let exchange = log.ended()[0];
    assert_eq!((exchange.phase, exchange.role), (Phase::Done, Role::Server));
    assert_eq!((exchange.usage.input, exchange.usage.output, exchange.usage.cached_input), (Some(9), Some(3), Some(4)));
    assert_eq!(exchange.finish_reason.as_ref().unwrap().as_str(), "stop");
    assert_eq!(exchange.first_token_at, None);
}

#[test]
fn what_a_call_costs_depends_on_its_tier_and_on_what_the_server_says() {
    let text = "unknown\tm-1-x\t1\t1\t0\nunknown\tm-1-x flex\t0.5\t0.5\t0\n";
    let prices = Prices::parse(text).unwrap();
    let told = |more: &str, usage: &str| {
        let body = DONE_JSON.replacen('{', &format!("{{{more}"), 1).replacen(
            "\"usage\":{",
            &format!("\"usage\":{{{usage}"),
            1,
        );
        let (mut engine, mut log) = (Engine::new(), Log::default());
        let mut wire = Wire::tls(7, Direction::Sent);
        wire.request(&mut engine, &mut log, &chat(false));
        wire.answer(&mut engine, &mut log, &json("200 OK", &body));
        let exchange = log.ended()[0];
        (exchange.tier, prices.cost(exchange))
    };
    // Five that are not cached and three that are generated.
    let estimate = |usd| Some(Cost { usd, is_estimate: true });
    assert_eq!(told("", ""), (None, estimate(8e-6)));
    assert_eq!(told(r#""service_tier":"default","#, ""), (Some(ServiceTier::Standard), estimate(8e-6)));
    assert_eq!(told(r#""service_tier":"flex","#, ""), (Some(ServiceTier::Flex), estimate(4e-6)));
    assert_eq!(told(r#""service_tier":"priority","#, ""), (Some(ServiceTier::Priority), None));
    let own_key = r#""cost":0.25,"is_byok":true,"cost_details":{"upstream_inference_cost":0.5},"#;
    assert_eq!(told("", own_key), (None, Some(Cost { usd: 0.75, is_estimate: false })));
}
