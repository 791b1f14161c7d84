/** Stored state: what it changes (nothing but bytes), what stays as it is, and what it costs to the byte. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, Tensor } from "../core/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import {
  adafactor,
  adamW,
  bfloat16,
  blockwise8bit,
  type Codec,
  finish,
  flattenState,
  galore,
  type GradientRule,
  identity,
  plain,
  type Rule,
  scaleByAdam,
  type State,
  stateBytes,
  storeAs,
  trace,
} from "./mod.ts";
import { GradientBench } from "./testing/bench.ts";
import { INNER, PARABOLA, store, Training } from "./testing/rules.ts";

const learningRate = 0.05;

const BACKENDS: Readonly<Record<string, () => Backend | Promise<Backend>>> = {
  loops: () => loopsBackend(),
  cpu: () => cpuBackend({ threads: 1, blas: "off" }),
};

const WRAPPED: Readonly<Record<string, (inner: GradientRule) => Rule>> = {
  alone: (inner) => inner,
  "inside galore()": (inner) => galore(inner, { rank: 2, updateProjGap: 4 }),
};

for (const [where, makeBackend] of Object.entries(BACKENDS)) {
  for (const [how, wrap] of Object.entries(WRAPPED)) {
    Deno.test(`storeAs(plain()) gives the bits of the rule that it stores, ${how} on ${where}`, async () => {
      using backend = await makeBackend();
      for (const [name, { make }] of Object.entries(INNER)) {
        for (const minSize of [0, 4096]) {
          using bare = new Training(backend, PARABOLA, wrap(make()), { clip: 1 });
          using stored = new Training(backend, PARABOLA, wrap(storeAs(plain(), make(), { minSize })), { clip: 1 });
          await bare.steps(9);
          await stored.steps(9);
          assert.deepEqual(await stored.weights(), await bare.weights(), `${name}, from ${minSize} elements`);
        }
      }
    });
  }
}

Deno.test("storeAs() passes a whole chain on to its rule where nothing is stored", async () => {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  const options = { learningRate, weightDecay: 0.1 };
  using bare = new Training(backend, PARABOLA, adamW(options));
  using stored = new Training(backend, PARABOLA, finish(storeAs(blockwise8bit(), scaleByAdam()), options));
  await bare.steps(5);
  await stored.steps(5);
  assert.deepEqual(await stored.weights(), await bare.weights());
});

const SHAPES = { small: [63, 65], least: [64, 64], odd: [3, 1367], vector: [5000] } as const;

/** Bytes of each entry of a state by its path. */
async function bytesOf(codec: Codec, inner: () => GradientRule, name: keyof typeof SHAPES) {
  using backend = loopsBackend();
  using bench = new GradientBench(backend, { [name]: SHAPES[name] }, finish(storeAs(codec, inner()), { learningRate }));
  const sizes = () => {
    const entries: [string, string][] = [...flattenState(bench.state(name)).tensors].map((
      [path, tensor],
    ) => [path, `${tensor.dtype}[${tensor.shape}]`]);
    return { entries: Object.fromEntries(entries), bytes: stateBytes(bench.state(name)) };
  };
  const made = sizes();
  await bench.step(bench.gradients(1));
  assert.deepEqual(sizes(), made, "a step keeps every shape");
  const beside = 4 * bench.params.get(name).size;
  assert.equal(backend.memory().inUse - beside, made.bytes, "nothing else is held");
  return made;
}

Deno.test("storeAs() keeps n + 4 bytes a block of 256 or 2048 in 8 bits, and slots below 4,096 in f32", async () => {
  const adam = () => scaleByAdam();
  assert.deepEqual(await bytesOf(blockwise8bit(), adam, "small"), {
    entries: { mu: "f32[63,65]", nu: "f32[63,65]" },
    bytes: 2 * 4 * 4095,
  });
  assert.deepEqual(await bytesOf(blockwise8bit(), adam, "least"), {
    entries: { "mu/codes": "u8[64,64]", "mu/absmax": "f32[16]", "nu/codes": "u8[64,64]", "nu/absmax": "f32[16]" },
    bytes: 2 * (4096 + 4 * 16),
  });
  // 4101 elements in 8 bits take 4104 bytes, as every packed tensor is filled up to words
  assert.deepEqual(await bytesOf(blockwise8bit(), adam, "odd"), {
    entries: { "mu/codes": "u8[3,1367]", "mu/absmax": "f32[17]", "nu/codes": "u8[3,1367]", "nu/absmax": "f32[17]" },
    bytes: 2 * (4104 + 4 * 17),
  });
  assert.deepEqual(await bytesOf(blockwise8bit({ blockSize: 2048 }), () => trace({ decay: 0.9 }), "vector"), {
    entries: { "mu/codes": "u8[5000]", "mu/absmax": "f32[3]" },
    bytes: 5000 + 4 * 3,
  });
  assert.deepEqual(await bytesOf(bfloat16(), adam, "vector"), {
    entries: { "mu/values": "bf16[5000]", "nu/values": "bf16[5000]" },
    bytes: 2 * 2 * 5000,
  });
});

Deno.test("storeAs() stores Adafactor's momentum and leaves its rows and columns", async () => {
  const { entries } = await bytesOf(blockwise8bit(), () => adafactor({ learningRate, beta1: 0.9 }), "least");
  const { row, column, ...rest } = entries;
  assert.deepEqual(rest, { "mu/codes": "u8[64,64]", "mu/absmax": "f32[16]" });
  assert.deepEqual([row, column].map((spec) => spec.slice(0, 3)), ["f32", "f32"]);
});

Deno.test("storeAs() leaves f64 states as they are", () => {
  using backend = loopsBackend();
  const rule = storeAs(blockwise8bit(), scaleByAdam(), { minSize: 0 });
  using bench = new GradientBench(backend, { w: [64, 64] }, rule, { dtype: "f64" });
  const { tensors } = flattenState(bench.state("w"));
  assert.deepEqual([...tensors].map(([path, { dtype }]) => `${path} ${dtype}`), ["mu f64", "nu f64"]);
});

Deno.test("storeAs() refuses a rule that projects: the storage belongs inside it", () => {
  assert.throws(
    () => storeAs(blockwise8bit(), galore(identity(), { rank: 2 })),
    /^TypeError: Cannot store galore in storeAs\(\): wrap the rule inside it instead$/,
  );
});

const isState = (value: State[string]): value is State => typeof value === "object" && !(value instanceof Tensor);

const CODECS: Readonly<Record<string, () => Codec>> = {
  "blockwise8bit()": () => blockwise8bit(),
  "blockwise8bit() stock in 2048": () => blockwise8bit({ blockSize: 2048, rounding: "stock" }),
  "bfloat16()": () => bfloat16(),
  "bfloat16() to the nearest": () => bfloat16({ rounding: "nearest" }),
};

for (const [where, makeBackend] of Object.entries(BACKENDS)) {
  for (const [name, codec] of Object.entries(CODECS)) {
    Deno.test(`storeAs(${name}) under a guard keeps every bit of a step that is not finite out, on ${where}`, async () => {
      using backend = await makeBackend();
      for (const wrap of Object.values(WRAPPED)) {
        await assertNoLeak("a guarded training", backend, async () => {
          const rule = finish(wrap(storeAs(codec(), scaleByAdam(), { minSize: 0 })), { learningRate });
          using bench = new GradientBench(backend, { w: [6, 701], v: [5, 3] }, rule, { guard: true });
          await bench.step(bench.gradients(1));
          const bits = async () => [await bench.weights(), (await store(bench.optimizer.snapshot())).leaves];
          const before = await bits();
          const spoiled = bench.gradients(2);
          spoiled.v[4] = NaN;
          await bench.step(spoiled);
          assert.deepEqual(await bits(), before);
          bench.optimizer.discard();
          await bench.step(bench.gradients(3));
          assert.notDeepEqual(await bits(), before);
        });
      }
    });
  }
}

Deno.test("storeAs() maps first moments alone, in f32, and frees what it decoded", async () => {
  using backend = loopsBackend();
  for (const codec of Object.values(CODECS)) {
    const rule = storeAs(codec(), scaleByAdam(), { minSize: 20 });
    using bench = new GradientBench(backend, { large: [4, 6], small: [3, 5] }, rule);
    await bench.step(bench.gradients(1));
    for (const name of ["large", "small"]) {
      const state = bench.state(name);
      const specs = (of: typeof state) => [...flattenState(of).tensors].map(([path, { dtype }]) => `${path} ${dtype}`);
      const seen: string[] = [];
      const same = rule.mapSigned!(state, (moment: Tensor) => {
        seen.push(`${moment}`);
        return moment;
      }, { name, step: 2 });
      assert.deepEqual(seen, [`f32[${bench.shapes[name].join(", ")}]`]);
      assert.deepEqual(specs(same), specs(state));
      const decoded = (of: typeof state) => isState(of.mu) ? codec().decode(of.mu, "signed") : of.mu as Tensor;
      const values = await Promise.all([same, state].map((of) => decoded(of).read()));
      // a negative absmax is 0.7 % smaller each time, for the signed map has no -1
      assert.ok(rmsError(values[0], values[1]) <= 0.01, `${rmsError(values[0], values[1])}`);
      for (const [path, tensor] of flattenState({ nu: state.nu }).tensors) {
        assert.equal(flattenState(same).tensors.get(path), tensor, "second moments are the same tensors");
      }
      for (const tensor of flattenState(same).tensors.values()) {
        if (!new Set(flattenState(state).tensors.values()).has(tensor)) tensor.dispose();
      }
    }
  }
});
