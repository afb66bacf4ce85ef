// An agent in node that uses its mounted tree and nothing else: it reads the texts of a folder, writes to
// state/report.json how often which word comes, and notes in mem/episodic what it did. SIGTERM lets it finish the text
// that it is on. At the end it tries something that its policy may forbid, and reads why.
//
//   agentctl run --bind-ro examples/node_agent.js:/opt/agent.js --bind-ro /usr/share/common-licenses:/texts \
//       --deny MKDIR:/state/folder -- node /opt/agent.js /texts
"use strict";
const fs = require("node:fs");
const path = require("node:path");

const TREE = process.env.AGENTIX_TREE || "/agent/self";
const inTree = (...names) => path.join(TREE, ...names);
let stopping = false;

// A file of lines "Key:\tvalue", as an object.
function table(name) {
  const lines = fs.readFileSync(inTree(name), "utf8").trimEnd().split("\n");
  return Object.fromEntries(lines.map((line) => line.split(":\t", 2)));
}

function remember(what) {
  fs.appendFileSync(inTree("mem/episodic/log"), `${new Date().toISOString()} ${what}\n`);
}

// Under another name first: nobody reads half a report.
function publish(name, value) {
  fs.writeFileSync(inTree("state", `.${name}`), JSON.stringify(value, null, 2) + "\n");
  fs.renameSync(inTree("state", `.${name}`), inTree("state", name));
}

function texts(folder) {
  const entries = fs.readdirSync(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => path.join(folder, entry.name)).sort();
}

function count(words, file) {
  for (const [word] of fs.readFileSync(file, "utf8").toLowerCase().matchAll(/\p{L}{4,}/gu)) {
    words.set(word, (words.get(word) || 0) + 1);
  }
}

function tryForbidden() {
  try {
    fs.mkdirSync(inTree("state", "folder"));
  } catch (error) {
    console.log(`${error.code}: ${fs.readFileSync(inTree("policy/last-denial"), "utf8").split("\n")[0]}`);
  }
}

async function main(folder) {
  const me = table("proc/status");
  const words = new Map();
  let read = 0;
  console.log(`agent ${me.Id} reads ${folder} with at most ${table("proc/limits").MemoryBytes} bytes of memory`);
  for (const file of texts(folder)) {
    if (stopping) break;
    count(words, file);
    read += 1;
    remember(`read ${file}`);
    await new Promise(setImmediate); // a signal's handler runs here
  }
  const top = [...words].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1)).slice(0, 20);
  publish("report.json", { texts: read, different: words.size, top: Object.fromEntries(top) });
  console.log(`${read} texts, ${words.size} different words; the report is state/report.json`);
  tryForbidden();
}

process.on("SIGTERM", () => {
  stopping = true;
});
main(process.argv[2]);
