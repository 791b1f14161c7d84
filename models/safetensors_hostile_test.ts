/** Files that must be refused: by hand, one a rule, and by mutation. The rules: `safetensors_header.ts`. */
import assert from "node:assert/strict";
import { type ByteSource, openSafetensors } from "./safetensors.ts";
import { memorySource } from "./safetensors_memory.ts";

const FILE = "model.safetensors";
const encoder = new TextEncoder();

function fileOf(header: string | Uint8Array, dataBytes = 0, length?: bigint): Uint8Array {
  const text = typeof header === "string" ? encoder.encode(header) : header;
  const file = new Uint8Array(8 + text.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  file.set(text, 8);
  return file;
}

const open = (file: Uint8Array) => openSafetensors(memorySource(FILE, file));

async function refusal(file: Uint8Array): Promise<string> {
  const error = await open(file).then(() => undefined, (error) => error);
  assert.equal(error?.constructor, SyntaxError, String(error));
  return error.message;
}

const x = (fields: string) => `{"x":{${fields}}}`;
const one = (shape: string, offsets: string, dtype = '"F32"') =>
  x(`"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}`);
const named = (name: string) => `{${name}:{"dtype":"U8","shape":[],"data_offsets":[0,1]}}`;
const two = (a: string, b: string) =>
  `{"a":{"dtype":"U8","shape":[4],"data_offsets":${a}},"b":{"dtype":"U8","shape":[4],"data_offsets":${b}}}`;
const metadata = (object: string) => `{"__metadata__":${object}}`;

const GOOD = one("[2]", "[0,8]");

/** What it is, the file, and what the message must say. */
const HOSTILE: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ["an empty file", new Uint8Array(0), /at least 8 bytes: got 0/],
  ["a file of 7 bytes", new Uint8Array(7), /at least 8 bytes: got 7/],
  ["a header of length 0", fileOf("", 8), /1 to 8 bytes .*: got 0/],
  ["a header longer than the file", fileOf(GOOD, 8, 1000n), /the file's length\): got 1000/],
  ["a header length of 2^64 - 1", fileOf(GOOD, 8, 2n ** 64n - 1n), /got 18446744073709551615/],
  ["a header over 8 MiB", fileOf(" ".repeat(2 ** 23 + 1)), /1 to 8388608 bytes .*: got 8388609/],
  ["bytes that are not UTF-8", fileOf(new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d])), /must be UTF-8/],
  ["a surrogate in UTF-8", fileOf(new Uint8Array([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22])), /must be UTF-8/],
  ["an overlong UTF-8 sequence", fileOf(new Uint8Array([0x7b, 0xc0, 0xa2, 0x7d])), /must be UTF-8/],
  ["a byte order mark", fileOf("\ufeff" + GOOD, 8), /must begin with \{/],
  ["a leading space", fileOf(" " + GOOD, 8), /must begin with \{: got " \{/],
  ["an array", fileOf("[]"), /must begin with \{: got "\[\]"/],
  ["a header cut off", fileOf(GOOD.slice(0, -1), 8), /expected \} of the header: got the end/],
  ["a string cut off", fileOf('{"x'), /a closed string .*: got the end/],
  ["a NUL behind the brace", fileOf(GOOD + "\0", 8), /only spaces .*\\u0000.* at character/],
  ["a newline behind the brace", fileOf(GOOD + "\n", 8), /only spaces/],
  ["a second object", fileOf(GOOD + "{}", 8), /only spaces/],
  ["a comma before the brace", fileOf(GOOD.slice(0, -1) + ",}", 8), /a key of the header/],
  ["a comment", fileOf("{/**/}"), /expected " of a key of the header/],
  ["no colon", fileOf('{"x" {}}'), /expected : of the header after "x"/],
  ["a key without quotes", fileOf("{x:{}}"), /expected " of a key/],
  ["a tensor twice", fileOf(GOOD.slice(0, -1) + "," + GOOD.slice(1), 8), /must not repeat a key: got "x" twice/],
  [
    "a tensor twice, once escaped",
    fileOf(GOOD.slice(0, -1) + "," + GOOD.slice(1).replace("x", "\\u0078"), 8),
    /repeat a key/,
  ],
  ["a field twice", fileOf(x('"dtype":"F32","dtype":"F32"')), /tensor "x" must not repeat a key: got "dtype"/],
  ["a metadata key twice", fileOf(metadata('{"a":"b","a":"b"}')), /__metadata__ must not repeat a key/],
  ["metadata twice", fileOf('{"__metadata__":{},"__metadata__":{}}'), /must not repeat a key/],
  ["an unknown field", fileOf(x('"dtype":"F32","strides":[1]')), /only dtype, shape and data_offsets: got "strides"/],
  ["no dtype", fileOf(x('"shape":[],"data_offsets":[0,4]'), 4), /got no dtype/],
  ["no shape", fileOf(x('"dtype":"F32","data_offsets":[0,4]'), 4), /got no shape/],
  ["no fields", fileOf('{"x":{}}'), /got no dtype, no shape, no data_offsets/],
  ["a tensor that is null", fileOf('{"x":null}'), /expected \{ of tensor "x": got "null/],
  ["a tensor that is an array", fileOf('{"x":[]}'), /expected \{ of tensor "x"/],
  ["an unknown dtype", fileOf(one("[2]", "[0,8]", '"F31"'), 8), /dtype of tensor "x" must be one of .*: got "F31"/],
  ["a dtype in small letters", fileOf(one("[2]", "[0,8]", '"f32"'), 8), /got "f32"/],
  ["a dtype that objects inherit", fileOf(one("[2]", "[0,8]", '"toString"'), 8), /got "toString"/],
  ["a dtype that is a number", fileOf(one("[2]", "[0,8]", "32"), 8), /expected " of dtype/],
  ["a shape that is a number", fileOf(one("2", "[0,8]"), 8), /expected \[ of shape/],
  ["a shape that is null", fileOf(one("null", "[0,8]"), 8), /expected \[ of shape/],
  ["a negative size", fileOf(one("[-2]", "[0,8]"), 8), /shape of tensor "x", entry 0, must be a plain .*: got "-2"/],
  ["a size of -0", fileOf(one("[-0]", "[0,0]")), /got "-0"/],
  ["a fraction", fileOf(one("[2.0]", "[0,8]"), 8), /got "2.0"/],
  ["an exponent", fileOf(one("[2e0]", "[0,8]"), 8), /got "2e0"/],
  ["a leading zero", fileOf(one("[02]", "[0,8]"), 8), /got "02"/],
  ["a leading plus", fileOf(one("[+2]", "[0,8]"), 8), /got "\+2"/],
  ["a hexadecimal size", fileOf(one("[0x2]", "[0,8]"), 8), /got "0x2"/],
  ["a size that is NaN", fileOf(one("[NaN]", "[0,8]"), 8), /got "NaN"/],
  ["a size that is text", fileOf(one('["2"]', "[0,8]"), 8), /plain whole number/],
  ["a nested shape", fileOf(one("[[2]]", "[0,8]"), 8), /plain whole number .*: got "\[2/],
  ["a size of 2^53", fileOf(one("[9007199254740992]", "[0,8]"), 8), /got "9007199254740992"/],
  ["a size of 400 digits", fileOf(one(`[${"9".repeat(400)}]`, "[0,8]"), 8), /got "9{80}\.\.\."$/],
  ["nine axes", fileOf(one("[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), /at most 8 numbers/],
  ["a shape that overflows to 0", fileOf(one("[4294967296,4294967296,0]", "[0,0]")), /smaller than 2\^53 bytes/],
  ["a shape whose bytes overflow", fileOf(one("[9007199254740991]", "[0,8]"), 8), /smaller than 2\^53 bytes/],
  ["a shape that wraps around 2^64", fileOf(one("[4294967296,4294967296]", "[0,0]")), /smaller than 2\^53 bytes/],
  ["offsets too short", fileOf(one("[2]", "[0,7]"), 7), /must span the 8 bytes of f32\[2\]: got \[0, 7\]/],
  ["offsets too long", fileOf(one("[2]", "[0,9]"), 9), /must span the 8 bytes/],
  ["offsets reversed", fileOf(one("[2]", "[8,0]"), 8), /must span the 8 bytes .*: got \[8, 0\]/],
  ["one offset", fileOf(one("[2]", "[0]"), 8), /must be two numbers: got 1/],
  ["three offsets", fileOf(one("[2]", "[0,8,8]"), 8), /at most 2 numbers/],
  ["an offset of 2^60", fileOf(one("[2]", "[1152921504606846976,1152921504606846984]"), 8), /plain whole number/],
  ["a hole before the first", fileOf(one("[2]", "[8,16]"), 16), /begin at byte 0, .*: got 8: a hole/],
  ["a hole between two", fileOf(two("[0,4]", "[5,9]"), 9), /"b" must begin at byte 4, .*: got 5: a hole/],
  ["an overlap", fileOf(two("[0,4]", "[3,7]"), 7), /"b" must begin at byte 4, .*: got 3: an overlap/],
  ["two tensors in one place", fileOf(two("[0,4]", "[0,4]"), 4), /an overlap/],
  [
    "an empty tensor inside another",
    fileOf(one("[2]", "[0,8]").slice(0, -1) + ',"y":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}', 8),
    /an overlap/,
  ],
  ["a byte behind the tensors", fileOf(GOOD, 9), /must fill the file: 8 bytes .*: got 9 bytes/],
  ["a byte too few", fileOf(GOOD, 7), /must fill the file: 8 bytes .*: got 7 bytes/],
  ["data without tensors", fileOf("{}", 1), /must fill the file: 0 bytes .*: got 1 bytes/],
  ["the name __proto__", fileOf(named('"__proto__"'), 1), /must not be named .*: got "__proto__"/],
  ["the name __proto__, escaped", fileOf(named('"\\u005f_proto__"'), 1), /must not be named/],
  ["the name constructor", fileOf(named('"constructor"'), 1), /must not be named/],
  ["the name prototype", fileOf(named('"prototype"'), 1), /must not be named/],
  ["a raw tab in a name", fileOf(named('"a\tb"'), 1), /without control characters/],
  ["an escaped newline in a name", fileOf(named('"a\\nb"'), 1), /no control characters: got "a\\nb"/],
  ["a C1 control in a name", fileOf(named('"a\u0085b"'), 1), /no control characters: got "a\\u\{85\}b"/],
  ["half a surrogate pair", fileOf(named('"\\ud800"'), 1), /valid Unicode/],
  ["a short escape", fileOf(named('"\\u12"'), 1), /only JSON's escapes/],
  ["an escape that JSON does not have", fileOf(named('"\\x41"'), 1), /only JSON's escapes/],
  ["a name of 513 bytes", fileOf(named(`"${"é".repeat(256)}a"`), 1), /at most 512 bytes: got "é{80}\.\.\."$/],
  ["65,537 tensors", fileOf(manyTensors(65_537)), /at most 65536 tensors/],
  ["metadata that is a string", fileOf(metadata('"pt"')), /expected \{ of __metadata__/],
  ["metadata that is null", fileOf(metadata("null")), /expected \{ of __metadata__/],
  ["a metadata value that is a number", fileOf(metadata('{"a":1}')), /expected " of __metadata__ "a": got "1/],
  ["a metadata value that is an object", fileOf(metadata('{"a":{}}')), /expected " of __metadata__ "a"/],
  ["over 1 MiB of metadata", fileOf(metadata(`{"a":"${"b".repeat(2 ** 20)}"}`)), /at most 1048576 bytes/],
  ["deep nesting", fileOf('{"x":'.repeat(100_000)), /must have only dtype|only dtype, shape/],
];

function manyTensors(count: number): string {
  const tensor = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
  return `{${Array.from({ length: count }, (_, i) => `"${i}":${tensor}`).join(",")}}`;
}

for (const [what, file, message] of HOSTILE) {
  Deno.test(`openSafetensors() refuses the file when it is or has ${what}`, async () => {
    const text = await refusal(file);
    assert.match(text, message);
    assert.match(text, /^Cannot read model\.safetensors: [\P{Cc}]+: got [\P{Cc}]+$/u, "one line: file, rule, got");
    assert.ok(text.length < 600, text);
  });
}

/** Unusual, and within every rule. */
const ODD: readonly (readonly [string, Uint8Array])[] = [
  ["no tensors", fileOf("{}")],
  ["white space between tokens", fileOf(GOOD.replaceAll(/([{}:,[\]])/g, "$1 \n\r\t").trimEnd(), 8)],
  ["spaces behind the brace", fileOf(GOOD + "   ", 8)],
  ["fields in another order", fileOf(x('"data_offsets":[0,8],"shape":[2],"dtype":"F32"'), 8)],
  ["a scalar", fileOf(one("[]", "[0,4]"), 4)],
  ["eight axes", fileOf(one("[1,1,1,1,1,1,1,1]", "[0,4]"), 4)],
  ["an empty tensor", fileOf(one("[0,9007199254740991]", "[0,0]"))],
  [
    "an empty tensor between two",
    fileOf(two("[0,4]", "[4,8]").slice(0, -1) + ',"y":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}', 8),
  ],
  ["tensors out of order", fileOf(two("[4,8]", "[0,4]"), 8)],
  ["metadata last", fileOf(GOOD.slice(0, -1) + ',"__metadata__":{"a\\n":"\\u0000"}}', 8)],
  ["a name of 512 bytes", fileOf(named(`"${"é".repeat(256)}"`), 1)],
  ["a name that is a path", fileOf(named('"../../etc/passwd"'), 1)],
  ["an escaped surrogate pair", fileOf(named('"\\ud83d\\ude00"'), 1)],
  ["65,536 tensors", fileOf(manyTensors(65_536))],
];

for (const [what, file] of ODD) {
  Deno.test(`openSafetensors() reads the file when it has ${what}`, async () => void await open(file));
}

Deno.test("openSafetensors() reads only the prefix when the header is refused for its length", async () => {
  const source: ByteSource = {
    name: FILE,
    size: 2 ** 50,
    read(offset, length) {
      assert.deepEqual([offset, length], [0, 8]);
      const prefix = new Uint8Array(8);
      new DataView(prefix.buffer).setBigUint64(0, 2n ** 40n, true);
      return Promise.resolve(prefix);
    },
  };
  await assert.rejects(openSafetensors(source), /1 to 8388608 bytes .*: got 1099511627776/);
});

Deno.test("openSafetensors() refuses the file when the source gives fewer bytes than asked", async () => {
  const file = fileOf(GOOD, 8);
  const source: ByteSource = { name: FILE, size: file.length, read: () => Promise.resolve(file.slice(0, 8)) };
  await assert.rejects(openSafetensors(source), /^SyntaxError: Cannot read model.safetensors: expected \d+ bytes/);
});

Deno.test("openSafetensors() obeys maxHeaderBytes when the caller gives one", async () => {
  const source = memorySource(FILE, fileOf(GOOD, 8));
  await assert.rejects(openSafetensors(source, { maxHeaderBytes: GOOD.length - 1 }), SyntaxError);
  await openSafetensors(source, { maxHeaderBytes: GOOD.length });
});

const MUTANTS = 20_000;
const TOKENS = `{ } [ ] , : " \\ 0 1 -0 1e3 1.0 99999999999999999999 null true "F32" "dtype" "shape" "data_offsets" ` +
  `"__metadata__" "__proto__" \\u0000 \\ud800 {} [] 4 8 \u00e9 \ud83d\ude00`;

Deno.test("openSafetensors() throws SyntaxError alone when a header is mutated", async () => {
  const tokens = TOKENS.split(" ");
  const good = `{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},` +
    `"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"U8","shape":[],"data_offsets":[32,33]}}`;
  const random = randomIntegers(1);
  let read = 0;
  for (let i = 0; i < MUTANTS; i++) {
    let text = encoder.encode(good);
    for (let n = 1 + random(3); n > 0; n--) text = mutate(text, tokens, random);
    try {
      const { tensors } = await open(fileOf(text, 33));
      read++;
      checkAgainstJsonParse(text, tensors);
    } catch (error) {
      assert.equal((error as Error).constructor, SyntaxError, `mutant ${i}: ${error}`);
    }
  }
  assert.ok(read > MUTANTS / 100 && read < MUTANTS / 2, `${read} of ${MUTANTS} were read`);
});

/** What was read must be what `JSON.parse` finds in the same text. */
function checkAgainstJsonParse(text: Uint8Array, tensors: ReadonlyMap<string, object>): void {
  const { __metadata__: _, ...expected } = JSON.parse(new TextDecoder().decode(text));
  const got = [...tensors.values()].map((info) => {
    const { name, begin, end, ...rest } = info as Record<string, unknown>;
    return [name, { ...rest, data_offsets: [begin, end] }];
  });
  assert.deepEqual(Object.fromEntries(got), expected);
}

function mutate(bytes: Uint8Array<ArrayBuffer>, tokens: string[], random: (below: number) => number) {
  const at = random(bytes.length + 1);
  const to = Math.min(bytes.length, at + random(12));
  const splice = (insert: Uint8Array, skip: number) =>
    new Uint8Array([...bytes.subarray(0, at), ...insert, ...bytes.subarray(at + skip)]);
  switch (random(6)) {
    case 0: // another byte
      return splice(new Uint8Array([random(256)]), 1);
    case 1: // one bit
      return splice(new Uint8Array([(bytes[at] ?? 0) ^ (1 << random(8))]), 1);
    case 2: // a piece less
      return splice(new Uint8Array(0), to - at);
    case 3: // a piece twice
      return splice(bytes.slice(at, to), 0);
    case 4: // a token more
      return splice(encoder.encode(tokens[random(tokens.length)]), 0);
    default: // a token over others
      return splice(encoder.encode(tokens[random(tokens.length)]), random(4));
  }
}

/** Whole numbers below a bound: mulberry32. */
function randomIntegers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
