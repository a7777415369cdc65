//! Answers as servers gave them, and what follows from several. llama.cpp's and LiteLLM's were recorded; the others are written
//! by the names in their sources.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::label::Label;
use crate::snapshot::Engine;
use crate::time::Nanos;

const LLAMA_METRICS: &str = include_str!("answers/llama_cpp_metrics.txt");
const LLAMA_SLOTS: &str = include_str!("answers/llama_cpp_slots.json");
const LLAMA_PROPS: &str = include_str!("answers/llama_cpp_props.json");
const LITELLM_METRICS: &str = include_str!("answers/litellm_metrics.txt");

const OLLAMA_LOADED: &str = r#"{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest","size":3825819519,
    "digest":"a80c","details":{"family":"llama","name":"not this one"},"expires_at":"2026-11-29T10:12:35.5-07:00",
    "size_vram":2825819519,"context_length":8192},{"name":"nomic","size":0,"size_vram":0}]}"#;

/// A vLLM with two engines behind one endpoint.
fn vllm(tokens: [u32; 2], running: [u32; 2]) -> String {
    let mut text = String::from(
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n\
         # TYPE vllm:num_requests_running gauge\n# TYPE vllm:num_preemptions_total counter\n",
    );
    for engine in [0, 1] {
        let labels = format!("engine=\"{engine}\",model_name=\"meta-llama/Llama-3\"");
        let (tokens, running) = (tokens[engine], running[engine]);
        let waiting = running.saturating_sub(4);
        text += &format!(
            "vllm:num_requests_running{{{labels}}} {running}.0\n\
             vllm:num_requests_waiting{{{labels}}} {waiting}.0\n\
             vllm:kv_cache_usage_perc{{{labels}}} 0.{running}5\n\
             vllm:num_preemptions_total{{{labels}}} {engine}.0\n\
             vllm:prefix_cache_queries_total{{{labels}}} {}\n\
             vllm:prefix_cache_hits_total{{{labels}}} {tokens}\n\
             vllm:prompt_tokens_total{{{labels}}} {}\n\
             vllm:generation_tokens_total{{{labels}}} {tokens}\n\
             vllm:request_success_total{{finished_reason=\"stop\",{labels}}} {}\n\
             vllm:request_success_total{{finished_reason=\"length\",{labels}}} 1\n\
             vllm:time_to_first_token_seconds_bucket{{le=\"0.5\",{labels}}} {tokens}\n\
             vllm:time_to_first_token_seconds_bucket{{le=\"+Inf\",{labels}}} {tokens}\n\
             vllm:time_to_first_token_seconds_sum{{{labels}}} {}\n\
             vllm:time_to_first_token_seconds_count{{{labels}}} {tokens}\n",
            tokens * 4,
            tokens * 3,
            tokens / 10,
            f64::from(tokens) / 4.0,
        );
    }
    text
}

const SGLANG: &str = "sglang:num_running_reqs{model_name=\"q\",tp_rank=\"0\",pp_rank=\"0\",dp_rank=\"0\"} 3\n\
    sglang:num_running_reqs{model_name=\"q\",tp_rank=\"1\",pp_rank=\"0\",dp_rank=\"0\"} 3\n\
    sglang:num_running_reqs{model_name=\"q\",tp_rank=\"0\",pp_rank=\"0\",dp_rank=\"1\"} 1\n\
    sglang:num_queue_reqs{model_name=\"q\",tp_rank=\"0\",dp_rank=\"0\",priority=\"\"} 2\n\
    sglang:num_queue_reqs{model_name=\"q\",tp_rank=\"0\",dp_rank=\"0\",priority=\"5\"} 2\n\
    sglang:token_usage{model_name=\"q\",tp_rank=\"0\",dp_rank=\"0\"} 0.25\n\
    sglang:prompt_tokens_total{model_name=\"q\"} 1000\n\
    sglang:cached_tokens_total{model_name=\"q\"} 250\n\
    sglang:generation_tokens_total{model_name=\"q\"} 400\n";

const TGI: &str = "tgi_batch_current_size 2\ntgi_queue_size 5\ntgi_request_count 12\ntgi_request_success 9\n\
    tgi_request_input_length_sum 900\ntgi_request_input_length_count 9\n\
    tgi_request_generated_tokens_sum 450\ntgi_request_generated_tokens_count 9\n";

const TRITON: &str = "nv_inference_request_success{model=\"llm\",version=\"1\"} 7\n\
    nv_inference_pending_request_count{model=\"llm\",version=\"1\"} 1\n\
    nv_trt_llm_request_metrics{model=\"llm\",request_type=\"active\",version=\"1\"} 9\n\
    nv_trt_llm_request_metrics{model=\"llm\",request_type=\"scheduled\",version=\"1\"} 6\n\
    nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"used\",model=\"llm\"} 25\n\
    nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\",model=\"llm\"} 100\n\
    vllm:num_requests_running{model=\"llm\"} 6\n";

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn answer_in_pieces(place: Place, pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Result<Answer, NoMatch> {
    let mut fetch = Fetch::new(place);
    for piece in pieces {
        if let Some(outcome) = fetch.push(piece.as_ref()) {
            return outcome;
        }
    }
    fetch.end()
}

fn answer(place: Place, bytes: &[u8]) -> Result<Answer, NoMatch> {
    answer_in_pieces(place, std::iter::once(bytes))
}

fn ok(place: Place, body: &str) -> Answer {
    answer(place, &http("200 OK", "", body)).unwrap()
}

/// What is known after one answer.
fn frame(place: Place, body: &str) -> Engine {
    let mut watch = Watch::new(None);
    watch.take(Nanos(0), ok(place, body), None);
    watch.frame(Nanos(0))
}

fn names(labels: &[Label]) -> Vec<&str> {
    labels.iter().map(Label::as_str).collect()
}

#[test]
fn llama_cpp_tells_tokens_slots_and_its_model() {
    let mut watch = Watch::new(Some(EngineKind::LlamaCpp));
    assert!(!watch.is_engine(), "a hint is no answer");
    for (place, body) in [(Place::Metrics, LLAMA_METRICS), (Place::Slots, LLAMA_SLOTS), (Place::Props, LLAMA_PROPS)] {
        watch.take(Nanos(1), ok(place, body), None);
    }
    let engine = watch.frame(Nanos(2_000_000_001));
    assert!(watch.is_engine());
    assert_eq!((engine.kind.as_str(), names(&engine.models)), ("llama.cpp", vec!["tiny.gguf"]));
    assert_eq!((engine.requests_running, engine.requests_waiting), (Some(0.0), Some(0.0)));
    assert_eq!(
        (engine.input_tokens_total, engine.output_tokens_total),
        (Some(174), Some(60)),
        "with those from the cache"
    );
    assert!((engine.prefix_cache_hit_percent.unwrap() - 114.0 / 1.74).abs() < 1e-9);
    assert_eq!((engine.slots_total, engine.context_tokens), (Some(2), Some(256)));
    assert_eq!((engine.preemptions_total, engine.kv_cache_percent), (None, None), "it does not tell");
    assert_eq!(engine.stale_seconds, Some(2.0));
    assert_eq!(engine.output_tokens_per_second, None, "one reading makes no rate");
}

#[test]
fn without_metrics_the_busy_slots_are_the_running_requests() {
    let engine = frame(Place::Slots, &LLAMA_SLOTS.replacen("false,\"id_task\"", "true,\"id_task\"", 1));
    assert_eq!((engine.requests_running, engine.slots_total), (Some(1.0), Some(2)));
}

#[test]
fn an_older_llama_cpp_does_not_count_whole_prompts() {
    let old = "llamacpp:prompt_tokens_total 60\nllamacpp:tokens_predicted_total 60\n";
    let Answer::Metrics(metrics) = ok(Place::Metrics, old) else { panic!() };
    assert!(!metrics.counts_whole_prompts);
}

#[test]
fn litellm_tells_what_passes_through_it_and_no_names_of_its_users() {
    let engine = frame(Place::MetricsSlash, LITELLM_METRICS);
    assert_eq!(engine.kind, "litellm");
    assert_eq!((engine.input_tokens_total, engine.output_tokens_total), (Some(54), Some(24)));
    assert_eq!(engine.requests_finished_total, Some(3));
    assert_eq!(engine.requests_running, Some(0.0), "the one in flight is the one that asks");
    assert_eq!(names(&engine.models), ["tiny"]);
    let text = serde_json::to_string(&engine).unwrap();
    assert!(!text.contains("127.0.0.1") && !text.contains("5822ed1f"), "{text}");
}

#[test]
fn ollama_tells_its_models_and_their_memory() {
    let engine = frame(Place::Loaded, OLLAMA_LOADED);
    assert_eq!((engine.kind.as_str(), names(&engine.models)), ("ollama", vec!["llama3.2:latest", "nomic"]));
    let [llama, nomic] = &engine.loaded_models[..] else { panic!() };
    assert_eq!((llama.memory_bytes, llama.gpu_memory_bytes), (Some(3_825_819_519), Some(2_825_819_519)));
    assert_eq!(llama.context_tokens, Some(8192));
    assert_eq!(llama.expires_at, Some("2026-11-29T17:12:35.5Z".parse().unwrap()));
    assert_eq!((nomic.memory_bytes, nomic.gpu_memory_bytes), (None, Some(0)));
    assert_eq!(
        frame(Place::Loaded, r#"{"models":[]}"#).models,
        Vec::<Label>::new(),
        "none is loaded, and that is known"
    );
}

#[test]
fn vllm_has_replicas_and_a_whole() {
    let engine = frame(Place::Metrics, &vllm([100, 300], [6, 2]));
    assert_eq!((engine.kind.as_str(), names(&engine.models)), ("vllm", vec!["meta-llama/Llama-3"]));
    assert_eq!((engine.requests_running, engine.requests_waiting), (Some(8.0), Some(2.0)));
    assert_eq!(engine.kv_cache_percent, Some(65.0), "of the fullest");
    assert_eq!((engine.preemptions_total, engine.prefix_cache_hit_percent), (Some(1), Some(25.0)));
    assert_eq!((engine.input_tokens_total, engine.output_tokens_total), (Some(1200), Some(400)));
    assert_eq!(engine.requests_finished_total, Some(42));
    // 8 of 10 requests where 5 would be even.
    assert_eq!(engine.replica_imbalance_percent.map(f64::round), Some(60.0));
    let [first, second] = &engine.replicas[..] else { panic!() };
    assert_eq!((first.label.as_str(), first.requests_running, first.kv_cache_percent), ("0", Some(6.0), Some(65.0)));
    assert_eq!((second.requests_waiting, second.preemptions_total), (Some(0.0), Some(1)));
    let idle = frame(Place::Metrics, &vllm([1, 1], [0, 0]));
    assert_eq!(idle.replica_imbalance_percent, None, "nothing is uneven about nothing");
}

#[test]
fn servers_of_the_same_models_are_replicas_of_each_other() {
    let server = |running: f64, model: &str| Engine {
        kind: "vllm".into(),
        models: vec![model.into()],
        requests_running: Some(running),
        ..Engine::default()
    };
    let replicated = frame(Place::Metrics, &vllm([100, 300], [6, 2]));
    let own = replicated.replica_imbalance_percent;
    let mut engines =
        [server(9.0, "a"), server(3.0, "b"), server(3.0, "a"), replicated, Engine::default(), Engine::default()];
    compare(&mut engines);
    let percents = engines.map(|engine| engine.replica_imbalance_percent);
    assert_eq!(percents, [Some(50.0), None, Some(50.0), own, None, None]);
    // One that is not there any more, and one of which it is not known who waits.
    let silent = Engine { problem: Some("it does not answer".into()), ..server(9.0, "a") };
    let mut engines = [server(9.0, "a"), silent, server(3.0, "a")];
    compare(&mut engines);
    assert_eq!(engines.map(|engine| engine.replica_imbalance_percent), [Some(50.0), None, Some(50.0)]);
    let mut engines = [server(9.0, "a"), Engine { requests_waiting: Some(2.0), ..server(3.0, "a") }];
    compare(&mut engines);
    assert_eq!(engines.map(|engine| engine.replica_imbalance_percent), [None, None]);
}

#[test]
fn numbers_that_make_no_sense_are_unknown_and_a_server_that_has_no_others_is_told() {
    let nonsense = "vllm:num_requests_running NaN\nvllm:kv_cache_usage_perc 1.7\n";
    let engine = frame(Place::Metrics, nonsense);
    assert_eq!((engine.requests_running, engine.kv_cache_percent), (None, None));
    assert_eq!(engine.problem.as_deref(), Some("none of its numbers can be read"));
    let rounded = frame(Place::Metrics, "vllm:kv_cache_usage_perc 1.004\n");
    assert_eq!((rounded.kv_cache_percent, rounded.problem), (Some(100.0), None));
}

#[test]
fn ranks_and_priorities_of_sglang_are_not_added_up() {
    let engine = frame(Place::Metrics, SGLANG);
    assert_eq!(
        (engine.kind.as_str(), engine.requests_running, engine.requests_waiting),
        ("sglang", Some(4.0), Some(2.0))
    );
    assert_eq!((engine.prefix_cache_hit_percent, engine.kv_cache_percent), (Some(25.0), Some(25.0)));
    assert_eq!((engine.input_tokens_total, engine.output_tokens_total), (Some(1000), Some(400)));
    assert_eq!(engine.replicas.len(), 2);
}

#[test]
fn tgi_counts_tokens_in_histograms() {
    let engine = frame(Place::Metrics, TGI);
    assert_eq!((engine.kind.as_str(), engine.requests_running, engine.requests_waiting), ("tgi", Some(2.0), Some(5.0)));
    assert_eq!((engine.input_tokens_total, engine.output_tokens_total), (Some(900), Some(450)));
    assert_eq!(engine.requests_finished_total, Some(9));
}

#[test]
fn triton_is_triton_whatever_runs_within() {
    let engine = frame(Place::Metrics, TRITON);
    assert_eq!((engine.kind.as_str(), engine.requests_waiting), ("triton", Some(1.0)));
    assert_eq!((engine.kv_cache_percent, engine.requests_finished_total), (Some(25.0), Some(7)));
    assert_eq!(names(&engine.models), ["llm"]);
}

#[test]
fn what_is_no_answer_of_such_a_server_says_why() {
    let metrics = |bytes: &[u8]| answer(Place::Metrics, bytes).unwrap_err();
    assert_eq!(metrics(&http("401 Unauthorized", "WWW-Authenticate: Bearer\r\n", LLAMA_METRICS)), NoMatch::Status(401));
    assert_eq!(metrics(&http("404 Not Found", "", "")), NoMatch::Status(404));
    assert_eq!(metrics(&http("307 Temporary Redirect", "Location: /metrics/\r\n", "")), NoMatch::Redirect(307));
    assert_eq!(metrics(&http("200 OK", "Content-Encoding: gzip\r\n", "x")), NoMatch::Compressed);
    assert_eq!(metrics(&http("200 OK", "", "<html>vllm</html>")), NoMatch::Unknown);
    assert_eq!(metrics(&http("200 OK", "", "up 1\nprocess_cpu_seconds_total 5\n")), NoMatch::Unknown);
    assert_eq!(metrics(b"SSH-2.0-OpenSSH_9.2\r\n"), NoMatch::NotHttp);
    assert_eq!(metrics(b""), NoMatch::Silent);
    let whole = http("200 OK", "", LLAMA_METRICS);
    assert_eq!(metrics(&whole[..whole.len() - 1]), NoMatch::NotHttp, "its end is missing");
    assert_eq!(answer(Place::Slots, &http("200 OK", "", LLAMA_PROPS)), Err(NoMatch::Unknown));
    assert_eq!(answer(Place::Loaded, &http("200 OK", "", "{}")), Err(NoMatch::Unknown));
    assert_eq!(answer(Place::Props, &http("200 OK", "", "[1")), Err(NoMatch::Unknown));
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let answered = answer(Place::Metrics, format!("HTTP/1.0 200 OK\r\n\r\n{LLAMA_METRICS}").as_bytes());
    assert!(matches!(answered, Ok(Answer::Metrics(_))), "{answered:?}");
}

#[test]
fn more_than_a_mebibyte_is_given_up() {
    let endless =
        std::iter::once(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).chain(std::iter::repeat(b"vllm:x 1\n".repeat(100)));
    let mut taken = 0;
    let pieces = endless.inspect(|piece| taken += piece.len());
    assert_eq!(answer_in_pieces(Place::Metrics, pieces), Err(NoMatch::TooLong));
    assert!(taken <= MAX_ANSWER_BYTES + 1000, "{taken}");
}

#[test]
fn a_request_carries_nothing_of_anybody_and_asks_for_known_places_only() {
    for place in Place::ALL {
        let request = Fetch::request(place, "127.0.0.1:8000");
        let path = place.path();
        assert_eq!(
            request,
            format!(
                "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: hbpf\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            )
        );
    }
    for kind in EngineKind::ALL {
        assert!(!kind.places().is_empty() && kind.places().iter().all(|place| Place::ALL.contains(place)));
    }
}

#[test]
fn prompts_in_slots_are_nowhere() {
    let slots = r#"[{"id":0,"n_ctx":64,"is_processing":true,"prompt":"CANARY","params":{"id":"CANARY","grammar":"CANARY"},
        "next_token":[{"generated":"CANARY"}]}]"#;
    let answered = ok(Place::Slots, slots);
    assert_eq!(answered, Answer::Slots(Slots { total: 1, busy: 1, context_tokens: Some(64) }));
    let mut fetch = Fetch::new(Place::Slots);
    let bytes = http("200 OK", "", slots);
    assert_eq!(fetch.push(&bytes[..bytes.len() - 20]), None);
    assert!(!format!("{fetch:?}").contains("CANARY"), "not even half way");
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn rates_lie_between_two_readings_and_begin_anew_with_the_server() {
    let mut watch = Watch::new(None);
    let mut at = |seconds: u32, tokens| {
        let now = Nanos(0).after(SECOND * seconds);
        watch.take(now, ok(Place::Metrics, &vllm([tokens, tokens], [1, 1])), None);
        watch.frame(now)
    };
    assert_eq!(at(0, 100).output_tokens_per_second, None);
    let second = at(2, 200);
    assert_eq!((second.output_tokens_per_second, second.input_tokens_per_second), (Some(100.0), Some(300.0)));
    assert_eq!(second.requests_per_second, Some(10.0));
    assert_eq!(second.replicas[0].output_tokens_per_second, Some(50.0));
    assert_eq!(second.replicas[1].requests_share_percent, Some(50.0));
    let times = second.time_to_first_token_seconds.unwrap();
    assert_eq!((times.count, times.mean, times.p50), (200, Some(0.25), Some(0.25)));
    assert_eq!(second.prefix_cache_hit_recent_percent, Some(25.0));
    let restarted = at(4, 10);
    assert_eq!((restarted.output_tokens_per_second, restarted.output_tokens_total), (None, Some(20)));
    assert_eq!(restarted.time_to_first_token_seconds, None);
    assert_eq!(at(6, 20).output_tokens_per_second, Some(10.0));
}

#[test]
fn times_are_those_of_the_last_minute() {
    let mut watch = Watch::new(None);
    // 10 tokens a second for two minutes, then none.
    for seconds in 0..240_u32 {
        let tokens = seconds.min(120) * 10;
        watch.take(Nanos(0).after(SECOND * seconds), ok(Place::Metrics, &vllm([tokens, 0], [0, 0])), None);
        let count = watch.frame(Nanos(0).after(SECOND * seconds)).time_to_first_token_seconds.map(|times| times.count);
        match seconds {
            0 => assert_eq!(count, None),
            1..=60 => assert_eq!(count, Some(u64::from(seconds) * 10)),
            61..=120 => assert!((600..=700).contains(&count.unwrap()), "{count:?} at {seconds}"),
            121..=190 => {}
            _ => assert_eq!(count, None, "at {seconds}"),
        }
    }
}

/// A llama.cpp that has counted so much.
fn counted(input: u32, output: u32, running: u32) -> Answer {
    ok(
        Place::Metrics,
        &format!(
            "llamacpp:prompt_tokens_total {input}\nllamacpp:prompt_tokens_cached_total 0\n\
             llamacpp:tokens_predicted_total {output}\nllamacpp:requests_processing {running}\nllamacpp:requests_deferred 0\n"
        ),
    )
}

fn served(input: u64, output: u64) -> Option<[Served; 2]> {
    Some([Served { input, output, in_flight: 0 }; 2])
}

/// Percent and tokens after these readings, one a second.
fn agreement(readings: impl IntoIterator<Item = (Answer, Option<[Served; 2]>)>) -> Option<(f64, u64)> {
    let mut watch = Watch::new(None);
    for (second, (answer, served)) in (0..).zip(readings) {
        watch.take(Nanos(0).after(SECOND * second), answer, served);
    }
    let engine = watch.frame(Nanos(0));
    engine.agreement_percent.zip(engine.agreement_tokens)
}

#[test]
fn counts_are_compared_in_quiet_moments_and_from_the_first_on() {
    // It had counted before hbpf came, and hbpf has seen others of it.
    let before = || (counted(5000, 700, 0), served(10, 3));
    let after = |input: u64, output: u64| (counted(5000 + 300, 700 + 100, 0), served(10 + input, 3 + output));
    assert_eq!(agreement([before(), before(), after(300, 100), after(300, 100)]), Some((100.0, 400)));
    assert_eq!(agreement([before(), before(), after(200, 100), after(200, 100)]), Some((75.0, 400)));
    assert_eq!(
        agreement([before(), before(), after(500, 300), after(500, 300)]),
        Some((50.0, 400)),
        "more is no better"
    );
    assert_eq!(agreement([before(), before(), after(300, 100)]), None, "it may be late by a moment");
    let busy = || (counted(5300, 800, 1), served(10, 3));
    assert_eq!(agreement([before(), before(), busy(), busy()]), None);
    let in_flight = Served { input: 10, output: 3, in_flight: 1 };
    let unended = || (counted(5300, 800, 0), Some([in_flight; 2]));
    assert_eq!(agreement([before(), before(), unended(), unended()]), None);
    let few = || (counted(5050, 749, 0), served(10, 3));
    assert_eq!(agreement([before(), before(), few(), few()]), None, "99 tokens say little");
    let unwatched = || (counted(9000, 900, 0), None);
    assert_eq!(agreement([before(), before(), after(300, 100), after(300, 100), unwatched()]), None);
    let restarted = || (counted(0, 0, 0), served(310, 103));
    assert_eq!(agreement([before(), before(), after(300, 100), after(300, 100), restarted(), restarted()]), None);
}

fn answers() -> impl Strategy<Value = (Place, String)> {
    let some = |place, body: &str| Just((place, body.to_owned()));
    prop_oneof![
        some(Place::Metrics, LLAMA_METRICS),
        some(Place::MetricsSlash, LITELLM_METRICS),
        some(Place::Metrics, &vllm([10, 20], [5, 0])),
        some(Place::Slots, LLAMA_SLOTS),
        some(Place::Props, LLAMA_PROPS),
        some(Place::Loaded, OLLAMA_LOADED),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_an_answer_mean_what_it_means((place, body) in answers(), size in 1..3000_usize) {
        let bytes = http("200 OK", "", &body);
        prop_assert_eq!(answer_in_pieces(place, bytes.chunks(size)), answer(place, &bytes));
    }

    #[test]
    fn whatever_is_answered_frames_are_sound(
        readings in prop::collection::vec((answers(), any::<prop::sample::Index>(), any::<u8>(), 0..90_u32), 0..8),
    ) {
        let (mut watch, mut now) = (Watch::new(None), Nanos(0));
        for ((place, body), at, byte, seconds) in readings {
            now = now.after(SECOND * seconds);
            let mut bytes = body.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let answered = answer(place, &[&b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..], &bytes].concat());
            if let Ok(answered) = answered {
                watch.take(now, answered, served(u64::from(byte), u64::from(seconds)));
            }
            let engine = watch.frame(now);
            let percents = [engine.kv_cache_percent, engine.prefix_cache_hit_percent, engine.agreement_percent];
            prop_assert!(percents.into_iter().flatten().all(|percent| (0.0..=100.0).contains(&percent)), "{:?}", engine);
            let rates = [engine.output_tokens_per_second, engine.requests_per_second, engine.replica_imbalance_percent];
            prop_assert!(rates.into_iter().flatten().all(|rate| rate >= 0.0 && rate.is_finite()), "{:?}", engine);
        }
    }
}
