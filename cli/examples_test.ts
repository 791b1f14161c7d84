/** The example programs run as their heads say, with those permissions and no more. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../", import.meta.url);
const FOLDER = new URL("examples/", import.meta.url);

/** What each program must print. */
const EXPECTED: Readonly<Record<string, RegExp>> = {
  "fit_line.ts": /^y = (2\.9|3\.0)\d x \+ -(0\.9|1\.0)\d /m,
  "custom_rule.ts": /^loss \d\.\d{3} -> 0\.0\d{3} with GaLore over a rule of one's own$/m,
  "ratings.ts": /^person,film,rating\nperson 01,film 08,2\.99\n/,
  "tiny_llama.ts": /^step 120 {2}loss 0\.\d{3}\nA gradient of low rank carries what the weights need to learn/m,
};

for (const [name, expected] of Object.entries(EXPECTED)) {
  Deno.test(`${name} does what its head says`, async () => {
    const head = await Deno.readTextFile(new URL(name, FOLDER));
    const [, flags] = new RegExp(`^ \\*     deno run (.*)cli/examples/${name}$`, "m").exec(head) ?? [];
    assert.notEqual(flags, undefined, "its head has no command");
    const args = ["run", "--no-prompt", ...flags.trim().split(" ").filter(Boolean), `cli/examples/${name}`];
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: fileURLToPath(ROOT) })
      .output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.match(new TextDecoder().decode(stdout), expected);
  });
}

Deno.test("every example has a test", async () => {
  const names = await Array.fromAsync(Deno.readDir(FOLDER), ({ name }) => name);
  // the folder has its test in browser_test.ts, the conversations theirs in sft_test.ts, the ratings in complete_test.ts
  assert.deepEqual(names.sort(), ["browser", "chat.jsonl", "ratings.csv", ...Object.keys(EXPECTED)].sort());
});
