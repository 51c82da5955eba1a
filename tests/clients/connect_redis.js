// Sessions of express kept by connect-redis on the server at PORT, over two requests with a cookie.
const assert = require('node:assert');
const express = require('express');
const session = require('express-session');
const { RedisStore } = require('connect-redis');
const { createClient } = require('redis');

(async () => {
  const client = createClient({ url: `redis://127.0.0.1:${process.env.PORT}/9` });
  await client.connect();
  await client.flushDb();
  const store = new RedisStore({ client, prefix: 'sess:', ttl: 100 });
  const app = express();
  app.use(session({ store, secret: 'of a test', resave: false, saveUninitialized: false }));
  app.get('/count', (request, response) => {
    request.session.count = (request.session.count || 0) + 1;
    response.send(String(request.session.count));
  });
  app.get('/leave', (request, response) => request.session.destroy(() => response.send('gone')));
  const server = app.listen(0, '127.0.0.1');
  await new Promise((resolve) => { server.once('listening', resolve); });
  const at = `http://127.0.0.1:${server.address().port}`;

  const first = await fetch(`${at}/count`);
  assert.equal(await first.text(), '1');
  const headers = { cookie: first.headers.get('set-cookie').split(';')[0] };
  assert.equal(await (await fetch(`${at}/count`, { headers })).text(), '2');
  assert.equal(await (await fetch(`${at}/count`)).text(), '1');

  const call = (name, ...given) => new Promise((resolve, reject) => {
    store[name](...given, (error, value) => (error ? reject(error) : resolve(value)));
  });
  assert.equal(await call('length'), 2);
  assert.equal((await call('ids')).length, 2);
  assert.equal((await call('all')).length, 2);
  const [key] = await client.keys('sess:*');
  assert.ok((await client.ttl(key)) > 90);
  assert.equal(await (await fetch(`${at}/leave`, { headers })).text(), 'gone');
  assert.equal(await call('length'), 1);
  await call('clear');
  assert.equal(await call('length'), 0);

  server.close();
  server.closeAllConnections();
  await client.close();
  console.log('connect-redis ok');
})().catch((error) => { console.error(error); process.exit(1); });
