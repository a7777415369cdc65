// Calls a model through one of the SDKs that demos/clients/node/package.json names; it must lie beside their node_modules.
// Prints {"ready": ...} once everything is loaded, begins when a line arrives on standard input, prints what the SDK
// counted and which errors it told, and stays until standard input is closed.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    sdk: { type: "string" },
    "base-url": { type: "string" },
    // Node takes it from NODE_EXTRA_CA_CERTS instead.
    ca: { type: "string" },
    model: { type: "string", multiple: true, default: ["demo"] },
    count: { type: "string", default: "5" },
    concurrency: { type: "string", default: "8" },
  },
});
const url = options["base-url"];
const prompt = process.env.HBPF_DEMO_PROMPT ?? "Say something about bees.";
const apiKey = process.env.HBPF_DEMO_KEY ?? "demo-key";
const messages = [{ role: "user", content: prompt }];

// Prompt tokens, generated tokens and cached ones.
const openaiCounts = (usage) =>
  usage && [usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details?.cached_tokens ?? 0];
const embedding = (count) => count && [count, 0, 0];

const sdks = {
  async openai() {
    const { default: OpenAI } = await import("openai");
    const sdk = new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 });
    const usage = (answer) => openaiCounts(answer.usage);
    return {
      package: "openai",
      whole: { ask: (model) => sdk.chat.completions.create({ model, messages }), usage },
      stream: {
        ask: (model) =>
          sdk.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } }),
        usage,
      },
    };
  },

  async responses() {
    const { default: OpenAI } = await import("openai");
    const sdk = new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 });
    const counts = (usage) => usage && [usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens];
    return {
      package: "openai",
      whole: { ask: (model) => sdk.responses.create({ model, input: prompt }), usage: (answer) => counts(answer.usage) },
      stream: {
        ask: (model) => sdk.responses.create({ model, input: prompt, stream: true }),
        usage: (event) => counts(event.response?.usage),
      },
    };
  },

  async anthropic() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const sdk = new Anthropic({ apiKey, baseURL: url, maxRetries: 0 });
    const asked = (model) => ({ model, messages, max_tokens: 10_000 });
    const usage = ({ usage }) => {
      const cached = usage.cache_read_input_tokens ?? 0;
      return [usage.input_tokens + cached + (usage.cache_creation_input_tokens ?? 0), usage.output_tokens, cached];
    };
    return {
      package: "@anthropic-ai/sdk",
      whole: { ask: (model) => sdk.messages.create(asked(model)), usage },
      // It puts the answer together itself.
      stream: { ask: async (model) => [await sdk.messages.stream(asked(model)).finalMessage()], usage },
    };
  },

  async gemini() {
    const { GoogleGenAI } = await import("@google/genai");
    const sdk = new GoogleGenAI({ apiKey, httpOptions: { baseUrl: url } });
    const usage = ({ usageMetadata: usage }) =>
      usage && [
        usage.promptTokenCount,
        (usage.candidatesTokenCount ?? 0) + (usage.thoughtsTokenCount ?? 0),
        usage.cachedContentTokenCount ?? 0,
      ];
    return {
      package: "@google/genai",
      whole: { ask: (model) => sdk.models.generateContent({ model, contents: prompt }), usage },
      stream: { ask: (model) => sdk.models.generateContentStream({ model, contents: prompt }), usage },
    };
  },

  async mistral() {
    const { Mistral } = await import("@mistralai/mistralai");
    const sdk = new Mistral({ apiKey, serverURL: `${url}/mistral` });
    const usage = (answer) => {
      const { usage } = answer.data ?? answer;
      // Its types do not know what was cached; it is handed on under the name that came.
      return usage && [usage.promptTokens, usage.completionTokens, usage.prompt_tokens_details.cached_tokens];
    };
    return {
      package: "@mistralai/mistralai",
      whole: { ask: (model) => sdk.chat.complete({ model, messages }), usage },
      stream: { ask: (model) => sdk.chat.stream({ model, messages }), usage },
    };
  },

  async groq() {
    const { default: Groq } = await import("groq-sdk");
    const sdk = new Groq({ apiKey, baseURL: url, maxRetries: 0 });
    const usage = (answer) => openaiCounts(answer.x_groq?.usage ?? answer.usage);
    return {
      package: "groq-sdk",
      whole: { ask: (model) => sdk.chat.completions.create({ model, messages }), usage },
      stream: { ask: (model) => sdk.chat.completions.create({ model, messages, stream: true }), usage },
    };
  },

  async cohere() {
    const { CohereClientV2 } = await import("cohere-ai");
    const sdk = new CohereClientV2({ token: apiKey, environment: url, maxRetries: 0 });
    const counts = (usage) => usage && [usage.tokens.inputTokens, usage.tokens.outputTokens, usage.cachedTokens];
    const asked = { texts: [prompt, prompt], inputType: "search_document", embeddingTypes: ["float"] };
    return {
      package: "cohere-ai",
      whole: { ask: (model) => sdk.chat({ model, messages }), usage: (answer) => counts(answer.usage) },
      stream: { ask: (model) => sdk.chatStream({ model, messages }), usage: (event) => counts(event.delta?.usage) },
      embed: {
        ask: (model) => sdk.embed({ model, ...asked }),
        usage: (answer) => embedding(answer.meta.billedUnits.inputTokens),
      },
    };
  },

  async ollama() {
    const { Ollama } = await import("ollama");
    const sdk = new Ollama({ host: url, headers: { authorization: `Bearer ${apiKey}` } });
    const usage = (answer) => answer.prompt_eval_count && [answer.prompt_eval_count, answer.eval_count, 0];
    return {
      package: "ollama",
      whole: { ask: (model) => sdk.chat({ model, messages }), usage },
      stream: { ask: (model) => sdk.chat({ model, messages, stream: true }), usage },
      embed: {
        ask: (model) => sdk.embed({ model, input: [prompt, prompt] }),
        usage: (answer) => embedding(answer.prompt_eval_count),
      },
    };
  },
};

async function attempt({ ask, usage }, isStream, model) {
  const answer = await ask(model);
  if (!isStream) return usage(answer);
  let last;
  for await (const chunk of answer) last = usage(chunk) || last;
  return last;
}

const { package: name, ...ways } = await sdks[options.sdk]();
const { version } = JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url)));
console.log(JSON.stringify({ ready: process.pid, sdk: `${name} ${version}`, ways: Object.keys(ways) }));
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
if ((await lines.next()).done) process.exit();

const calls = Array.from({ length: Number(options.count) }).flatMap(() =>
  Object.entries(ways).flatMap(([way, how]) => options.model.map((model) => [how, way === "stream", model])),
);
const totals = { answers: 0, errors: [], input: 0, output: 0, cached: 0 };
const work = async () => {
  for (let call = calls.shift(); call; call = calls.shift()) {
    try {
      const counts = await attempt(...call);
      totals.answers += 1;
      ["input", "output", "cached"].forEach((name, index) => (totals[name] += counts[index]));
    } catch (error) {
      // What is no answer of the server's is told in full.
      totals.errors.push(error.status ?? error.statusCode ?? error.status_code ?? String(error.stack));
    }
  }
};
await Promise.all(Array.from({ length: Number(options.concurrency) }, work));
console.log(JSON.stringify(totals));
while (!(await lines.next()).done);
