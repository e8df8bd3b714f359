// Buffers, strings, JSON, compression and worker threads; prints digests of what comes out.
'use strict';
const crypto = require('crypto');
const zlib = require('zlib');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

let state = 20;
const random = (n) => (state = (state * 48271) % 2147483647) % n;
const digest = (data) => crypto.createHash('sha256').update(data).digest('hex');

function document(depth) {
  if (depth === 0) return random(2) ? random(1e9) : 'text '.repeat(random(6)) + random(1e6);
  if (random(2)) return Array.from({ length: random(6) + 1 }, () => document(depth - 1));
  return Object.fromEntries(Array.from({ length: random(6) + 1 }, () => ['key' + random(500), document(depth - 1)]));
}

// Buffers outside of V8's heap come from malloc: many sizes, kept and dropped in turn.
function buffers(rounds) {
  const kept = [];
  let sum = 0;
  for (let round = 0; round < rounds; round++) {
    const buffer = Buffer.alloc(random(random(20) ? 20_000 : 3_000_000) + 1, round & 255);
    kept[random(200)] = buffer;
    sum = (sum + buffer[buffer.length >> 1] + buffer.length) % 1_000_000_007;
  }
  return digest(Buffer.concat(kept.filter(Boolean))) + ' ' + sum;
}

function compress(text) {
  const packed = [zlib.deflateSync(text), zlib.gzipSync(text, { level: 9 }), zlib.brotliCompressSync(text, {
    params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 5 } })];
  const unpacked = [zlib.inflateSync(packed[0]), zlib.gunzipSync(packed[1]), zlib.brotliDecompressSync(packed[2])];
  if (unpacked.some((u) => u.toString() !== text)) throw new Error('compressed and lost');
  return digest(text);
}

async function main() {
  const text = JSON.stringify(Array.from({ length: 200 }, () => document(6)));
  console.log('json', text.length, digest(text), JSON.stringify(JSON.parse(text)) === text);
  console.log('buffers', buffers(3000));
  console.log('compressed', compress(text.slice(0, 400_000)));
  // The thread pool: its threads free what the main thread allocated.
  const keys = await Promise.all(Array.from({ length: 16 }, (_, i) => new Promise((resolve, reject) =>
    crypto.scrypt('password', 'salt' + i, 32, { N: 1024 }, (e, key) => (e ? reject(e) : resolve(key.toString('hex')))))));
  const packed = await Promise.all(keys.map((key) => new Promise((resolve, reject) =>
    zlib.deflate(key.repeat(5000), (e, out) => (e ? reject(e) : resolve(digest(out)))))));
  console.log('pool', digest(packed.join()));
  // Workers: an isolate each; buffers are moved to them and back.
  const answers = await Promise.all(Array.from({ length: 6 }, (_, id) => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: { id, seed: 100 + id } });
    const moved = new Uint8Array(1_000_000).fill(id + 1);
    worker.on('message', (m) => resolve(`${m.text} ${digest(m.moved)}`));
    worker.on('error', reject);
    worker.postMessage(moved, [moved.buffer]);
  })));
  answers.forEach((answer, id) => console.log('worker', id, answer));
}

if (isMainThread) {
  main();
} else {
  parentPort.once('message', (moved) => {
    state = workerData.seed;
    for (let i = 0; i < moved.length; i += 3) moved[i] ^= i & 255;
    const text = JSON.stringify(Array.from({ length: 40 }, () => document(5)));
    parentPort.postMessage({ text: `${text.length} ${digest(text)} ${buffers(600)}`, moved }, [moved.buffer]);
  });
}
