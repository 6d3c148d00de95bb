// Loaded before Omniboard 2.16.1 (`node --require`), which as shipped listens on every interface, lets any web page
// read and delete runs, ends at a malformed file id, and never comes back after its database was away for a minute.
// Environment: OMNI_LISTEN, another address to listen on, inside a container.
'use strict';
const http = require('http');
const net = require('net');

const LOOPBACK = '127.0.0.1';
const hosts = new Set(['localhost', LOOPBACK]);
const listenHost = process.env.OMNI_LISTEN || LOOPBACK;
const ANSWER_MILLISECONDS = 60000;

// Listen on loopback alone, and on the port asked for or not at all.
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  const isPort = /^\d+$/.test(String(port));
  if (isPort && Number(port) !== Number(process.env.PORT)) {
    console.error(`port ${process.env.PORT} is taken`);
    process.exit(1);
  }
  return listen.call(this, port, ...(isPort ? [listenHost] : []), ...rest);
};

// End with the process that started it, however that one ended.
const parent = process.ppid;
setInterval(() => process.ppid === parent || process.exit(0), 1000).unref();

// No cross-origin permission, no product name.
const setHeader = http.ServerResponse.prototype.setHeader;
http.ServerResponse.prototype.setHeader = function (name, value) {
  return /^(access-control-|x-powered-by)/i.test(name) ? this : setHeader.call(this, name, value);
};

function refusal(request) {
  const host = String(request.headers.host || '');
  let name = '';
  try {
    name = new URL(`http://${host}`).hostname;
  } catch {
    return [400, 'bad host'];
  }
  if (!hosts.has(name)) return [403, 'unknown host'];
  const origin = request.headers.origin;
  if (origin && origin.replace(/^https?:\/\//, '') !== host) return [403, 'foreign origin'];
  if (!/^(GET|HEAD|OPTIONS)$/.test(request.method)) return [403, 'for reading alone'];
  let address = '';
  try {
    address = decodeURIComponent(request.url);
  } catch {
    return [400, 'bad address'];
  }
  // Queries are JSON, which may write any character as an escape.
  const plain = address.replace(/\\u([0-9a-f]{4})/gi, (_, code) => String.fromCharCode(parseInt(code, 16)));
  if (/\$(where|function|accumulator)/.test(plain)) return [400, 'no code in queries'];
  const file = /\/files\/(?:download|preview|downloadAll)?\/?([^/?]+)/.exec(request.url);
  if (file && /\/files\/(download|preview)\//.test(request.url) && !/^[0-9a-f]{24}$/i.test(file[1])) return [404, 'no such file'];
  return null;
}

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, response) {
  if (event === 'request') {
    const refused = refusal(request);
    if (refused) {
      response.statusCode = refused[0];
      response.end(refused[1]);
      return true;
    }
    response.setHeader('X-Frame-Options', 'DENY');
    response.setHeader('X-Content-Type-Options', 'nosniff');
    response.setTimeout(ANSWER_MILLISECONDS, () => response.destroy()); // an unknown file id is never answered
  }
  return emit.apply(this, arguments);
};
for (const event of ['uncaughtException', 'unhandledRejection']) {
  process.on(event, (error) => console.error(`${event}:`, error && error.message));
}

// Reconnect for ever.
const mongoose = require('mongoose');
const createConnection = mongoose.createConnection;
mongoose.createConnection = function (uri, options = {}) {
  const { auto_reconnect, reconnectTries, reconnectInterval, bufferMaxEntries, ...rest } = options;
  return createConnection.call(mongoose, uri, { ...rest, useUnifiedTopology: true, serverSelectionTimeoutMS: 5000 });
};

// Metric columns join `metrics` by an expression that no index serves: 25 s for 50 runs. Join by _id instead.
const exec = mongoose.Aggregate.prototype.exec;
mongoose.Aggregate.prototype.exec = function (...rest) {
  const stages = this._pipeline || [];
  const at = stages.findIndex((stage) => stage.$lookup && stage.$lookup.from === 'metrics' && (stage.$lookup.let || {}).metric_id);
  if (at > 0) {
    const names = stages[at].$lookup.pipeline[0].$match.$expr.$and[1].$in[1];
    const unwind = stages.findIndex((stage) => stage.$unwind && stage.$unwind.path === '$info.metrics');
    stages.splice(
      at, 1,
      { $addFields: { __id: { $toObjectId: '$info.metrics.id' } } },
      { $lookup: { from: 'metrics', localField: '__id', foreignField: '_id', as: 'metrics' } },
      { $project: { __id: 0 } },
    );
    if (unwind >= 0) {
      const wanted = { $filter: { input: '$info.metrics', as: 'metric', cond: { $in: ['$$metric.name', names] } } };
      stages.splice(unwind, 0, { $addFields: { 'info.metrics': wanted } });
    }
  }
  return exec.apply(this, rest);
};
