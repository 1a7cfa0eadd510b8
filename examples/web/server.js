// The web server: a page on PORT_WEB that shows what the backend says. Only Node's own modules.
'use strict';
const http = require('node:http');

const port = Number(process.env.PORT_WEB || 3000);
const backend = `http://127.0.0.1:${process.env.PORT_BACKEND || 8000}`;
const level = (process.env.LOG_LEVEL || 'INFO').toUpperCase();

const page = (price) => `<!doctype html><title>unisys demo</title>
<h1>It runs</h1><p>The backend says that ${price.symbol} is at ${price.price}.</p>
<p>Kill a process, edit <code>.env</code> or a manifest, and watch the terminal.</p>`;

const server = http.createServer(async (request, response) => {
  if (level === 'DEBUG') console.log(`DEBUG ${request.method} ${request.url}`);
  if (request.url === '/health') {
    response.writeHead(200, { 'content-type': 'application/json' });
    return response.end(JSON.stringify({ status: 'ok', uptime: process.uptime() }));
  }
  try {
    const answer = await fetch(`${backend}/price`, { signal: AbortSignal.timeout(2000) });
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' });
    response.end(page(await answer.json()));
  } catch (error) {
    response.writeHead(502, { 'content-type': 'text/plain' });
    response.end(`the backend does not answer: ${error.message}\n`);
  }
});

server.listen(port, '127.0.0.1', () => console.log(`INFO web listens on ${port}`));
process.on('SIGTERM', () => {
  console.log('INFO web stops');
  server.close(() => process.exit(0));
  server.closeAllConnections();
});
