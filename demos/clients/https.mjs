// Calls a model with node's own https module. The authority to verify with comes from NODE_EXTRA_CA_CERTS.
// usage: https.mjs BASE_URL MODEL COUNT
// Prints {"ready": ...}, begins when a line arrives on standard input, and stays until standard input is closed.

import https from "node:https";
import process from "node:process";

const [baseUrl, model, count] = process.argv.slice(2);
const input = process.stdin[Symbol.asyncIterator]();
const agent = new https.Agent({ keepAlive: true });

function call() {
  const body = JSON.stringify({
    model,
    stream: true,
    stream_options: { include_usage: true },
    messages: [{ role: "user", content: "Say something about bees." }],
  });
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const request = https.request(`${baseUrl}/v1/chat/completions`, { method: "POST", agent, headers }, (answer) => {
      answer.resume();
      answer.on("end", () => resolve(answer.statusCode));
    });
    request.on("error", reject);
    request.end(body);
  });
}

console.log(JSON.stringify({ ready: process.pid }));
if (!(await input.next()).done) {
  let answers = 0;
  for (let i = 0; i < Number(count); i++) if ((await call()) === 200) answers += 1;
  console.log(JSON.stringify({ answers }));
  while (!(await input.next()).done);
  agent.destroy();
}
