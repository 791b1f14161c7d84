/** Masking for the masked-LM objective: shares, places, what is drawn, and what is refused. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { backward, foldIn, fromArray, keyOf, scope } from "../core/mod.ts";
import { type MaskingOptions, maskTokens } from "./masked_lm.ts";
import { initRoberta, robertaLoss } from "./roberta.ts";
import { makeRobertaConfig } from "./roberta_config.ts";

const SPECIAL = [0, 1, 2, 3, 99];
const OPTIONS: MaskingOptions = { key: keyOf(1), maskId: 99, vocab: 100, specialIds: SPECIAL };

/** 200,000 tokens, a tenth of them special. */
const TOKENS = Int32Array.from({ length: 200_000 }, (_, i) => i % 10 === 0 ? SPECIAL[(i / 10) % 4] : 4 + (i * 31) % 95);

/** Asserts that `count` of `total` is a share `rate`, within five standard deviations of chance. */
function assertShare(what: string, count: number, total: number, rate: number): void {
  const deviations = (count - rate * total) / Math.sqrt(total * rate * (1 - rate));
  assert.ok(Math.abs(deviations) < 5, `${what}: ${count} of ${total}, ${deviations} standard deviations off ${rate}`);
}

for (const rate of [0.15, 0.4]) {
  Deno.test(`maskTokens() hides ${rate} of the tokens: 80 % behind the mask, 10 % at random, 10 % in sight`, () => {
    const { tokens, targets } = maskTokens(TOKENS, { ...OPTIONS, rate });
    const drawn = new Float64Array(100);
    let [counted, masked, random, kept] = [0, 0, 0, 0];
    for (let i = 0; i < TOKENS.length; i++) {
      if (targets[i] === -100) {
        assert.equal(tokens[i], TOKENS[i]);
        continue;
      }
      assert.equal(targets[i], TOKENS[i]);
      assert.ok(!SPECIAL.includes(targets[i]), `${targets[i]} is special`);
      counted++;
      if (tokens[i] === 99) masked++;
      else if (tokens[i] === TOKENS[i]) kept++;
      else random++;
      if (tokens[i] !== 99 && tokens[i] !== TOKENS[i]) drawn[tokens[i]]++;
    }
    assertShare("counted", counted, TOKENS.length * 0.9, rate);
    assertShare("masked", masked, counted, 0.8);
    // one in 95 random tokens is the one that was there
    assertShare("random", random, counted, 0.1 * 94 / 95);
    assertShare("kept", kept, counted, 0.1 + 0.1 / 95);
    for (const id of SPECIAL) assert.equal(drawn[id], 0, `token ${id} was drawn`);
    const expected = random / 95;
    const chi = drawn.reduce(
      (sum, count, id) => SPECIAL.includes(id) ? sum : sum + (count - expected) ** 2 / expected,
      0,
    );
    // chi-square of 94 degrees of freedom: mean 94, standard deviation 13.7
    assert.ok(chi > 30 && chi < 162, `${chi} for tokens drawn evenly`);
  });
}

Deno.test("maskTokens() hides neighbours independently of each other, and every place alike", () => {
  const { targets } = maskTokens(new Int32Array(100_000).fill(50), OPTIONS);
  const hidden = (i: number) => targets[i] === -100 ? 0 : 1;
  for (const apart of [1, 2, 64]) {
    let both = 0;
    for (let i = apart; i < targets.length; i++) both += hidden(i) * hidden(i - apart);
    assertShare(`both of two ${apart} apart`, both, targets.length - apart, 0.15 ** 2);
  }
  const quarters = [0, 1, 2, 3].map((quarter) => targets.subarray(quarter * 25_000, (quarter + 1) * 25_000));
  for (const part of quarters) assertShare("a quarter", part.filter((id) => id !== -100).length, 25_000, 0.15);
});

Deno.test("maskTokens() is a function of its key, and leaves its input as it is", () => {
  const before = TOKENS.slice();
  const first = maskTokens(TOKENS, OPTIONS);
  assert.deepEqual(maskTokens(TOKENS, OPTIONS), first);
  assert.notDeepEqual(maskTokens(TOKENS, { ...OPTIONS, key: foldIn(keyOf(1), 1) }).targets, first.targets);
  assert.deepEqual(TOKENS, before);
});

Deno.test("maskTokens() hides nothing at rate 0, everything at rate 1, and never what is special", () => {
  const tokens = Int32Array.of(0, 7, 8, 2, 1, 1);
  assert.deepEqual(maskTokens(tokens, { ...OPTIONS, rate: 0 }), { tokens, targets: new Int32Array(6).fill(-100) });
  assert.deepEqual(maskTokens(tokens, { ...OPTIONS, rate: 1 }).targets, Int32Array.of(-100, 7, 8, -100, -100, -100));
  // the mask is special though it is not named
  const { targets } = maskTokens(new Int32Array(50).fill(99), { ...OPTIONS, specialIds: [], rate: 1 });
  assert.deepEqual(targets, new Int32Array(50).fill(-100));
});

Deno.test("maskTokens() refuses a rate that is no share, and a vocabulary of special tokens", () => {
  for (const rate of [-0.1, 1.5, NaN]) {
    assert.throws(() => maskTokens(TOKENS, { ...OPTIONS, rate }), {
      name: "RangeError",
      message: `Cannot mask tokens: the rate must be in [0, 1]: got ${rate}`,
    });
  }
  assert.throws(
    () => maskTokens(Int32Array.of(0), { ...OPTIONS, vocab: 3 }),
    /^RangeError: Cannot mask tokens: all 3 of them are special$/,
  );
});

Deno.test("robertaLoss() at the places that are hidden is the loss everywhere, gradients included", () => {
  using _all = scope("test");
  const sizes = { vocab_size: 20, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2 };
  const config = makeRobertaConfig(sizes, { max_position_embeddings: 12, initializer_range: 0.3 });
  const backend = loopsBackend();
  using params = initRoberta(backend, config, { seed: 3, head: "masked-lm" });
  const tokens = fromArray(backend, Int32Array.from({ length: 20 }, (_, i) => 4 + (i * 7) % 16), [2, 10]);
  const hidden = new Map([[1, 5], [2, 9], [17, 4]]);
  const everywhere = Int32Array.from({ length: 20 }, (_, place) => hidden.get(place) ?? -100);
  const run = (options: Pick<Parameters<typeof robertaLoss>[3], "targets" | "places">) => {
    const dropoutKey = keyOf(5);
    const loss = robertaLoss(params, config, { tokens }, { head: "masked-lm", dropoutKey, ...options });
    const gradients = new Map<string, number[]>();
    backward(loss, (name, gradient) => void gradients.set(name, [...gradient.readSync()]));
    return { loss: loss.readSync()[0], gradients };
  };
  const full = run({ targets: fromArray(backend, everywhere, [2, 10]) });
  const picked = run({
    targets: fromArray(backend, Int32Array.of(...hidden.values(), -100), [4]),
    places: fromArray(backend, Int32Array.of(...hidden.keys(), 0), [4]),
  });
  assert.ok(Math.abs(full.loss - picked.loss) < 1e-6);
  assert.deepEqual([...picked.gradients.keys()].sort(), params.names().sort());
  for (const [name, values] of full.gradients) {
    const other = picked.gradients.get(name)!;
    assert.ok(values.every((value, i) => Math.abs(value - other[i]) < 1e-6), name);
  }
});
