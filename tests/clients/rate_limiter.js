// rate-limiter-flexible over ioredis, on the server at PORT.
const assert = require('node:assert');
const Redis = require('ioredis');
const { RateLimiterRedis } = require('rate-limiter-flexible');

(async () => {
  const storeClient = new Redis({ port: Number(process.env.PORT), enableOfflineQueue: true });
  await storeClient.flushall();
  const limiter = new RateLimiterRedis({ storeClient, points: 3, duration: 600, keyPrefix: 'limit' });
  for (const remaining of [2, 1, 0]) {
    const passed = await limiter.consume('someone');
    assert.equal(passed.remainingPoints, remaining);
  }
  await assert.rejects(limiter.consume('someone'), (refused) => refused.msBeforeNext > 0);
  assert.equal((await limiter.consume('another')).remainingPoints, 2);
  await limiter.reward('someone', 2);
  await limiter.delete('someone');
  assert.equal((await limiter.consume('someone')).consumedPoints, 1);
  // A script of one's own, by its hash.
  storeClient.defineCommand('add', {
    numberOfKeys: 1,
    lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
  });
  assert.equal(await storeClient.add('n', 40), 40);
  assert.equal(await storeClient.add('n', 2), 42);
  await storeClient.quit();
  console.log('rate-limiter-flexible ok');
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
