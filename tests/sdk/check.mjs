// Calls of the official TypeScript clients against the simulator: `check.mjs together|openai BASE_URL`.
//
// Prints a line a call and fails at the first that is not as it should be. Run it where the clients are installed: they
// are found through NODE_PATH.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import zlib from 'node:zlib';

const [name, url] = process.argv.slice(2);
const require = createRequire(path.join(process.env.TOGETHER_SDK_DIR, 'node', 'package.json'));
const sdk = require(name === 'together' ? 'together-ai' : 'openai');
const Client = sdk.default ?? sdk;

const CHAT = 'zai-org/GLM-5.3';
const VISION = 'moonshotai/Kimi-K3';
const EMBED = 'intfloat/multilingual-e5-large-instruct';
const FLUX = 'black-forest-labs/FLUX.1-schnell';
const RERANK = 'mixedbread-ai/Mxbai-Rerank-Large-V2';
const GUARD = 'meta-llama/Llama-Guard-4-12B';
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const WEATHER = { type: 'function', function: { name: 'get_weather', description: 'The weather now', parameters } };
const CITY = {
  type: 'object',
  properties: { name: { type: 'string' }, inhabitants: { type: 'integer' } },
  required: ['name', 'inhabitants'],
  additionalProperties: false,
};

const ok = (call, note = '') => console.log(`ok ${name.padEnd(8)} ${call.padEnd(24)} ${note}`);
const ask = (content = 'Why is the sky blue?') => [{ role: 'user', content }];
const client = new Client({ apiKey: 'secret', baseURL: url, maxRetries: 0 });
const create = (body, options) => client.chat.completions.create({ model: CHAT, ...body }, options);

function png(width, height, rgb) {
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const ends = Buffer.alloc(8);
    ends.writeUInt32BE(data.length, 0);
    ends.writeUInt32BE(zlib.crc32 ? zlib.crc32(body) : crc32(body), 4);
    return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
  };
  const row = Buffer.concat([Buffer.from([0]), ...Array.from({ length: width }, () => Buffer.from(rgb))]);
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const rows = zlib.deflateSync(Buffer.concat(Array.from({ length: height }, () => row)));
  const magic = Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]);
  return Buffer.concat([magic, chunk('IHDR', head), chunk('IDAT', rows), chunk('IEND', Buffer.alloc(0))]);
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

async function chat() {
  const plain = await create({ messages: ask('the refund'), seed: 7, temperature: 0.5 });
  assert.equal(plain.choices[0].message.content, '5 days');
  assert.equal(plain.usage.total_tokens, plain.usage.prompt_tokens + plain.usage.completion_tokens);
  ok('chat', `${plain.usage.total_tokens} tokens`);

  const several = await create({ messages: ask(), n: 3, max_tokens: 4, stop: ['zzz'] });
  assert.deepEqual(several.choices.map((choice) => [choice.index, choice.finish_reason]),
    [[0, 'length'], [1, 'length'], [2, 'length']]);
  ok('chat.n', '3 answers, cut at 4 tokens');

  let [text, chunks, finish, usage] = ['', 0, null, null];
  const stream = await create({ messages: ask('the refund'), stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    chunks += 1;
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? '';
      finish = choice.finish_reason ?? finish;
    }
  }
  assert.deepEqual([text, finish, usage.completion_tokens > 0], ['5 days', 'stop', true]);
  ok('chat.stream', `${chunks} chunks`);

  const called = await create({ messages: ask('get_weather in Lima'), tools: [WEATHER] });
  const call = called.choices[0].message.tool_calls[0];
  assert.equal(call.function.name, 'get_weather');
  assert.ok('city' in JSON.parse(call.function.arguments));
  const turns = [called.choices[0].message, { role: 'tool', tool_call_id: call.id, content: '18 degrees' }];
  const after = await create({ messages: [...ask('get_weather'), ...turns], tools: [WEATHER] });
  assert.match(after.choices[0].message.content, /18 degrees/);
  ok('chat.tools', 'a call and its result');

  const choice = { type: 'function', function: { name: 'get_weather' } };
  const forced = await create({ messages: ask('hello'), tools: [WEATHER], tool_choice: choice });
  assert.equal(forced.choices[0].message.tool_calls.length, 1);
  ok('chat.tool_choice');

  let args = '';
  for await (const chunk of await create({ messages: ask('get_weather in Lima'), tools: [WEATHER], stream: true })) {
    for (const piece of chunk.choices[0]?.delta.tool_calls ?? []) args += piece.function?.arguments ?? '';
  }
  assert.ok('city' in JSON.parse(args));
  ok('chat.tools.stream');

  const form = { type: 'json_schema', json_schema: { name: 'city', schema: CITY, strict: true } };
  const answer = await create({ messages: ask('A city'), response_format: form });
  const value = JSON.parse(answer.choices[0].message.content);
  assert.ok(Number.isInteger(value.inhabitants) && typeof value.name === 'string');
  ok('chat.json_schema', JSON.stringify(value).slice(0, 40));

  const { logprobs } = (await create({ messages: ask('the refund'), logprobs: 2 })).choices[0];
  assert.ok(logprobs.tokens.length > 0 && logprobs.tokens.length === logprobs.token_logprobs.length);
  ok('chat.logprobs', `${logprobs.tokens.length} tokens`);

  const picture = `data:image/png;base64,${png(40, 30, [205, 50, 45]).toString('base64')}`;
  const content = [{ type: 'text', text: 'What is it?' }, { type: 'image_url', image_url: { url: picture } }];
  const seen = await create({ model: VISION, messages: [{ role: 'user', content }] });
  assert.match(seen.choices[0].message.content, /40x30.*red/);
  ok('chat.vision', seen.choices[0].message.content);

  const thought = (await create({ messages: ask(), reasoning: { enabled: true } })).choices[0].message;
  assert.ok(thought.reasoning && thought.content);
  ok('chat.reasoning', `${thought.reasoning.length} characters`);

  const verdict = await create({ model: GUARD, messages: ask('How to build a bomb?') });
  assert.equal(verdict.choices[0].message.content, 'unsafe\nS9');
  ok('chat.moderation', 'unsafe S9');
}

async function others() {
  const plain = await client.completions.create({ model: CHAT, prompt: 'Once upon', max_tokens: 64 });
  assert.equal(plain.choices[0].text, ' a time.');
  ok('completions', JSON.stringify(plain.choices[0].text));
  let [text, chunks] = ['', 0];
  const stream = await client.completions.create({ model: CHAT, prompt: 'Once upon', max_tokens: 64, stream: true });
  for await (const chunk of stream) {
    chunks += 1;
    text += chunk.choices.map((choice) => choice.text ?? '').join('');
  }
  assert.equal(text, ' a time.');
  ok('completions.stream', `${chunks} chunks`);

  // OpenAI's client asks for base64 unless told otherwise and then decodes whatever comes; the API sends numbers.
  const format = name === 'openai' ? { encoding_format: 'float' } : {};
  const { data } = await client.embeddings.create({ model: EMBED, input: ['the sky', 'the sea', 'the sky'], ...format });
  assert.equal(data[0].embedding.length, 1024);
  assert.deepEqual(data[0].embedding, data[2].embedding);
  assert.notDeepEqual(data[0].embedding, data[1].embedding);
  ok('embeddings', '3 x 1024');

  const size = name === 'together' ? { width: 64, height: 48 } : { size: '64x48' };
  const form = name === 'together' ? 'base64' : 'b64_json';
  const made = await client.images.generate({ model: FLUX, prompt: 'a red sky', n: 2, response_format: form, ...size });
  const files = made.data.map((row) => Buffer.from(row.b64_json, 'base64'));
  assert.ok(files.length === 2 && files.every((file) => file[0] === 0xff && file[1] === 0xd8));
  ok('images', `${files.length} JPEG, ${files[0].length} bytes`);
  const linked = await client.images.generate({ model: FLUX, prompt: 'a red sky', response_format: 'url', ...size });
  assert.equal((await fetch(linked.data[0].url)).headers.get('content-type'), 'image/jpeg');
  ok('images.url', 'fetched');

  const listed = await client.get('/models');
  assert.ok(listed.some((row) => row.id === CHAT && row.pricing.input === 1.4));
  ok('models', `${listed.length} models`);
  if (name === 'together') {
    const documents = ['Bread is baked.', 'Llamas live in Peru.'];
    const query = 'Where do llamas live?';
    const { results } = await client.rerank.create({ model: RERANK, query, documents, top_n: 1 });
    assert.equal(results[0].index, 1);
    ok('rerank', results[0].relevance_score.toFixed(2));
    const me = await client.whoami();
    assert.equal(me.project_slug, 'simulated');
    ok('whoami', me.project_slug);
  }
}

async function fails(error, what, status, promise) {
  await assert.rejects(promise, (caught) => {
    assert.ok(caught instanceof error, `${what}: ${caught}`);
    assert.equal(caught.status, status, what);
    ok(`error.${what}`, `${caught.constructor.name} ${status}`);
    return true;
  });
}

async function errors() {
  const wrong = new Client({ apiKey: 'wrong', baseURL: url, maxRetries: 0 });
  await fails(sdk.AuthenticationError, 'key', 401, wrong.chat.completions.create({ model: CHAT, messages: ask() }));
  await fails(sdk.NotFoundError, 'model', 404, create({ model: 'acme/none', messages: ask() }));
  await fails(sdk.BadRequestError, 'temperature', 400, create({ messages: ask(), temperature: 7 }));
  await fails(sdk.BadRequestError, 'messages', 400, create({ messages: [] }));
  await fails(sdk.BadRequestError, 'model_not_available', 400, create({ model: 'acme/dedicated', messages: ask() }));
  await fails(sdk.PermissionDeniedError, 'context', 403, create({ model: `${EMBED}-chat`, messages: ask('x '.repeat(900)) }));
  await fails(sdk.RateLimitError, 'rate', 429, create({ messages: ask('limit me') }));
  await fails(sdk.InternalServerError, 'overloaded', 503, create({ messages: ask('overload me') }));
  const again = await create({ messages: ask('fail once') }, { maxRetries: 2 });
  assert.equal(again.choices[0].message.content, 'back');
  ok('retry', '503, then an answer');
  await assert.rejects(async () => {
    for await (const _ of await create({ messages: ask('break off'), stream: true }));
  }, sdk.APIError);
  ok('error.midstream');
}

await chat();
await others();
await errors();
