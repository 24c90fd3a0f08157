// Runs the browser tests in a network of their own: a namespace with a loopback and one address
// beside it. Firefox never gathers 127.0.0.1, so without that address it could reach no server, and
// without a default route it does not know which address is its own. No test can reach, or be
// reached by, anything else on the machine. The interfaces get no IPv6 address of their own accord:
// it would become usable a second or two later, and a Chromium that is just loading its page then
// drops what it asked for (ERR_NETWORK_CHANGED).
//
//     node run.js [arguments of node --test]

import { spawn, spawnSync } from "node:child_process";
import { networkInterfaces } from "node:os";
import { fileURLToPath } from "node:url";

const TESTS = ["unit", "sdk", "readme", "demo", "late", "sound-first", "page", "errors", "clients", "codecs", "speakers", "quality", "adapt", "impaired", "uplink", "firefox"].map((name) => `${name}.test.js`);
const SETUP = `
  ip link set lo up
  ip link add eth0 type dummy 2>/dev/null || {
    ip link add eth0 type veth peer name eth1
    ip link set eth1 addrgenmode none
    ip link set eth1 up
  }
  ip link set eth0 addrgenmode none
  ip addr add 10.99.0.1/24 dev eth0
  ip link set eth0 up
  ip route add default via 10.99.0.254
`;
const UNSHARE = process.getuid?.() === 0 ? ["--net"] : ["--map-root-user", "--net"];

const namespace = spawnSync("unshare", [...UNSHARE, "sh", "-ec", SETUP], { encoding: "utf8" });
const given = process.argv.slice(2);
const files = given.some((argument) => argument.endsWith(".js")) ? [] : TESTS;
const test = [process.execPath, "--test", "--test-concurrency=1", ...given, ...files];
const command = namespace.status === 0 ? ["unshare", ...UNSHARE, "sh", "-ec", `${SETUP}\nexec "$@"`, "sh", ...test] : test;
if (namespace.status !== 0) {
  const others = Object.values(networkInterfaces()).flat().filter((each) => each && !each.internal);
  console.error(`No network namespace (${(namespace.stderr ?? String(namespace.error)).trim()}): using the machine's own network.`);
  if (others.length === 0) console.error("It has no address but loopback: the tests with Firefox will fail.");
}
const child = spawn(command[0], command.slice(1), { stdio: "inherit", cwd: fileURLToPath(new URL(".", import.meta.url)) });
child.on("exit", (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
