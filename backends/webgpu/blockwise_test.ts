/** Block-wise 8-bit storage on WebGPU against the conformance tests, and what only this backend can get wrong. */
import assert from "node:assert/strict";
import type { AdamUpdate, BlockwiseOptions } from "../../core/backend.ts";
import { keyOf, normal } from "../../core/random.ts";
import { blockwiseConformance } from "../conformance/blockwise.ts";
import { onBackend, placed, placedBlockwise, readBlockwise, readFloats } from "../conformance/blockwise_operands.ts";
import { adamStep, quantize } from "../conformance/blockwise_reference.ts";
import { webgpuBackend } from "./mod.ts";
import { bothWays, noWebgpu, webgpuTest } from "./testing.ts";

blockwiseConformance("webgpu", () => webgpuBackend(), { device: "webgpu", ignore: noWebgpu });

const UPDATE: AdamUpdate = { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 1, epsPlacement: "corrected" };
const SAFE = { rounding: "safe" } as const;

/** Normal values; the largest of each run of 256 is 16, so that no division is inexact. */
function roundBlocks(size: number): Float32Array<ArrayBuffer> {
  return normal(keyOf(8), size).map((x, i) => i % 256 === 0 ? 16 : x);
}

bothWays("quantizeBlockwise() shares out blocks of any number of 256 elements", async (backend) => {
  for (const [size, blockSize] of [[3072, 512], [3075, 768], [2560, 1024], [9000, 4096], [4096, 4096]]) {
    const x = roundBlocks(size);
    const actual = await onBackend(backend, (own) => {
      const to = placedBlockwise(own, size, blockSize);
      backend.updates.quantizeBlockwise!(placed(own, x), to, "signed", { ...SAFE, blockSize });
      return readBlockwise(own, to);
    });
    assert.deepEqual(actual, quantize(x, "signed", { ...SAFE, blockSize }), `${size} in ${blockSize}`);
  }
});

bothWays("adamBlockwise() finds the largest magnitudes of blocks that a whole workgroup shares", async (backend) => {
  const [size, options] = [5000, { ...SAFE, blockSize: 1024 }];
  const zeros = new Float32Array(size);
  const before = { mu: quantize(zeros, "signed", options), nu: quantize(zeros, "nonnegative", options), param: zeros };
  const gradient = roundBlocks(size);
  const expected = adamStep(before, gradient, { ...UPDATE, ...options }, {
    learningRate: 0,
    weightDecay: 0,
    decayPlacement: "before",
  });
  await onBackend(backend, async (own) => {
    const [mu, nu] = [before.mu, before.nu].map((state) => placedBlockwise(own, size, options.blockSize, state));
    backend.updates.adamBlockwise!({ grad: placed(own, gradient), mu, nu }, { ...UPDATE, ...options });
    assert.deepEqual((await readBlockwise(own, mu)).absmax, expected.mu.absmax);
    assert.deepEqual((await readBlockwise(own, nu)).absmax, expected.nu.absmax);
  });
});

webgpuTest(
  "block-wise kernels throw a RangeError for blocks that lanes cannot share, and codes inside a word",
  async () => {
    using backend = await webgpuBackend();
    const { quantizeBlockwise, dequantizeBlockwise, adamBlockwise } = backend.updates;
    await onBackend(backend, (own) => {
      const x = placed(own, new Float32Array(8));
      const [mu, nu] = [0, 1].map(() => placedBlockwise(own, 8, 256));
      for (const blockSize of [0, 128, 300, 8192]) {
        const options: BlockwiseOptions = { ...SAFE, blockSize };
        assert.throws(() => quantizeBlockwise!(x, mu, "signed", options), RangeError);
        assert.throws(() => dequantizeBlockwise!(mu, x, "signed", blockSize), RangeError);
        assert.throws(() => adamBlockwise!({ grad: x, mu, nu }, { ...UPDATE, ...options }), RangeError);
      }
      const inside = { ...mu, codes: { ...mu.codes, offset: 2 } };
      assert.throws(() => quantizeBlockwise!(x, inside, "signed", { ...SAFE, blockSize: 256 }), /begin with a word/);
    });
  },
);

webgpuTest("quantizeBlockwise() writes 0 to the bytes of its last word that no element has", async () => {
  using backend = await webgpuBackend();
  await onBackend(backend, async (own) => {
    const to = placedBlockwise(own, 258, 256);
    backend.updates.quantizeBlockwise!(placed(own, roundBlocks(258)), to, "signed", { ...SAFE, blockSize: 256 });
    const bytes = await backend.read(to.codes.buffer, 256, 4);
    assert.deepEqual([bytes[0], bytes[2], bytes[3]], [255, 0, 0]);
  });
});

webgpuTest("adamBlockwise() keeps a NaN: the whole block decodes to it, and no other", async () => {
  using backend = await webgpuBackend();
  await onBackend(backend, async (own) => {
    const [size, options] = [1024, { ...SAFE, blockSize: 256 }];
    const zeros = new Float32Array(size);
    const gradient = roundBlocks(size);
    gradient[300] = NaN;
    const mu = placedBlockwise(own, size, 256, quantize(zeros, "signed", options));
    const nu = placedBlockwise(own, size, 256, quantize(zeros, "nonnegative", options));
    backend.updates.adamBlockwise!({ grad: placed(own, gradient), mu, nu }, { ...UPDATE, ...options });
    for (const [moment, kind] of [[mu, "signed"], [nu, "nonnegative"]] as const) {
      const out = placed(own, zeros);
      backend.updates.dequantizeBlockwise!(moment, out, kind, 256);
      (await readFloats(own, out)).forEach((x, i) =>
        assert.equal(Number.isNaN(x), i >= 256 && i < 512, `${kind} ${i}: ${x}`)
      );
    }
  });
});

webgpuTest("adamBlockwise() is one dispatch over 16 bytes an element, and takes no memory", async () => {
  using backend = await webgpuBackend();
  await onBackend(backend, async (own) => {
    const [size, options] = [4096, { ...SAFE, blockSize: 2048 }];
    const zeros = new Float32Array(size);
    const mu = placedBlockwise(own, size, 2048, quantize(zeros, "signed", options));
    const nu = placedBlockwise(own, size, 2048, quantize(zeros, "nonnegative", options));
    const [grad, param] = [placed(own, zeros), placed(own, zeros)];
    const [memory, before] = [backend.memory(), backend.counters()];
    backend.updates.adamBlockwise!({ grad, mu, nu, param }, { ...UPDATE, ...options }, {
      learningRate: 0.1,
      weightDecay: 0,
      decayPlacement: "before",
    });
    const after = backend.counters();
    assert.equal(after.dispatches - before.dispatches, 1);
    assert.equal(after.workBytes - before.workBytes, 16 * size + 4 * 4 * (size / 2048));
    const { inUse, peak, live } = backend.memory();
    assert.deepEqual({ inUse, peak, live }, { inUse: memory.inUse, peak: memory.peak, live: memory.live });
    assert.deepEqual(await readFloats(own, param), zeros);
  });
});
