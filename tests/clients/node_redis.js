// node-redis against the server at PORT: both protocols, MULTI, WATCH, SCAN, expiry.
const assert = require('node:assert');
const { createClient } = require('redis');

const url = `redis://127.0.0.1:${process.env.PORT}/7`;

async function story(options) {
  const client = createClient({ url, name: 'story', ...options });
  client.on('error', (error) => { throw error; });
  await client.connect();
  await client.flushDb();
  assert.equal(await client.ping(), 'PONG');
  assert.equal(await client.set('k', 'v'), 'OK');
  assert.equal(await client.get('k'), 'v');
  assert.equal(await client.get('absent'), null);
  assert.equal(await client.set('k', 'w', { NX: true }), null);
  assert.equal(await client.set('t', 'v', { EX: 100 }), 'OK');
  assert.ok((await client.ttl('t')) > 90);
  assert.equal(await client.expire('k', 100), 1);
  assert.equal(await client.incr('n'), 1);
  assert.deepEqual(await client.mGet(['k', 'absent', 'n']), ['v', null, '1']);
  // Many at once go as one pipeline.
  const many = await Promise.all(Array.from({ length: 500 }, (_, i) => client.set(`user:${i}`, `${i}`)));
  assert.ok(many.every((reply) => reply === 'OK'));
  const replies = await client.multi().set('m', '1').incr('m').get('m').exec();
  assert.deepEqual(replies, ['OK', 2, '2']);

  const found = new Set();
  for await (const page of client.scanIterator({ MATCH: 'user:*', COUNT: 50 })) {
    for (const key of [page].flat()) found.add(key);
  }
  assert.equal(found.size, 500);

  const other = client.duplicate();
  await other.connect();
  await client.watch('m');
  await other.set('m', 'changed');
  await assert.rejects(client.multi().set('m', 'lost').exec(), /watch/i);
  assert.equal(await client.get('m'), 'changed');
  await other.close();
  await assert.rejects(client.incr('k'), /not an integer/);
  await client.close();
}

(async () => {
  await story({ RESP: 2 });
  await story({ RESP: 3 });
  await story({});
  console.log('node-redis', require('redis/package.json').version, 'ok');
})().catch((error) => { console.error(error); process.exit(1); });
