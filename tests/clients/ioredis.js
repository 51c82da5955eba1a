// ioredis against the server at PORT: ready check, pipelines, MULTI, prefixes. With RECONNECT it
// prints `ready`, waits for a line, in which time the server is restarted, and goes on.
const assert = require('node:assert');
const Redis = require('ioredis');

const options = { host: '127.0.0.1', port: Number(process.env.PORT), db: 8 };

async function story() {
  const redis = new Redis({ ...options, keyPrefix: 'pre:', connectionName: 'story' });
  await new Promise((resolve, reject) => { redis.once('ready', resolve); redis.once('error', reject); });
  await redis.flushdb();
  assert.equal(await redis.set('k', 'v'), 'OK');
  assert.equal(await redis.get('k'), 'v');
  assert.equal(await redis.set('k', 'w', 'EX', 100, 'NX'), null);
  assert.deepEqual(await redis.keys('*'), ['pre:k']);
  const piped = await redis.pipeline().set('a', 1).incr('a').get('a').incr('k').exec();
  assert.deepEqual(piped.slice(0, 3), [[null, 'OK'], [null, 2], [null, '2']]);
  assert.match(piped[3][0].message, /not an integer/);
  assert.deepEqual(await redis.multi().set('m', 1).incr('m').exec(), [[null, 'OK'], [null, 2]]);
  assert.deepEqual(await redis.mget('a', 'absent', 'm'), ['2', null, '2']);
  assert.ok(Buffer.from([0, 255]).equals((await redis.set('b', Buffer.from([0, 255])), await redis.getBuffer('b'))));
  let found = 0;
  for await (const page of redis.scanStream({ match: 'pre:*', count: 2 })) found += page.length;
  assert.ok(found >= 4);
  const auto = new Redis({ ...options, enableAutoPipelining: true });
  await Promise.all(Array.from({ length: 200 }, (_, i) => auto.set(`auto:${i}`, i)));
  assert.equal(await auto.get('auto:199'), '199');
  const listener = new Redis(options);
  const heard = [];
  listener.on('message', (channel, message) => heard.push([channel, message]));
  listener.on('pmessage', (pattern, channel, message) => heard.push([pattern, channel, message]));
  assert.equal(await listener.subscribe('news', 'sport'), 2);
  assert.equal(await listener.psubscribe('n*'), 3);
  assert.equal(await auto.publish('news', 'hello'), 2);
  while (heard.length < 2) await new Promise((resolve) => { setTimeout(resolve, 5); });
  assert.deepEqual(heard, [['news', 'hello'], ['n*', 'news', 'hello']]);
  assert.equal(await listener.unsubscribe('news', 'sport'), 1);
  assert.equal(await listener.punsubscribe(), 0);
  assert.equal(await listener.get('auto:0'), '0', 'a connection like any other');
  await listener.quit();
  await auto.quit();
  await redis.quit();
}

async function reconnect() {
  const redis = new Redis({ ...options, retryStrategy: () => 50, maxRetriesPerRequest: null });
  redis.on('error', () => {});
  await redis.set('before', 'kept');
  console.log('ready');
  await new Promise((resolve) => { process.stdin.once('data', resolve); });
  assert.equal(await redis.get('before'), 'kept');
  assert.equal(await redis.set('after', 'v'), 'OK');
  await redis.quit();
  process.stdin.destroy();
}

(process.env.RECONNECT ? reconnect() : story()).then(
  () => console.log('ioredis', require('ioredis/package.json').version, 'ok'),
  (error) => { console.error(error); process.exit(1); },
);
