// A small client of Hotset's native protocol, after docs/native-protocol.md and nothing else. It runs in Node and in
// browsers: whoever makes a Client brings the WebSocket class. `Replica.dump` is the same, byte for byte, as that of the
// Python client, so replicas can be compared across languages.

const SUBPROTOCOLS = { json: "hotset.v1.json", binary: "hotset.v1.binary" };
const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true });

/** A payload that is bytes with a media type, not JSON, and what was appended to them. */
export class Opaque {
  constructor(data, mediaType, deltas = []) {
    this.data = data;
    this.mediaType = mediaType;
    this.deltas = deltas;
  }
}

// --- the two formats ---

function* carriers(message) {
  yield message;
  for (const key of ["operations", "changes", "nodes"]) yield* message[key] ?? [];
}

/** Takes bytes that are there raw or as base64, one value or a list; `at` counts the raw bytes that are taken. */
function takeBytes(carrier, name, blob, at) {
  const each = (found, read) => (Array.isArray(found) ? found.map(read) : read(found));
  const { [`${name}_base64`]: encoded, [`${name}_bytes`]: sizes } = carrier;
  delete carrier[`${name}_base64`];
  delete carrier[`${name}_bytes`];
  if (encoded !== undefined) return each(encoded, fromBase64);
  if (sizes === undefined) return undefined;
  return each(sizes, (size) => {
    const end = at.raw + size;
    if (end > blob.length) throw new Error("the frame ends before its payload");
    const data = blob.subarray(at.raw, end);
    at.raw = end;
    return data;
  });
}

function takePayload(carrier, blob, at) {
  const isBase64 = "payload_base64" in carrier;
  const data = takeBytes(carrier, "payload", blob, at);
  const deltas = takeBytes(carrier, "deltas", blob, at);
  if (data !== undefined) {
    const mediaType = carrier.media_type;
    delete carrier.media_type;
    const opaque = isBase64 || mediaType !== undefined;
    carrier.payload = opaque ? new Opaque(data, mediaType, deltas) : JSON.parse(text.decode(data));
  }
  for (const name of ["append", "base"]) {
    const bytes = takeBytes(carrier, name, blob, at);
    if (bytes !== undefined) carrier[name] = bytes;
  }
}

/** Reads a frame: a string, or the bytes of a binary one. */
export function decode(frame) {
  let message;
  let blob = new Uint8Array(0);
  if (typeof frame === "string") {
    message = JSON.parse(frame);
  } else {
    const bytes = new Uint8Array(frame);
    const size = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
    message = JSON.parse(text.decode(bytes.subarray(4, 4 + size)));
    blob = bytes.subarray(4 + size);
  }
  const at = { raw: 0 };
  for (const carrier of carriers(message)) takePayload(carrier, blob, at);
  if (at.raw !== blob.length) throw new Error(`${blob.length - at.raw} bytes behind the last payload`);
  return message;
}

/** Writes a message as a text frame (`json`) or a binary frame (`binary`). */
export function encode(message, format) {
  const blobs = [];
  const wire = (carrier) => {
    if (carrier.payload === undefined) return carrier;
    const { payload, ...rest } = carrier;
    if (payload instanceof Opaque) {
      rest.media_type = payload.mediaType;
      if (format === "json") return { ...rest, payload_base64: toBase64(payload.data) };
      blobs.push(payload.data);
    } else {
      if (format === "json") return carrier;
      blobs.push(utf8.encode(JSON.stringify(payload)));
    }
    return { ...rest, payload_bytes: blobs.at(-1).length };
  };
  const head = wire(message);
  if (head.operations) head.operations = head.operations.map(wire);
  if (format === "json") return JSON.stringify(head);
  const json = utf8.encode(JSON.stringify(head));
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint32(0, json.length, true);
  return join([size, json, ...blobs]);
}

function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function fromBase64(base64) {
  if (globalThis.Buffer) return new Uint8Array(Buffer.from(base64, "base64"));
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

export function toBase64(bytes) {
  if (globalThis.Buffer) return Buffer.from(bytes).toString("base64");
  let binary = "";
  for (let i = 0; i < bytes.length; i += 8192) binary += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(binary);
}

// --- JSON patches ---

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Opaque);

// Keys come from other people: "__proto__" must be a key like any other.
const set = (object, key, value) =>
  Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);

/** RFC 7396. */
export function merge(target, change) {
  if (!isObject(change)) return change;
  const result = {};
  if (isObject(target)) for (const key of Object.keys(target)) set(result, key, target[key]);
  for (const key of Object.keys(change)) {
    if (change[key] === null) delete result[key];
    else set(result, key, merge(own(result, key), change[key]));
  }
  return result;
}

/** RFC 6902. Assumes that the server has accepted the patch, so that every path exists. */
export function patch(document, steps) {
  const pointer = (path) => path.split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  const lookUp = (path) => path.reduce((value, part) => own(value, part), root);
  const remove = (path) => {
    if (path.length === 0) return (root = null);
    const parent = lookUp(path.slice(0, -1));
    if (Array.isArray(parent)) parent.splice(Number(path.at(-1)), 1);
    else delete parent[path.at(-1)];
  };
  const put = (path, value, insert) => {
    if (path.length === 0) return (root = value);
    const parent = lookUp(path.slice(0, -1));
    const last = path.at(-1);
    if (!Array.isArray(parent)) set(parent, last, value);
    else if (last === "-") parent.push(value);
    else parent.splice(Number(last), insert ? 0 : 1, value);
  };
  let root = structuredClone(document);
  for (const step of steps) {
    const path = pointer(step.path);
    if (step.op === "remove") remove(path);
    else if (step.op === "add" || step.op === "replace") put(path, step.value, step.op === "add");
    else if (step.op === "move" || step.op === "copy") {
      const value = structuredClone(lookUp(pointer(step.from)));
      if (step.op === "move") remove(pointer(step.from));
      put(path, value, true);
    }
  }
  return root;
}

// --- the replica ---

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function byCodePoint(a, b) {
  const [left, right] = [Array.from(a), Array.from(b)];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = left[i].codePointAt(0) - right[i].codePointAt(0);
    if (difference) return difference;
  }
  return left.length - right.length;
}

/** A hash of what a payload means: the same in every language, however numbers and keys are written. */
export async function fingerprint(payload) {
  if (payload instanceof Opaque) {
    const layers = await Promise.all([payload.data, ...payload.deltas].map(sha256));
    return [payload.mediaType, ...layers].join(" ");
  }
  const parts = [];
  const write = (value) => {
    if (value === null) parts.push(utf8.encode("n"));
    else if (typeof value === "boolean") parts.push(utf8.encode(value ? "t" : "f"));
    else if (typeof value === "string") {
      const bytes = utf8.encode(value);
      parts.push(utf8.encode(`s${bytes.length}:`), bytes);
    } else if (typeof value === "number") {
      const bits = new Uint8Array(9);
      bits[0] = 0x64;
      new DataView(bits.buffer).setFloat64(1, value || 0);
      parts.push(bits);
    } else if (Array.isArray(value)) {
      parts.push(utf8.encode("["));
      value.forEach(write);
      parts.push(utf8.encode("]"));
    } else {
      parts.push(utf8.encode("{"));
      for (const key of Object.keys(value).sort(byCodePoint)) {
        write(key);
        write(value[key]);
      }
      parts.push(utf8.encode("}"));
    }
  };
  write(payload);
  return `json ${await sha256(join(parts))}`;
}

const NODE = { name: "", parent: null, order: null, dependencies: [], payload: null };
const TASK = { description: "", assignee: "", status: "todo", node: null };

/** The entries of `defaults`, with what `from` says about them. */
function pick(defaults, from) {
  return Object.fromEntries(Object.entries(defaults).map(([key, value]) => [key, from[key] === undefined ? value : from[key]]));
}

/** What the client believes the session to be. */
export class Replica {
  constructor() {
    this.clear();
  }

  clear() {
    this.seq = 0;
    this.nodes = new Map();
    this.tasks = new Map();
    this.members = new Map();
    this.settings = new Map();
    this.chat = [];
  }

  /** Takes one `state` message. */
  load(part) {
    // A state may also come later, to a reader who has fallen too far behind.
    if (part.first) this.clear();
    for (const node of part.nodes ?? []) this.nodes.set(node.id, { owner: null, ...NODE, ...node });
    for (const task of part.tasks ?? []) this.tasks.set(task.id, { ...TASK, ...task });
    for (const member of part.members ?? []) this.members.set(member.name, { metadata: {}, ...member });
    for (const { key, value } of part.settings ?? []) this.settings.set(key, value);
    for (const said of part.chat ?? []) this.chat.push(said);
    if (part.last) this.seq = part.seq;
  }

  /** Takes one `event` message. */
  apply(event) {
    const restored = event.changes.some((change) => change.do === "session.restore");
    if (event.seq !== this.seq + 1 && !restored) throw new Error(`event ${event.seq} after ${this.seq}: a gap`);
    this.seq = event.seq;
    for (const change of event.changes) {
      const handler = this[change.do];
      if (!handler) throw new Error(`unknown change ${change.do}`);
      handler.call(this, change, event);
    }
  }

  "node.put"(change, event) {
    const owner = this.nodes.get(change.id)?.owner ?? null;
    this.nodes.set(change.id, { id: change.id, kind: change.kind, ...pick(NODE, change), owner, revision: event.seq });
  }

  "node.patch"(change, event) {
    const node = this.nodes.get(change.id);
    Object.assign(node, change.set ?? {});
    if (change.merge !== undefined) node.payload = merge(node.payload, change.merge);
    else if (change.patch !== undefined) node.payload = patch(node.payload, change.patch);
    else if (change.append !== undefined) {
      const { data, mediaType, deltas } = node.payload;
      node.payload = new Opaque(data, mediaType, [...deltas, change.append]);
    } else if (change.payload !== undefined) node.payload = change.payload;
    node.revision = event.seq;
  }

  /** The payload means what it meant, so the revision stays. */
  "node.fold"(change) {
    const node = this.nodes.get(change.id);
    const { mediaType, deltas } = node.payload;
    if (deltas.length < change.deltas) throw new Error(`${change.deltas} deltas are folded, and there are ${deltas.length}`);
    node.payload = new Opaque(change.base, mediaType, deltas.slice(change.deltas));
  }

  "node.remove"(change) {
    for (const id of change.ids) this.nodes.delete(id);
  }

  "node.lock"(change) {
    this.nodes.get(change.id).owner = change.owner;
  }

  "node.unlock"(change) {
    for (const id of change.ids) this.nodes.get(id).owner = null;
  }

  "task.put"(change, event) {
    const old = this.tasks.get(change.id) ?? { author: event.author, created: event.at };
    const kept = { author: old.author, created: old.created, updated: event.at, revision: event.seq };
    this.tasks.set(change.id, { id: change.id, title: change.title, ...pick(TASK, change), ...kept });
  }

  "task.patch"(change, event) {
    Object.assign(this.tasks.get(change.id), change.set, { updated: event.at, revision: event.seq });
  }

  "task.remove"(change) {
    this.tasks.delete(change.id);
  }

  "chat.post"(change, event) {
    const said = { id: change.id, kind: change.kind ?? "text", text: change.text };
    this.chat.push({ ...said, author: event.author, at: event.at });
  }

  "member.join"(change) {
    const member = this.members.get(change.name) ?? { name: change.name, metadata: {} };
    this.members.set(change.name, { ...member, role: change.role, online: true });
  }

  "member.leave"(change) {
    this.members.get(change.name).online = false;
  }

  "member.set"(change, event) {
    const member = this.members.get(event.author);
    member.metadata = merge(member.metadata, change.metadata);
  }

  "session.set"(change) {
    if (change.value === null) this.settings.delete(change.key);
    else this.settings.set(change.key, change.value);
  }

  "session.restore"() {
    for (const node of this.nodes.values()) node.owner = null;
    for (const member of this.members.values()) member.online = false;
  }

  "session.clear"() {
    this.nodes.clear();
    this.tasks.clear();
    this.chat.length = 0;
    this.settings.clear();
  }

  /** The whole state in a form that is equal for equal states; payloads as fingerprints. */
  async dump() {
    const sorted = (map) => [...map.keys()].sort(byCodePoint).map((key) => map.get(key));
    const nodes = [];
    for (const { id, kind, name, parent, dependencies, owner, revision, order, payload } of sorted(this.nodes)) {
      const place = order === null ? null : await fingerprint(order);
      nodes.push({ id, kind, name, parent, dependencies, owner, revision, order: place, payload: await fingerprint(payload) });
    }
    const tasks = sorted(this.tasks).map(({ id, title, author, created, updated, revision, ...rest }) => {
      return { id, title, author, created, updated, revision, ...pick(TASK, rest) };
    });
    const chat = this.chat.map(({ id, kind, text, author, at }) => ({ id, kind, text, author, at }));
    const members = [];
    for (const { name, role, online, metadata } of sorted(this.members)) {
      members.push({ name, role: online ? role : null, online, metadata: await fingerprint(metadata) });
    }
    const settings = [];
    for (const key of [...this.settings.keys()].sort(byCodePoint)) {
      settings.push({ key, value: await fingerprint(this.settings.get(key)) });
    }
    return { seq: this.seq, nodes, tasks, chat, members, settings };
  }
}

// --- the connection ---

/** One client program: survives lost connections as long as the object lives. */
export class Client {
  constructor(WebSocketClass, { url, name, format = "json", password, token, role, firstOp = 1 }) {
    Object.assign(this, { WebSocketClass, url, name, format, password, token, role, nextOp: firstOp });
    this.replica = new Replica();
    this.pending = new Map(); // op -> { frame, settle }
    this.presence = {};
    this.errors = [];
    this.saved = [];
    this.statesTaken = 0;
    this.resumes = 0;
    this.connected = false;
    this.waiting = [];
    this.onEvent = this.onAnswer = () => {};
  }

  /** Connects, joins, and resolves when the replica is whole. Unanswered operations are sent again. */
  connect({ resume = true, timeoutMs = 30000 } = {}) {
    const socket = new this.WebSocketClass(this.url, [SUBPROTOCOLS[this.format]]);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    return new Promise((resolve, reject) => {
      const fail = (why) => {
        clearTimeout(timer);
        this.connected = false;
        reject(new Error(why));
        this.wake();
      };
      const timer = setTimeout(() => {
        this.drop();
        fail(`no whole state within ${timeoutMs} ms`);
      }, timeoutMs);
      this.whenWhole = () => {
        clearTimeout(timer);
        this.connected = true;
        for (const { frame } of this.pending.values()) socket.send(frame);
        resolve(this);
      };
      socket.onopen = () => {
        const hello = { type: "hello", name: this.name };
        for (const key of ["password", "token", "role", "client"]) {
          if (this[key] !== undefined) hello[key] = this[key];
        }
        if (resume && this.run && this.replica.seq) {
          hello.resume = { branch: this.branch, run: this.run, seq: this.replica.seq, op: this.nextOp - 1 };
        }
        socket.send(encode(hello, this.format));
      };
      socket.onmessage = ({ data }) => {
        if (socket !== this.socket) return;
        try {
          this.take(decode(data));
        } catch (error) {
          this.fault = error;
          socket.close();
          fail(`${error.stack}`);
        }
        this.wake();
      };
      socket.onerror = () => {};
      socket.onclose = ({ code, reason }) => {
        if (socket !== this.socket) return;
        this.closed = { code, reason };
        fail(`closed with ${code} ${reason} ${JSON.stringify(this.errors)}`);
      };
    });
  }

  take(message) {
    switch (message.type) {
      case "event":
        this.replica.apply(message);
        this.onEvent(message);
        return this.settle();
      case "ack":
      case "reject": {
        const waiting = this.pending.get(message.op);
        this.pending.delete(message.op);
        this.onAnswer(message);
        return waiting?.settle(message);
      }
      case "welcome":
        this.welcome = message;
        this.resumed = message.resumed;
        Object.assign(this, { client: message.client, branch: message.branch, run: message.run });
        if (message.resumed) this.resumes++;
        else this.replica.clear();
        return this.settle();
      case "state":
        this.replica.load(message);
        if (message.last) this.statesTaken++;
        return this.settle();
      case "presence":
        this.presence[message.name] = message.data;
        return;
      case "error":
        return this.errors.push(message);
      case "saved":
        return this.saved.push(message);
      case "health":
      case "pong":
      case "closing":
        return;
      default:
        throw new Error(`unknown message ${message.type}`);
    }
  }

  /** The replica is current once it has reached what the welcome announced. */
  settle() {
    if (this.replica.seq && this.replica.seq >= this.welcome.seq) {
      this.whenWhole?.();
      this.whenWhole = undefined;
    }
  }

  send(message) {
    this.socket.send(encode(message, this.format));
  }

  /** Sends an operation or a batch. `answer` resolves with `ack` or `reject`, also across a reconnect. */
  start(message) {
    const op = this.nextOp++;
    const frame = encode({ ...message, op }, this.format);
    const answer = new Promise((settle) => this.pending.set(op, { frame, settle }));
    if (this.connected) this.socket.send(frame);
    return { op, answer };
  }

  op(operation) {
    return this.start({ type: "op", ...operation }).answer;
  }

  batch(operations) {
    return this.start({ type: "batch", operations }).answer;
  }

  wake() {
    for (const waiter of this.waiting.splice(0)) waiter();
  }

  /** Resolves when the replica has taken in `seq`. */
  async reach(seq, timeoutMs = 30000) {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.wake();
    }, timeoutMs);
    while (this.replica.seq < seq) {
      if (late || !this.connected) throw new Error(`at ${this.replica.seq}, before ${seq}: ${this.fault ?? this.closed?.code ?? "late"}`);
      await new Promise((resolve) => this.waiting.push(resolve));
    }
    clearTimeout(timer);
  }

  /** Loses the connection without a word where the platform allows it, else by closing it. */
  drop() {
    this.connected = false;
    const socket = this.socket;
    this.socket = undefined;
    if (socket?.terminate) socket.terminate();
    else socket?.close();
  }

  /** Leaves. */
  async close() {
    const { socket } = this;
    if (!socket || socket.readyState === 3) return;
    await new Promise((resolve) => {
      socket.onclose = resolve;
      socket.close(1000);
    });
    this.connected = false;
  }
}

/** A Client that is told what to do by commands, so that a driver in another process can use it. */
export class Agent {
  constructor(WebSocketClass) {
    this.WebSocketClass = WebSocketClass;
  }

  async handle({ command, ...rest }) {
    const { client } = this;
    switch (command) {
      case "new":
        this.client = new Client(this.WebSocketClass, rest);
        return this.client.connect().then(() => this.about());
      case "connect":
        return client.connect(rest).then(() => this.about());
      case "op":
        return client.op(revive(rest.operation));
      case "batch":
        return client.batch(rest.operations.map(revive));
      case "send":
        return client.send(rest.message);
      case "reach":
        return client.reach(rest.seq).then(() => client.replica.seq);
      case "dump":
        return client.replica.dump();
      case "about":
        return this.about();
      case "drop":
        return client.drop();
      case "close":
        return client.close();
      default:
        throw new Error(`unknown command ${command}`);
    }
  }

  about() {
    const { welcome, resumed, connected, presence, errors, saved, statesTaken, closed, replica, pending } = this.client;
    return { welcome, resumed, connected, presence, errors, saved, statesTaken, closed, seq: replica.seq, pending: pending.size };
  }
}

/** Commands are JSON, so opaque payloads arrive as `opaque_base64`. */
function revive({ opaque_base64: base64, media_type: mediaType, ...operation }) {
  if (base64 !== undefined) operation.payload = new Opaque(fromBase64(base64), mediaType);
  return operation;
}
