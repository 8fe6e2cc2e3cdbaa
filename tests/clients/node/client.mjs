// The JavaScript client on npm's `ws`, told what to do by JSON lines on standard input; one line of answer for each.

import { createInterface } from "node:readline";
import WebSocket from "ws";
import { Agent } from "./hotset_client.mjs";

class PlainSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { perMessageDeflate: false, maxPayload: 128 << 20 });
  }
}

const agent = new Agent(PlainSocket);
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { result: (await agent.handle(JSON.parse(line))) ?? null };
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
