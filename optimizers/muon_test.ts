/** Muon by hand: the iteration on diagonals, its singular values, momentum, scaling, and what it refuses. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { fromArray, Params, scope, type Shape, svd } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { adamWPreset, type MuonOptions, muonPreset, Optimizer, scaleByMuon } from "./mod.ts";
import { numbers } from "./testing/rules.ts";

/** The directions of Muon for gradients that follow one another. */
function directions(
  options: MuonOptions,
  shape: Shape,
  gradients: readonly ArrayLike<number>[],
  dtype: "f32" | "f64" = "f64",
): number[][] {
  using backend = loopsBackend();
  using _ = scope("directions");
  const rule = scaleByMuon(options);
  let state = rule.init({ name: "w", backend, shape, dtype, index: 0, count: 1 });
  return gradients.map((values, i) => {
    const gradient = fromArray(backend, Float64Array.from(values), shape, dtype);
    const context = { name: "w", shape, step: i + 1, learningRate: 1, donated: true, paramRms: () => gradient };
    const [direction, next] = rule.update(gradient, state, context);
    state = next;
    return [...direction.readSync()];
  });
}

/** What the iteration makes of one singular value. */
function quintic(x: number, iterations = 5): number {
  for (let i = 0; i < iterations; i++) x = 3.4445 * x - 4.775 * x ** 3 + 2.0315 * x ** 5;
  return x;
}

function assertNear(actual: readonly number[], expected: readonly number[], tolerance = 1e-12): void {
  assert.equal(actual.length, expected.length);
  actual.forEach((x, i) => assert.ok(Math.abs(x - expected[i]) <= tolerance, `${actual} is not ${expected}`));
}

Deno.test("scaleByMuon() iterates on each singular value over the Frobenius norm", () => {
  const [diagonal] = directions({}, [2, 2], [[3, 0, 0, -4]]);
  assertNear(diagonal, [quintic(0.6), 0, 0, -quintic(0.8)]);
  const [once] = directions({ iterations: 1 }, [2, 2], [[3, 0, 0, -4]]);
  assertNear(once, [quintic(0.6, 1), 0, 0, -quintic(0.8, 1)]);
  // of rank one: 5 times a pair of unit vectors
  const [single] = directions({}, [2, 2], [[3, 0, 4, 0]]);
  assertNear(single, [0.6 * quintic(1), 0, 0.8 * quintic(1), 0]);
});

Deno.test("scaleByMuon() works on the smaller side and scales tall matrices, or to AdamW's RMS", () => {
  const wide = [3, 0, 0, 0, 4, 0];
  const tall = [3, 0, 0, 4, 0, 0];
  const unscaled = [quintic(0.6), 0, 0, 0, quintic(0.8), 0];
  const transposed = [quintic(0.6), 0, 0, quintic(0.8), 0, 0];
  const times = (values: number[], factor: number) => values.map((x) => x * factor);
  assertNear((directions({}, [2, 3], [wide]))[0], unscaled);
  assertNear((directions({}, [3, 2], [tall]))[0], times(transposed, Math.sqrt(1.5)));
  assertNear((directions({ scale: "rms" }, [2, 3], [wide]))[0], times(unscaled, 0.2 * Math.sqrt(3)));
  assertNear((directions({ scale: "rms" }, [3, 2], [tall]))[0], times(transposed, 0.2 * Math.sqrt(3)));
});

for (const shape of [[8, 24], [24, 8]]) {
  for (const dtype of ["f32", "f64"] as const) {
    Deno.test(`scaleByMuon() brings singular values near one along U V^T of a random [${shape}] in ${dtype}`, () => {
      const [rows, columns] = shape;
      const gradient = numbers("muon", rows * columns);
      const [direction] = directions({}, shape, [gradient], dtype);
      const scale = Math.sqrt(Math.max(1, rows / columns));
      const unscaled = direction.map((x) => x / scale);
      const { values } = svd(unscaled, rows, columns);
      assert.ok(values.every((x: number) => x > 0.6 && x < 1.3), `singular values ${values}`);
      const { left, right } = svd(gradient, rows, columns);
      const rank = Math.min(rows, columns);
      let dot = 0;
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < columns; j++) {
          for (let k = 0; k < rank; k++) dot += unscaled[i * columns + j] * left[i * rank + k] * right[j * rank + k];
        }
      }
      const cosine = dot / Math.sqrt(rank) / Math.hypot(...unscaled);
      assert.ok(cosine > 0.98, `the cosine with U V^T is ${cosine}`);
    });
  }
}

Deno.test("scaleByMuon() averages gradients, and looks ahead with nesterov", () => {
  const gradients = [[1, 0, 0, 0.5], [-0.2, 0, 0, 0.8]];
  const [beta, rest] = [0.75, 0.25];
  const mu = [1, 0.5].map((first, i) => beta * rest * first + rest * gradients[1][3 * i]);
  const ahead = mu.map((x, i) => beta * x + rest * gradients[1][3 * i]);
  for (const [nesterov, diagonal] of [[false, mu], [true, ahead]] as const) {
    const norm = Math.hypot(...diagonal);
    const [, second] = directions({ momentum: beta, nesterov }, [2, 2], gradients);
    assertNear(second, [quintic(diagonal[0] / norm), 0, 0, quintic(diagonal[1] / norm)]);
  }
});

Deno.test("scaleByMuon() does not care for the size of an f32 gradient, and leaves zeros", () => {
  const [usual] = directions({}, [2, 3], [[1, 2, 3, -4, 5, 6]], "f32");
  for (const size of [1e-30, 1e-10, 1e30]) {
    const [direction] = directions({}, [2, 3], [[1, 2, 3, -4, 5, 6].map((x) => x * size)], "f32");
    assertNear(direction, usual, 1e-5);
  }
  assert.deepEqual((directions({}, [2, 3], [Array(6).fill(0)], "f32"))[0], Array(6).fill(0));
});

Deno.test("scaleByMuon() refuses what is no matrix", () => {
  using backend = loopsBackend();
  using params = new Params(backend);
  params.set("bias", fromArray(backend, [1, 2], [2]));
  assert.throws(() => new Optimizer(params, scaleByMuon()), {
    name: "TypeError",
    message: 'Cannot orthogonalise "bias": expected a matrix, got f32[2]',
  });
  assert.throws(() => scaleByMuon({ iterations: 0 }), { name: "RangeError", message: /in 0 iterations/ });
});

Deno.test("muonPreset() gives hidden matrices to Muon, the rest to AdamW, and leaves no memory behind", async () => {
  using backend = loopsBackend();
  const start: Record<string, Shape> = { "up_proj.weight": [6, 3], "embed.weight": [4, 3], "norm.weight": [3] };
  const size = (shape: Shape) => shape.reduce((a, b) => a * b);
  const run = async (rule: ConstructorParameters<typeof Optimizer>[1]) => {
    using params = new Params(backend);
    for (const [name, shape] of Object.entries(start)) {
      params.set(name, fromArray(backend, numbers(name, size(shape)), shape));
    }
    using optimizer = new Optimizer(params, rule);
    for (let step = 0; step < 3; step++) {
      for (const [name, shape] of Object.entries(start)) {
        using gradient = fromArray(backend, numbers(`${name} ${step}`, size(shape)), shape);
        optimizer.stage(name, gradient);
      }
      optimizer.commit();
    }
    return Object.fromEntries(
      await Promise.all(params.names().map(async (name) => [name, await params.get(name).read()] as const)),
    );
  };
  const decay = { weightDecay: 0.1 };
  await assertNoLeak("a training", backend, async () => {
    const muon = await run(muonPreset({ learningRate: 0.02, adamLearningRate: 0.003, hidden: /proj/, ...decay }));
    const adam = await run(adamWPreset({ learningRate: 0.003, ...decay }));
    assert.deepEqual(muon["embed.weight"], adam["embed.weight"]);
    assert.deepEqual(muon["norm.weight"], adam["norm.weight"]);
    const expected = await run(muonPreset({ learningRate: 0.02, hidden: /proj/, scale: "rms", ...decay }));
    assert.deepEqual(muon["up_proj.weight"], expected["up_proj.weight"]);
    assert.notDeepEqual(expected["embed.weight"], adam["embed.weight"]);
  });
});
