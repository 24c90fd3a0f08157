// A small file server for pages that do not come from the server under test.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect } from "node:net";
import { extname, join, normalize } from "node:path";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/**
 * @param {string[]} roots The first that has a file gives it.
 * @param {{ host?: string, headers?: Record<string, string>, upgradesTo?: number }} [options] `upgradesTo`: the
 *   port on this machine that WebSockets are handed on to, as a proxy in front of a server does.
 */
export async function serveFiles(roots, { host = "127.0.0.1", headers = {}, upgradesTo } = {}) {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    const path = normalize(pathname === "/" ? "/index.html" : pathname);
    for (const root of roots) {
      const body = await readFile(join(root, path)).catch(() => null);
      if (body === null) continue;
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream", ...headers });
      return response.end(body);
    }
    response.writeHead(404).end();
  });
  /** The server itself forgets connections that are upgraded, and yet waits for them when it is to close. */
  const upgraded = new Set();
  if (upgradesTo !== undefined) {
    server.on("upgrade", (request, socket, head) => {
      upgraded.add(socket);
      socket.on("close", () => upgraded.delete(socket));
      handOn(request, socket, head, upgradesTo);
    });
  }
  await new Promise((resolve) => server.listen(0, host, resolve));
  return {
    url: `http://${host}:${server.address().port}`,
    close() {
      for (const socket of upgraded) socket.destroy();
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

/**
 * @param {import("node:http").IncomingMessage} request
 * @param {import("node:stream").Duplex} socket
 * @param {Buffer} head
 * @param {number} port
 */
function handOn({ method, url, httpVersion, rawHeaders }, socket, head, port) {
  const onward = connect(port, "127.0.0.1", () => {
    const fields = rawHeaders.map((text, index) => (index % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join("");
    onward.write(`${method} ${url} HTTP/${httpVersion}\r\n${fields}\r\n`);
    onward.write(head);
    socket.pipe(onward).pipe(socket);
  });
  // One's end is the other's.
  onward.on("error", () => {}).on("close", () => socket.destroy());
  socket.on("error", () => {}).on("close", () => onward.destroy());
}
