//! Who serves, by host name: a hint where shapes only name the dialect.

use super::custom;
use crate::exchange::Dialect;
use crate::label::Label;

/// Names of hosts and who is behind them, by the names that OpenTelemetry uses where it has one. An entry that begins
/// with a dot or a dash stands for any host that ends so.
const HOSTS: [(&str, &str); 36] = [
    ("api.openai.com", "openai"),
    (".api.openai.com", "openai"),
    ("chatgpt.com", "openai"),
    (".openai.azure.com", "azure.ai.openai"),
    (".cognitiveservices.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    (".models.ai.azure.com", "azure.ai.inference"),
    ("api.anthropic.com", "anthropic"),
    ("claude.googleapis.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("-aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("aiplatform.us.rep.googleapis.com", "gcp.vertex_ai"),
    ("aiplatform.eu.rep.googleapis.com", "gcp.vertex_ai"),
    ("api.cohere.com", "cohere"),
    ("api.cohere.ai", "cohere"),
    ("api.mistral.ai", "mistral_ai"),
    ("codestral.mistral.ai", "mistral_ai"),
    ("api.groq.com", "groq"),
    ("api.deepseek.com", "deepseek"),
    ("openrouter.ai", "openrouter"),
    ("api.x.ai", "x_ai"),
    (".api.x.ai", "x_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.moonshot.ai", "moonshot_ai"),
    ("api.moonshot.cn", "moonshot_ai"),
    ("api.together.xyz", "together"),
    ("api.together.ai", "together"),
    ("api.fireworks.ai", "fireworks"),
    ("api.cerebras.ai", "cerebras"),
    ("api.sambanova.ai", "sambanova"),
    ("router.huggingface.co", "huggingface"),
    ("api-inference.huggingface.co", "huggingface"),
    ("integrate.api.nvidia.com", "nvidia"),
    ("ollama.com", "ollama"),
    (".ml.cloud.ibm.com", "ibm.watsonx.ai"),
];

/// Beginnings of AWS host names, which have the region in the middle.
const AWS_HOSTS: [(&str, &str); 3] =
    [("bedrock-runtime", "aws.bedrock"), ("bedrock-mantle.", "aws.bedrock"), ("aws-external-anthropic.", "anthropic")];

/// Where SGLang listens, which speaks Ollama's dialect too.
const SGLANG_PORT: u16 = 30_000;

/// Who serves, by host, port, path and dialect; `unknown` where they do not tell.
pub(super) fn provider(host: Option<&Label>, port: Option<u16>, path: &[u8], dialect: Dialect) -> Label {
    let host = host.map(|host| host.as_str().to_ascii_lowercase());
    let name = match host.as_deref().and_then(provider_of_host) {
        // One Azure resource serves several vendors' models; OpenAI's have a path of their own.
        Some("azure.ai.inference") if path.starts_with(b"/openai/") => "azure.ai.openai",
        Some(name) => name,
        None if dialect == Dialect::Ollama && port != Some(SGLANG_PORT) => "ollama",
        // Their paths are nobody else's.
        None if matches!(dialect, Dialect::BedrockConverse | Dialect::BedrockInvoke) => "aws.bedrock",
        None if dialect == Dialect::XaiGrpc => "x_ai",
        None if dialect == Dialect::Tgi => "tgi",
        None if dialect == Dialect::Sglang => "sglang",
        None if dialect == Dialect::LlamaCpp => "llama.cpp",
        None if dialect == Dialect::LmStudio => "lm_studio",
        None if dialect == Dialect::MistralConversations => "mistral_ai",
        // Infer is served by others, too.
        None if dialect == Dialect::Triton && !path.ends_with(b"/infer") => "triton",
        _ if dialect == Dialect::Mcp => "mcp",
        None if dialect == Dialect::GeminiInteractions => "gcp.gemini",
        None if dialect == Dialect::GeminiGenerate && is_of_gemini_api(path) => "gcp.gemini",
        None if dialect == Dialect::GeminiGenerate => "gcp.gen_ai",
        None => "unknown",
    };
    Label::new(name)
}

/// Whether a path is the Gemini API's. Vertex AI's name a project or a publisher first.
fn is_of_gemini_api(path: &[u8]) -> bool {
    path.starts_with(b"/v1beta/") || path.starts_with(b"/v1/models/")
}

/// Who serves at this host, by its name in lower case; `None` where it is not known for models.
pub fn provider_of_host(host: &str) -> Option<&'static str> {
    if let Some(name) = custom::provider_of_host(host) {
        return Some(name);
    }
    let is_aws = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|end| host.ends_with(end));
    if is_aws {
        return AWS_HOSTS.iter().find(|(start, _)| host.starts_with(start)).map(|(_, name)| *name);
    }
    let matches = |entry: &str| match entry.as_bytes().first() {
        Some(b'.' | b'-') => host.ends_with(entry),
        _ => host == entry,
    };
    HOSTS.iter().find(|(entry, _)| matches(entry)).map(|(_, name)| *name)
}
