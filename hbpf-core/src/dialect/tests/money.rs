//! What answers say of what they cost: tiers, tokens that are billed otherwise than read, and money.

use super::*;
use crate::exchange::ServiceTier;

/// What is read of a whole answer, or of a stream, at every split.
fn read(dialect: Dialect, body: &str) -> Facts {
    let content_type = if body.starts_with("data: ") { "text/event-stream" } else { "application/json" };
    let pieces = |pieces: [&[u8]; 2]| {
        let mut interpreter = Interpreter::new(dialect);
        interpreter.request_bytes(br#"{"model":"m"}"#);
        interpreter.request_end();
        interpreter.response_begins(Some(200), Some(content_type.as_bytes()));
        for piece in pieces {
            interpreter.response_bytes(Nanos(0), piece, &mut |_| {});
        }
        interpreter.response_end(Nanos(1), &mut |_| {});
        interpreter.facts().clone()
    };
    let facts = pieces([body.as_bytes(), b""]);
    for at in 1..body.len() {
        assert_eq!(pieces(body.as_bytes().split_at(at).into()), facts, "{body} split at {at}");
    }
    facts
}

#[test]
fn tiers_stand_in_many_places() {
    use ServiceTier::*;
    for (dialect, body, expected) in [
        (Dialect::OpenaiChat, r#"{"model":"m","service_tier":"flex"}"#, Some(Flex)),
        (Dialect::OpenaiChat, r#"{"model":"m","service_tier":"default"}"#, Some(Standard)),
        (Dialect::OpenaiChat, r#"{"model":"m","service_tier":null}"#, None),
        (Dialect::OpenaiChat, r#"{"model":"m","service_tier":"fast"}"#, Some(Priority)),
        (Dialect::OpenaiChat, r#"{"model":"m","service_tier":"scale"}"#, Some(Other)),
        (Dialect::OpenaiChat, "data: {\"service_tier\":\"priority\"}\n\ndata: {\"usage\":{}}\n\n", Some(Priority)),
        (Dialect::OpenaiChat, r#"{"model":"m","usage":{"service_tier":"standard"}}"#, Some(Standard)),
        (Dialect::OpenaiCompletions, r#"{"service_tier":"priority"}"#, Some(Priority)),
        (Dialect::OpenaiResponses, r#"{"model":"m","service_tier":"flex"}"#, Some(Flex)),
        // It is asked for first, and given last.
        (
            Dialect::OpenaiResponses,
            "data: {\"type\":\"response.created\",\"response\":{\"service_tier\":\"auto\"}}\n\n\
             data: {\"type\":\"response.completed\",\"response\":{\"service_tier\":\"priority\"}}\n\n",
            Some(Priority),
        ),
        (Dialect::AnthropicMessages, r#"{"type":"message","usage":{"service_tier":"batch"}}"#, Some(Batch)),
        (
            Dialect::AnthropicMessages,
            "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"service_tier\":\"priority\"}}}\n\n\
             data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1}}\n\n",
            Some(Priority),
        ),
        (Dialect::AnthropicMessages, r#"{"usage":{"speed":"fast","service_tier":"standard"}}"#, Some(Fast)),
        (Dialect::AnthropicMessages, r#"{"usage":{"service_tier":"standard","speed":"standard"}}"#, Some(Standard)),
        (Dialect::GeminiGenerate, r#"{"usageMetadata":{"serviceTier":"PRIORITY"}}"#, Some(Priority)),
        (Dialect::GeminiGenerate, r#"{"usageMetadata":{"trafficType":"ON_DEMAND_FLEX"}}"#, Some(Flex)),
        (Dialect::GeminiGenerate, r#"{"usageMetadata":{"trafficType":"ON_DEMAND"}}"#, Some(Standard)),
        (Dialect::GeminiGenerate, r#"{"usageMetadata":{"trafficType":"PROVISIONED_THROUGHPUT"}}"#, Some(Other)),
        (Dialect::GeminiGenerate, r#"{"usageMetadata":{"trafficType":"TRAFFIC_TYPE_UNSPECIFIED"}}"#, None),
        (Dialect::BedrockConverse, r#"{"serviceTier":{"type":"flex"}}"#, Some(Flex)),
        (Dialect::BedrockConverse, r#"{"serviceTier":{"type":"reserved"}}"#, Some(Other)),
    ] {
        assert_eq!(read(dialect, body).tier, expected, "{body}");
    }
}

#[test]
fn what_is_cached_for_long_is_counted_apart() {
    for (dialect, body, written, long) in [
        (
            Dialect::AnthropicMessages,
            r#"{"usage":{"input_tokens":1,"cache_creation_input_tokens":9,"cache_creation":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":7}}}"#,
            Some(9),
            Some(7),
        ),
        (
            Dialect::OpenaiResponses,
            r#"{"usage":{"input_tokens":10,"input_tokens_details":{"cache_write_tokens":9,"cache_write_tokens_details":{"ttl_30m_tokens":4,"ttl_12h_tokens":5}}}}"#,
            Some(9),
            Some(5),
        ),
        (
            Dialect::BedrockConverse,
            r#"{"usage":{"inputTokens":1,"cacheWriteInputTokens":9,"cacheDetails":[{"inputTokens":3,"ttl":"1h"},{"ttl":"5m","inputTokens":2},{"ttl":"1h","inputTokens":4}]}}"#,
            Some(9),
            Some(7),
        ),
        (
            Dialect::BedrockConverse,
            r#"{"usage":{"inputTokens":1,"cacheWriteInputTokens":9,"cacheDetails":[{"ttl":"1y","inputTokens":9}]}}"#,
            Some(9),
            None,
        ),
    ] {
        let usage = read(dialect, body).usage;
        assert_eq!((usage.cache_creation_input, usage.cache_creation_long), (written, long), "{body}");
    }
}

#[test]
fn cohere_bills_less_than_it_reads() {
    let usage = r#""usage":{"billed_units":{"input_tokens":5,"output_tokens":2},"tokens":{"input_tokens":71,"output_tokens":4}}"#;
    for body in [
        format!("{{{usage}}}"),
        format!("data: {{\"type\":\"message-end\",\"delta\":{{{usage}}}}}\n\ndata: [DONE]\n\n"),
    ] {
        let usage = read(Dialect::CohereChat, &body).usage;
        assert_eq!((usage.input, usage.output), (Some(71), Some(4)), "{body}");
        assert_eq!((usage.billed_input, usage.billed_output), (Some(5), Some(2)), "{body}");
    }
    let vectors = read(Dialect::CohereChat, r#"{"meta":{"billed_units":{"input_tokens":5}}}"#).usage;
    assert_eq!((vectors.input, vectors.billed_input), (Some(5), Some(5)));
}

#[test]
fn a_gateways_fee_is_not_all() {
    for (usage, expected) in [
        (r#""cost":0.95"#, Some(0.95)),
        // It is told of calls by the gateway's own key, too, and is part of the cost there.
        (r#""cost":0.5,"is_byok":false,"cost_details":{"upstream_inference_cost":0.5}"#, Some(0.5)),
        (
            r#""cost":0.5,"is_byok":true,"cost_details":{"upstream_inference_cost":10,"upstream_inference_prompt_cost":4}"#,
            Some(10.5),
        ),
        (r#""cost_details":{"upstream_inference_cost":10},"is_byok":true,"cost":0"#, Some(10.0)),
        // The fee alone is not what it has cost.
        (r#""cost":0.5,"is_byok":true,"cost_details":{"upstream_inference_cost":null}"#, None),
        (r#""cost":-1"#, None),
        (r#""cost_in_usd_ticks":25000000000"#, Some(2.5)),
    ] {
        let chat = format!(r#"{{"model":"m","usage":{{"prompt_tokens":1,"completion_tokens":1,{usage}}}}}"#);
        assert_eq!(read(Dialect::OpenaiChat, &chat).cost_usd, expected, "{chat}");
        let whole = format!(r#"{{"model":"m","usage":{{"input_tokens":1,"output_tokens":1,{usage}}}}}"#);
        assert_eq!(read(Dialect::OpenaiResponses, &whole).cost_usd, expected, "{whole}");
        let message = whole.replace(r#""model":"m","#, r#""type":"message_delta","#);
        let delta = format!("event: message_delta\ndata: {message}\n\n");
        assert_eq!(
            read(Dialect::AnthropicMessages, &delta).cost_usd,
            expected.filter(|_| !usage.contains("ticks")),
            "{delta}"
        );
        let ends = format!("data: {{\"type\":\"response.completed\",\"response\":{whole}}}\n\n");
        assert_eq!(read(Dialect::OpenaiResponses, &ends).cost_usd, expected, "{ends}");
    }
}

#[test]
fn what_is_not_paid_by_tokens_is_counted() {
    let usage = |dialect, body: &str| read(dialect, body).usage;
    let images =
        usage(Dialect::OpenaiImages, r#"{"created":1,"data":[{"b64_json":"CANARY"},{"url":"x","data":[{}]}]}"#);
    assert_eq!((images.images, images.audio_milliseconds, images.output), (Some(2), None, None));
    for transcript in [
        r#"{"text":"CANARY","usage":{"type":"duration","seconds":12.5}}"#,
        r#"{"task":"transcribe","duration":12.5,"text":"CANARY","segments":[{"duration":3}]}"#,
        r#"{"model":"m","text":"CANARY","usage":{"prompt_audio_seconds":12.5}}"#,
    ] {
        assert_eq!(usage(Dialect::OpenaiAudio, transcript).audio_milliseconds, Some(12_500), "{transcript}");
    }
    assert_eq!(usage(Dialect::OpenaiAudio, r#"{"duration":-1}"#).audio_milliseconds, None);
    let ranking = usage(Dialect::CohereChat, r#"{"results":[],"meta":{"billed_units":{"search_units":2}}}"#);
    assert_eq!((ranking.searches, ranking.input), (Some(2), None));
}

#[test]
fn tokens_that_are_sound_are_told_apart() {
    let chat = r#"{"model":"m","usage":{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":{"audio_tokens":4},"completion_tokens_details":{"audio_tokens":3}}}"#;
    let usage = read(Dialect::OpenaiChat, chat).usage;
    assert_eq!((usage.audio_input, usage.audio_output), (Some(4), Some(3)));
    let transcript = r#"{"text":"CANARY","usage":{"type":"tokens","input_tokens":9,"output_tokens":7,"input_token_details":{"audio_tokens":9}}}"#;
    let usage = read(Dialect::OpenaiAudio, transcript).usage;
    assert_eq!((usage.input, usage.audio_input, usage.audio_output), (Some(9), Some(9), None));
}

#[test]
fn tokens_that_are_images_are_told_apart() {
    let images = r#"{"data":[{"b64_json":"CANARY"}],"usage":{"input_tokens":9,"output_tokens":70,"input_tokens_details":{"image_tokens":4,"text_tokens":5}}}"#;
    let completed = r#"{"type":"image_generation.completed","b64_json":"CANARY","usage":{"input_tokens":9,"output_tokens":70,"output_tokens_details":{"image_tokens":60}}}"#;
    let [of_images, of_completed] = [images, completed].map(|body| read(Dialect::OpenaiImages, body).usage);
    assert_eq!((of_images.image_input, of_images.image_output, of_images.output), (Some(4), None, Some(70)));
    assert_eq!((of_completed.image_input, of_completed.image_output), (None, Some(60)));
}
