// One client of the loss test, as python/loss_worker.py: the same argument, the same log lines.

import { openSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";
import { Client, Opaque } from "./hotset_client.mjs";

const ask = JSON.parse(process.argv[2]);
const log = openSync(ask.log, "a", 0o600);
const note = (...words) => writeSync(log, `${words.join(" ")}\n`);
const LARGE_BYTES = 5 << 20;

class PlainSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { perMessageDeflate: false, maxPayload: 128 << 20, handshakeTimeout: 10000 });
  }
}

// A small seeded generator (splitmix32): Math.random cannot be seeded.
let state = ask.seed >>> 0;
function random() {
  state = (state + 0x9e3779b9) >>> 0;
  let z = state;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
}
const below = (count) => Math.floor(random() * count);
const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

function outline(change) {
  switch (change.do) {
    case "node.put":
      return ["put", change.id, change.payload instanceof Opaque ? change.payload.mediaType : change.payload.mark];
    case "node.patch":
      return change.merge ? ["merge", change.id, change.merge.mark] : ["add", change.id, change.patch[0].value];
    case "chat.post":
      return ["say", change.id, change.text];
    default:
      return [change.do, "", ""];
  }
}

function operation(mark, large) {
  if (large) {
    const put = { type: "op", do: "node.put", id: `large${below(4)}`, kind: "large" };
    const bytes = new Uint8Array(LARGE_BYTES).map((_, i) => (i * 31) ^ (i >> 8) ^ state);
    if (ask.format === "binary") return { ...put, payload: new Opaque(bytes, `mark/${mark}`) };
    return { ...put, payload: { mark, list: [], pad: Buffer.from(bytes.subarray(LARGE_BYTES / 2)).toString("hex") } };
  }
  const id = `n${below(ask.nodes)}`;
  const pad = "x".repeat(Math.min(20000, Math.floor(Math.exp(6.9 + 0.7 * normal()))));
  const put = { do: "node.put", id, kind: "small", payload: { mark, list: [], pad } };
  const kind = random();
  if (kind < 0.6) return { type: "op", ...put };
  if (kind < 0.8) return { type: "op", do: "node.patch", id, merge: { mark, extra: pad.slice(0, 100) } };
  if (kind < 0.9) return { type: "op", do: "node.patch", id, patch: [{ op: "add", path: "/list/-", value: mark }] };
  if (kind < 0.95) return { type: "op", do: "chat.post", text: mark };
  const other = { do: "node.put", id: `n${below(ask.nodes)}`, kind: "small", payload: { mark, list: [] } };
  return { type: "batch", operations: [put, other] };
}

const client = new Client(PlainSocket, { url: ask.url, name: ask.name, format: ask.format });
client.onEvent = ({ seq, author, op, changes }) => note("E", seq, author, op ?? 0, JSON.stringify(changes.map(outline)));
client.onAnswer = ({ type, op, seq, code }) => (type === "ack" ? note("A", op, seq) : note("R", op, code));
let wanted = true;
let sending = true;

async function stayConnected() {
  while (wanted) {
    try {
      await client.connect({ timeoutMs: 20000 });
      note("W", Number(client.resumed), client.welcome.seq);
      while (client.connected) await new Promise((resolve) => client.waiting.push(resolve));
    } catch (error) {
      note("X", String(error.message).split("\n")[0]);
      client.drop();
    }
    if (client.fault) throw client.fault;
    await sleep(20 + 50 * random());
  }
}

async function send() {
  let [begin, sent] = [performance.now(), 0];
  let nextLarge = begin + 1000 * ask.large_every * random();
  while (sending) {
    const now = performance.now();
    const due = Math.floor(((now - begin) / 1000) * ask.rate);
    if (!client.connected || client.pending.size > 400) {
      [begin, sent] = [now, 0];
    } else {
      for (let burst = Math.min(due - sent, 50); burst > 0 && client.connected; burst--) {
        const large = now >= nextLarge;
        if (large) nextLarge = now + 1000 * ask.large_every;
        const message = operation(`${ask.name}:${client.nextOp}`, large);
        note("S", client.nextOp);
        client.start(message);
        sent++;
      }
    }
    await sleep(10);
  }
}

async function obey() {
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, argument] = line.split(" ");
    let answer;
    if (command === "stop") {
      sending = false;
      while (client.pending.size || !client.connected) await sleep(20);
      answer = client.replica.seq;
    } else if (command === "reach") {
      await client.reach(Number(argument), 60000);
      answer = client.replica.seq;
    } else if (command === "dump") answer = await client.replica.dump();
    else break;
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  wanted = sending = false;
  client.drop();
  process.exit(0);
}

try {
  await Promise.all([stayConnected(), send(), obey()]);
} catch (error) {
  note("!", String(error.stack).replaceAll("\n", " "));
  console.error(error);
  process.exit(1);
}
