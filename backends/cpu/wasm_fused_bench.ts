/**
 * Fused kernels at the shapes of llama-60m (batch 8, 256 tokens), on all threads. `deno bench -A backends/cpu`. PyTorch's
 * times for the same shapes: attention and crossEntropy, forward and backward together, rmsNorm.
 */
import type { FusedName, Operand } from "../../core/backend.ts";
import { keyOf, normal } from "../../core/random.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { wasmFused } from "./wasm_fused.ts";
import { TestDevice } from "./wasm_testing.ts";
import { wasmUpdates } from "./wasm_updates.ts";

const device = await TestDevice.pool();
const fused = wasmFused(device);
const randn = (shape: Shape, seed = 1) => device.operand(shape, normal(keyOf(seed), sizeOf(shape)));

/** Benches forward, and backward for all f32 inputs. */
function benchFused(name: FusedName, label: string, attributes: object, inputs: () => Operand[]): void {
  let operands: Operand[] | undefined;
  let prepared: { out: Operand; gradient: Operand; residuals: Operand[]; grads: (Operand | undefined)[] };
  // deno-lint-ignore no-explicit-any
  const kernel = fused[name] as any;
  const prepare = () => {
    if (operands) return;
    operands = inputs();
    const out = name === "crossEntropy" ? device.operand([], [0]) : device.operand(operands[0].shape);
    const residuals = (kernel.residuals?.(operands, attributes) ?? []).map(({ shape }: Operand) =>
      device.operand(shape)
    );
    const differentiable = name === "rope" ? 1 : operands.length;
    const grads = operands.map((x, i) => x.dtype === "f32" && i < differentiable ? device.operand(x.shape) : undefined);
    prepared = { out, gradient: randn(out.shape, 9), residuals, grads };
    forward();
  };
  const forward = () => kernel.forward(operands, attributes, prepared.out, prepared.residuals);
  const backward = () =>
    kernel.vjp.run(
      { inputs: operands, out: prepared.out, residuals: prepared.residuals },
      prepared.gradient,
      attributes,
      prepared.grads,
    );
  Deno.bench(`${name} ${label} forward`, (bench) => {
    prepare();
    bench.start();
    forward();
    bench.end();
  });
  Deno.bench(`${name} ${label} backward`, (bench) => {
    prepare();
    bench.start();
    backward();
    bench.end();
  });
}

const causal = { causal: true, scale: 1 / 8 };
for (const [B, T] of [[8, 256], [2, 1024]]) {
  for (const options of [causal, { ...causal, causal: false }]) {
    const label = `[${B}, ${T}, 8, 64]${options.causal ? " causal" : ""}`;
    benchFused("attention", label, options, () => [1, 2, 3].map((seed) => randn([B, T, 8, 64], seed)));
  }
}
for (const V of [4096, 32_000]) {
  benchFused("crossEntropy", `[2048, ${V}]`, { ignoreIndex: -100 }, () => {
    const targets = Array.from({ length: 2048 }, (_, n) => n * 7919 % V);
    return [randn([2048, V]), device.operand([2048], targets, "i32")];
  });
}
benchFused("softmax", "[16384, 256]", {}, () => [randn([16384, 256])]);
benchFused("rmsNorm", "[2048, 512]", { eps: 1e-6 }, () => [randn([2048, 512]), randn([512])]);
benchFused("layerNorm", "[2048, 512]", { eps: 1e-6 }, () => [randn([2048, 512]), randn([512]), randn([512])]);
benchFused("swiglu", "[2048, 1376]", {}, () => [randn([2048, 1376]), randn([2048, 1376], 2)]);
benchFused("silu", "[2048, 1376]", {}, () => [randn([2048, 1376])]);
benchFused("gelu", "[2048, 1376] erf", { approximate: "none" }, () => [randn([2048, 1376])]);
benchFused("gelu", "[2048, 1376] tanh", { approximate: "tanh" }, () => [randn([2048, 1376])]);
benchFused("rope", "[8, 256, 8, 64]", {}, () => [randn([8, 256, 8, 64]), randn([256, 32]), randn([256, 32])]);

const leaf = [1, 2, 3, 4].map((seed) => randn([704_512], seed));
const [grad, mu, nu, param] = leaf;
const adam = { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 3, epsPlacement: "corrected" } as const;
const decay = { learningRate: 1e-3, weightDecay: 0.1, decayPlacement: "before" } as const;
Deno.bench("adam 704512 elements", () => wasmUpdates(device).adam!({ grad, mu, nu, param }, adam, decay));
