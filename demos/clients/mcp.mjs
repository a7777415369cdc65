// Serves tools on standard input and output, or starts a server that does and calls them, by the SDK of the Model Context
// Protocol for node; it must lie beside the node_modules that demos/clients/node/package.json names.
//
// `serve` is the server. `call N COMMAND...` is what mcp_client.py is with --stdio, and `call-early` with --early, too.

import { createInterface } from "node:readline";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { z } from "zod";

async function serve() {
  const server = new McpServer({ name: "weather", version: "1.0.0" });
  server.registerTool("look_up", { inputSchema: { city: z.string() } }, async ({ city }) => {
    await new Promise((done) => setTimeout(done, 50));
    return { content: [{ type: "text", text: `CANARY: it rains in ${city}` }] };
  });
  server.registerTool("fail", { inputSchema: { reason: z.string() } }, async ({ reason }) => {
    throw new Error(`CANARY ${reason}`);
  });
  await server.connect(new StdioServerTransport());
}

async function call(early, count, [command, ...args]) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const begins = async () => {
    console.log(JSON.stringify({ ready: process.pid }));
    if ((await lines.next()).done) process.exit();
  };
  const done = { tools: 0, look_up: 0, fail: 0, errors: 0 };
  const client = new Client({ name: "demo", version: "1.0.0" });
  if (!early) await begins();
  await client.connect(new StdioClientTransport({ command, args }));
  if (early) await begins();
  done.tools = (await client.listTools()).tools.length;
  const calls = Array(count).fill(["look_up", { city: "CANARY" }]);
  for (const [name, input] of [...calls, ["fail", { reason: "CANARY" }], ["fail", { reason: "CANARY" }]]) {
    const result = await client.callTool({ name, arguments: input });
    done[name] += 1;
    done.errors += result.isError ? 1 : 0;
  }
  console.log(JSON.stringify(done));
  await lines.next();
  await client.close();
}

const [what, count, ...command] = process.argv.slice(2);
await (what === "serve" ? serve() : call(what === "call-early", Number(count), command));
