// Calls a model with node's own fetch. The authority to verify with comes from NODE_EXTRA_CA_CERTS.
// usage: fetch.mjs BASE_URL MODEL COUNT
// Prints {"ready": ...}, begins when a line arrives on standard input, and stays until standard input is closed.

import process from "node:process";

const [baseUrl, model, count] = process.argv.slice(2);
const input = process.stdin[Symbol.asyncIterator]();

async function call() {
  const response = await fetch(`${baseUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer demo-key" },
    body: JSON.stringify({
      model,
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: "user", content: "Say something about bees." }],
    }),
  });
  let bytes = 0;
  for await (const piece of response.body) bytes += piece.length;
  return { status: response.status, bytes };
}

console.log(JSON.stringify({ ready: process.pid }));
if (!(await input.next()).done) {
  let answers = 0;
  for (let i = 0; i < Number(count); i++) {
    const { status } = await call();
    if (status === 200) answers += 1;
  }
  console.log(JSON.stringify({ answers }));
  while (!(await input.next()).done);
}
