// A Node.js HTTP server on the socket that it is handed, or on PORT.
const fs = require('fs');
const server = require('http').createServer((_, answer) => {
  answer.setHeader('content-length', 2);
  answer.end('ok');
});
const where = process.env.LISTEN_FDS ? {fd: 3} : {port: Number(process.env.PORT), host: '127.0.0.1'};
server.listen(where, () => {
  console.log('listening');
  if (process.send) process.send('ready');
});
const stop = () => {
  if (process.env.STOPPED) fs.appendFileSync(process.env.STOPPED, `${process.hrtime.bigint()}\n`);
  server.close(() => process.exit(0));
  setInterval(() => server.closeIdleConnections(), 5);
};
process.on('SIGTERM', stop);
process.on('SIGINT', stop);     // pm2's
